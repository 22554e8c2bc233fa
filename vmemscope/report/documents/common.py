# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Types that the reports of all audits share.

A report is its document: the same fields under the same names, in the same order. Where
the name differs in JSON, ``field(name=...)`` has it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from ... import __version__
from ...errors import ExitStatus
from ...fields import Address, Bytes, Count, Facts, Name, Text, one_of
from ...rules.findings import Finding, RuleOutcome
from ...rules.rule import Severity
from ...text import count

if TYPE_CHECKING:
    from ...machine import Kernel
    from ...vmemmap.pagemaps import PagemapLayout
    from ...vmemmap.shared_pages import SharedPage

__all__ = (
    "DeviceTails",
    "Document",
    "LeftOut",
    "PagemapName",
    "PagemapType",
    "SharedPages",
    "Summed",
    "TargetInfo",
    "TargetName",
    "TargetReport",
    "Timings",
    "Tool",
)

PagemapType = Annotated[
    Text, one_of("generic", "fsdax", "p2pdma", "private", "coherent", "unknown")
]


class Tool(Facts, frozen=True):
    """The tool that wrote a document."""

    name: Literal["vmemscope"] = "vmemscope"
    version: Name = __version__


class Document(Facts, frozen=True, kw_only=True, tag_field="schema", tag=""):
    """The start of every document: its identifier ``schema``, and the tool."""

    tool: Tool = Tool()


class TargetName(Facts, frozen=True):
    """Which target was audited."""

    kind: Literal["core", "live", "qemu"]
    path: Text
    osrelease: Text
    arch: Name


class TargetInfo(TargetName, frozen=True):
    """The target that was audited."""

    page_size: Bytes
    struct_page_size: Bytes
    #: where types come from; ``program`` if the caller had loaded them
    types: Literal["btf", "dwarf", "program"]

    @classmethod
    def about(cls, kernel: Kernel) -> TargetInfo:
        """Return the description of a kernel's target."""
        return cls.of(
            kernel.target,
            arch=kernel.arch.name,
            page_size=kernel.page_size,
            struct_page_size=kernel.page.size,
            types=kernel.types,
        )


class PagemapName(Facts, frozen=True, kw_only=True):
    """Which pagemap it is."""

    #: virtual address of the ``struct dev_pagemap``
    address: Address
    #: its device; ``None`` if none was found
    name: Text | None

    @property
    def label(self) -> str:
        """Return its name, or the address of its structure."""
        return self.name or f"{self.address:#x}"


class DeviceTails(Facts, frozen=True, kw_only=True):
    """A frame of tail pages that all devices of a node and order share."""

    #: ``None`` if that is not known
    node: Count | None
    #: log2 of the pages in the compound pages
    order: Count
    #: ``None`` if there is none, or it is not known
    pfn: Count | None
    #: names of the pagemaps that map it
    pagemaps: tuple[Text, ...]

    @property
    def place(self) -> str:
        """Return which it is, in words."""
        node = "an unknown node" if self.node is None else f"node {self.node}"
        where = "no frame" if self.pfn is None else f"pfn {self.pfn:#x}"
        return f"shared tail pages, order {self.order} of {node}: {where}"


class SharedPages(Facts, frozen=True, kw_only=True):
    """
    Pages of the vmemmap that describe other memory than a pagemap's, too.

    Each counts once: with System RAM if it describes any, else with the first pagemap by address.
    """

    pages: Count
    #: of these, those that count with the other memory
    elsewhere: Count
    #: names of the other pagemaps, and ``System RAM``
    others: tuple[Text, ...]

    @classmethod
    def summed(cls, layout: PagemapLayout, pages: Iterable[SharedPage]) -> SharedPages | UnsetType:
        """Sum up the pages that a pagemap shares; unset if there are none."""
        several = list(pages)
        if not several:
            return UNSET
        return cls(
            pages=len(several),
            elsewhere=sum(not one.kept_by(layout) for one in several),
            others=tuple(dict.fromkeys(name for one in several for name in one.others(layout))),
        )

    @property
    def sentence(self) -> str:
        """Return what it says, as a predicate without a subject."""
        names = ", ".join(self.others)
        shared = f"shares {count(self.pages, 'page')} of its vmemmap with {names}"
        if not self.elsewhere:
            return shared
        which = "it" if self.pages == 1 else "they" if self.elsewhere == self.pages else ""
        verb = "counts" if self.elsewhere == 1 else "count"
        return f"{shared}; {which or f'{self.elsewhere} of them'} {verb} there"


_T = TypeVar("_T", bound="Timings")


class Timings(Facts, frozen=True, kw_only=True):
    """Seconds per phase of an audit."""

    @classmethod
    def measured(cls: type[_T], timings: Mapping[str, float]) -> _T:
        """Return measured timings, with 0 for the other phases."""
        return cls(**{one: round(timings.get(one, 0.0), 6) for one in cls.__struct_fields__})


class LeftOut(Facts, frozen=True, kw_only=True):
    """The findings that the user asked to leave out."""

    findings: Count = 0
    #: how many, and why, in words
    reasons: tuple[Text, ...] = ()
    #: entries of an ignore file that do not apply any more, in words
    expired: tuple[Text, ...] = ()


class Summed(Facts, frozen=True, kw_only=True):
    """The summary of a report. Its fields here come last in the documents."""

    if TYPE_CHECKING:
        errors: Count
        warnings: Count
        notes: Count
        #: what could not be read, in words
        not_read: tuple[Text, ...]
        left_out: LeftOut

    @property
    def partial(self) -> bool:
        """Return whether part of the target could not be read."""
        return bool(self.not_read)


_R = TypeVar("_R", bound="TargetReport")


class TargetReport(Document, frozen=True, kw_only=True, tag=""):
    """The report of an audit of a target."""

    target: TargetInfo

    if TYPE_CHECKING:

        @property
        def findings(self) -> tuple[Finding, ...]: ...
        @property
        def summary(self) -> Any: ...
        @property
        def timings(self) -> Any: ...

    @property
    def audit(self) -> str:
        """Return the name of the command that makes the report."""
        return str(self.__struct_config__.tag).removeprefix("vmemscope.").partition("/")[0]

    @property
    def status(self) -> ExitStatus:
        """Return the exit status of the command that makes the report."""
        if self.summary.errors:
            return ExitStatus.FINDINGS
        return ExitStatus.PARTIAL if self.partial else ExitStatus.SOUND

    @property
    def not_read(self) -> tuple[str, ...]:
        """Return what could not be read, in words."""
        not_read: tuple[str, ...] = self.summary.not_read
        return not_read

    @property
    def partial(self) -> bool:
        """Return whether part of the target could not be read."""
        return bool(self.not_read)

    def timed(self: _R, timings: Mapping[str, float]) -> _R:
        """Return the report with the seconds that each phase took."""
        return replace(self, timings=self.timings.measured(timings))

    def changed(self: _R, *, not_read: tuple[str, ...] | None = None, **changes: Any) -> _R:
        """
        Return the report with other fields, and the summary updated.

        :param not_read: what could not be read, in words; unchanged if ``None``
        """
        report = replace(self, **changes)
        not_read = report.not_read if not_read is None else not_read
        summary = replace(report.summary, not_read=not_read, **report.sums())
        return replace(report, summary=summary)

    def sums(self) -> dict[str, int]:
        """Return the fields of the summary that follow from the rest of the report."""
        severities = Counter(one.severity for one in self.every_finding())
        return {f"{severity}s": severities[severity] for severity in Severity}

    def every_finding(self) -> Iterable[Finding]:
        """Return all findings, in no order."""
        return self.findings

    def all_outcomes(self) -> Sequence[RuleOutcome]:
        """Return the outcomes of all rules."""
        outcomes: tuple[RuleOutcome, ...] = getattr(self, "outcomes", ())
        return outcomes
