# SPDX-License-Identifier: LGPL-2.1-or-later
"""What looking into the ``struct page``s of a pagemap goes by, and what it found out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ....rules.alignment import HEAD_ALIGNMENT, HeadFacts
from ....rules.page_rows import PageKind
from ....rules.struct_pages import (
    RULES_BY_KIND,
    compound_order,
    page_uninitialised,
    page_zone,
    pgmap_link,
    tail_contents,
)
from .areas import Area, Contents

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ....rules.page_rows import Expected
    from ....rules.page_violations import PageRule, PageViolations
    from ....vmemmap.vmemmap import Vmemmap
    from ..subject import Subject

__all__ = ("ContentsChecked", "Look", "counted")

_SAMPLED = "struct pages that are not in the sample (--contents all has all)"
_UNREAD = "struct pages that are not mapped, or could not be read"
_STRANGERS = "struct pages that are not the device's, or were never initialised"


class ContentsChecked(NamedTuple):
    """How many there are, were looked into, could not be read in full."""

    compounds: int = 0
    compounds_checked: int = 0
    compounds_unreadable: int = 0
    #: base pages: those of pagemaps without compound pages
    base_pages: int = 0
    base_pages_checked: int = 0
    base_pages_unreadable: int = 0


def counted(areas: list[Area], vmemmap: Vmemmap) -> ContentsChecked:
    """Count what there is to be looked into."""
    return ContentsChecked(
        compounds=sum(area.parts for area in areas if area.order),
        base_pages=sum(
            area.end - area.start for area in areas if not area.order and not area.altmap
        ),
    )


class Look:
    """What is gone by, and has been found out, of one pagemap."""

    def __init__(
        self,
        subject: Subject,
        vmemmap: Vmemmap,
        expected: Expected,
        contents: Contents,
        step: Callable[[int], None],
    ) -> None:
        self.subject, self.vmemmap, self.expected = subject, vmemmap, expected
        self.contents, self.step = contents, step
        self.per_page = vmemmap.geometry.page_size // vmemmap.geometry.struct_page_size
        self.plain = min(vmemmap.page.folio_pages, self.per_page - 1)
        self.checked = self.unreadable = self.base_checked = self.base_unreadable = 0
        #: what the pagemap's own pages are
        self.kind = PageKind.COMPOUND if subject.order else PageKind.BASE
        #: rules that were evaluated for anything
        self.asked: set[PageRule] = set()
        #: whether anything could not be read, was left out, or is not the device's
        self.missed = self.sampled = self.strangers = False
        #: whether tail pages hold a mask; ``None`` while none was seen
        self.masked: bool | None = None
        self.heads: list[int] = []

    def own(self, vpage: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell which vpages do not map somebody else's frame."""
        if not self.subject.foreign:
            return np.ones(vpage.shape, dtype=np.bool_)
        own: NDArray[np.bool_] = ~np.isin(vpage, list(self.subject.foreign))
        return own

    def rules_that_apply(self, kind: PageKind) -> tuple[PageRule, ...]:
        """Return the rules about pages of a kind, but for those that do not apply."""
        return tuple(
            rule for rule in RULES_BY_KIND[kind] if rule.why_not(self.expected, kind) is None
        )

    def report(self, violations: PageViolations, checked: Callable[[int], tuple[int, int]]) -> None:
        """Make findings of violations. For the parameters see :meth:`PageViolations.report`."""
        self.strangers |= page_uninitialised in violations or page_zone in violations
        violations.report(self.subject.findings, checked)

    def finish(self, areas: list[Area]) -> ContentsChecked:
        """Record what was checked, and what not."""
        findings = self.subject.findings
        findings.checked(*self.asked)
        for reason, holds in (
            (_UNREAD, self.missed),
            (_SAMPLED, self.sampled),
            (_STRANGERS, self.strangers),
        ):
            if holds:
                findings.skipped(reason, *RULES_BY_KIND[self.kind])
        if self.subject.order:
            for rule in (pgmap_link, compound_order):
                if self.asked and rule not in self.asked and not self.missed:
                    findings.skipped("no struct page that could be read is a head", rule)
            if tail_contents not in self.asked:
                findings.skipped("no tail pages that share a frame", tail_contents)
            facts = HeadFacts(self.subject.pagemap, self.heads, self.masked, self.vmemmap.geometry)
            for one in HEAD_ALIGNMENT:
                findings.check(one, facts)
        return counted(areas, self.vmemmap)._replace(
            compounds_checked=self.checked,
            compounds_unreadable=self.unreadable,
            base_pages_checked=self.base_checked,
            base_pages_unreadable=self.base_unreadable,
        )
