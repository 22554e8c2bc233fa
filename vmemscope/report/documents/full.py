# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The report of ``vmemscope report``, written as ``vmemscope.report/1`` (``docs/report.md``).

It has the documents of the other commands in it, whole. Times are seconds since boot.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from msgspec.structs import replace

from ...fields import Address, Bytes, Count, Facts, Name, Seconds, Text, one_of
from ...rules.findings import Finding
from ...rules.sections import THOUGH_VALID
from .common import LeftOut, Summed, TargetReport, Timings
from .finding import BugReport
from .hugetlb import HugetlbReport
from .memmap import MemmapReport
from .page import PageReport
from .pgmap import Report

__all__ = (
    "Covering",
    "CpuReport",
    "ExplainedPage",
    "FullReport",
    "FullSummary",
    "FullTimings",
    "LogEvent",
    "LogReport",
    "RegisterReport",
    "Sighting",
    "Verdict",
    "each_once",
)


class Verdict(Facts, frozen=True, kw_only=True):
    """The conclusion, in at most ten lines."""

    #: sound; wrong: findings of severity error; warned: of severity warning at most; partial:
    #: nothing wrong in what could be read; trouble: the audits found nothing, the log did
    state: Annotated[Name, one_of("sound", "wrong", "warned", "partial", "trouble")]
    #: the first says what is wrong
    lines: tuple[Text, ...]


class LogEvent(Facts, frozen=True, kw_only=True):
    """What the kernel wrote at one time about one thing."""

    #: number of its first message since boot
    seq: Count
    time: Seconds
    #: T and a pid, or C and a CPU
    caller: Text
    #: bad page, memory failure, page fault, warning, ...
    kind: Name
    #: whether something went wrong
    trouble: bool
    #: its lines, of which some are listed
    lines: tuple[Text, ...]
    lines_left_out: Count
    #: functions of memory management in its trace, the innermost first
    functions: tuple[Text, ...]
    #: page frames that it names, of those in ``pages``
    pages: tuple[Count, ...]


class LogReport(Facts, frozen=True, kw_only=True):
    """The kernel's log, and what of it is about memory."""

    #: messages that were searched, and those before them that the kernel overwrote
    messages: Count
    overwritten: Count
    #: by time
    events: tuple[LogEvent, ...]
    events_left_out: Count
    #: notices of devices, hotplug and HugeTLB that went well, by time
    notices: tuple[LogEvent, ...]
    notices_left_out: Count


class RegisterReport(Facts, frozen=True):
    """A register."""

    name: Name
    value: Address
    #: the page that it leads to, of those in ``pages``; else ``None``
    pfn: Count | None


class CpuReport(Facts, frozen=True, kw_only=True):
    """The CPU that stopped the kernel, by the dump's notes."""

    cpu: Count
    #: of the process that it ran
    pid: int
    registers: tuple[RegisterReport, ...]


class Sighting(Facts, frozen=True):
    """Where a page was named."""

    where: Annotated[Name, one_of("log", "register")]
    #: kind of the event, or name of the register
    what: Text
    #: of the event; ``None`` for a register
    time: Seconds | None
    seq: Count | None


class Covering(Facts, frozen=True, kw_only=True):
    """A finding that is about a page."""

    command: Annotated[Name, one_of("pgmap", "hugetlb", "memmap", "page")]
    #: name of the pagemap or address of its structure; ``None`` if it is of none
    owner: Text | None
    finding: Finding
    #: rules of other audits that are broken by the same, with no finding of their own here
    also: tuple[Name, ...] = ()


class ExplainedPage(Facts, frozen=True, kw_only=True):
    """A page that the log or a register names."""

    pfn: Count
    #: by time, registers last
    seen: tuple[Sighting, ...]
    #: what ``vmemscope page`` reports; ``None`` if it can't
    page: PageReport | None
    #: why it can't; else ``None``
    error: Text | None
    #: findings about the page, or the compound page that it is in
    findings: tuple[Covering, ...]
    #: known bugs of the kernel that the pagemap suffers from
    bugs: tuple[Text, ...]


class FullSummary(Summed, frozen=True, kw_only=True):
    """Findings of all audits, and what could not be read."""

    errors: Count = 0
    warnings: Count = 0
    notes: Count = 0
    #: what could not be read, in words
    not_read: tuple[Text, ...] = ()
    left_out: LeftOut = LeftOut()


class FullTimings(Timings, frozen=True, kw_only=True):
    """Seconds per phase; those of the audits are in their documents."""

    attach: Seconds = 0.0
    types: Seconds = 0.0
    audits: Seconds = 0.0
    log: Seconds = 0.0
    pages: Seconds = 0.0


class FullReport(TargetReport, frozen=True, kw_only=True, tag="vmemscope.report/1"):
    """All audits of a target, and what the kernel said itself."""

    verdict: Verdict
    #: bytes of physical memory in a section
    section_size: Bytes
    log: LogReport
    #: ``None`` if no CPU stopped the kernel, or the dump has no notes
    cpu: CpuReport | None
    #: by time of the first message that names them
    pages: tuple[ExplainedPage, ...]
    pages_left_out: Count
    #: ``None`` if the kernel's types do not suffice for it, which ``not_read`` reports
    pgmap: Report | None
    hugetlb: HugetlbReport | None
    memmap: MemmapReport | None
    summary: FullSummary
    timings: FullTimings = FullTimings()

    @property
    def bugs(self) -> tuple[BugReport, ...]:
        """Known bugs of the kernel that explain findings which are not left out."""
        bugs = (
            *(self.pgmap.bugs if self.pgmap else ()),
            *(self.hugetlb.bugs if self.hugetlb else ()),
        )
        if not self.summary.left_out.findings:
            return bugs
        rules = {one.finding.rule for one in self.covering()}
        return tuple(bug for bug in bugs if any(one.rule in rules for one in bug.symptoms))

    def covering(self) -> tuple[Covering, ...]:
        """Return the findings of all audits, worst first."""
        found = []
        if self.pgmap is not None:
            found += [
                Covering(command="pgmap", owner=one.label if one else None, finding=finding)
                for one, finding in self.pgmap.all_findings()
            ]
        for command, report in (("hugetlb", self.hugetlb), ("memmap", self.memmap)):
            found += [
                Covering(command=command, owner=None, finding=finding)
                for finding in (report.findings if report is not None else ())
            ]
        found = each_once(found)
        known = {(one.finding.rule, one.finding.vaddr) for one in found}
        # Those of pages that the other audits left out of their samples.
        for explained in self.pages:
            page = explained.page
            for finding in page.findings if page is not None else ():
                if (finding.rule, finding.vaddr) not in known:
                    owner = page.place.label if page is not None and page.place else None
                    found.append(Covering(command="page", owner=owner, finding=finding))
        return tuple(sorted(found, key=lambda one: one.finding.severity))

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Findings of all audits, worst first."""
        return tuple(one.finding for one in self.covering())

    def every_finding(self) -> Iterable[Finding]:
        """Return all findings, in no order."""
        return self.findings


def each_once(found: Iterable[Covering]) -> list[Covering]:
    """
    Leave out what the audit of the memory map finds that the audit of pagemaps finds, too.

    Both audits read the same sections, and the same part of the vmemmap. A finding goes only if
    the other has all that it says: a hole that reaches beyond the device is one of its own.
    """
    places: dict[tuple[str, int | None, str], int] = {}
    kept: list[Covering] = []
    for one in found:
        rule, place, message = one.finding.rule, one.finding.vaddr, one.finding.message
        if one.command == "pgmap":
            places.setdefault((rule, place, message), len(kept))
        elif (rule, place, message) in places:
            continue
        elif rule == "section-unmapped" and message.endswith(THOUGH_VALID):
            number = places.get(("hole", place, message.removesuffix(THOUGH_VALID)))
            if number is not None:
                kept[number] = replace(kept[number], also=(rule,))
                continue
        kept.append(one)
    return kept
