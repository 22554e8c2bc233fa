# SPDX-License-Identifier: LGPL-2.1-or-later
"""What looking into the ``struct page``s of a pagemap goes by, and what it found out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ....rules import RULES
from ....rules.alignment import HEAD_ALIGNMENT, HeadFacts
from ....rules.contents import BASE_RULES, COMPOUND_RULES
from .areas import Area, Contents

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ....rules.rule import Rule
    from ....rules.struct_pages import Due
    from ....vmemmap.vmemmap import Vmemmap
    from ..subject import Subject

__all__ = ("ContentsChecked", "Look", "counted", "rules_named")

_SAMPLED = "struct pages that are not in the sample (--contents all has all)"
_UNREAD = "struct pages that are not mapped, or could not be read"
_STRANGERS = "struct pages that are not the device's, or were never initialised"


def rules_named(*names: str) -> tuple[Rule, ...]:
    """Get rules by their names."""
    return tuple(RULES[name] for name in names)


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
        due: Due,
        contents: Contents,
        step: Callable[[int], None],
    ) -> None:
        self.subject, self.vmemmap, self.due = subject, vmemmap, due
        self.contents, self.step = contents, step
        self.per_page = vmemmap.geometry.page_size // vmemmap.geometry.struct_page_size
        self.plain = min(vmemmap.page.folio_pages, self.per_page - 1)
        self.checked = self.unreadable = self.base_checked = self.base_unreadable = 0
        #: rules that were held against anything
        self.asked: set[str] = set()
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

    def finish(self, areas: list[Area]) -> ContentsChecked:
        """Record what was checked, and what not."""
        findings = self.subject.findings
        findings.checked(*rules_named(*(rule for rule in COMPOUND_RULES if rule in self.asked)))
        rules = rules_named(*(COMPOUND_RULES if self.subject.order else BASE_RULES))
        for reason, holds in (
            (_UNREAD, self.missed),
            (_SAMPLED, self.sampled),
            (_STRANGERS, self.strangers),
        ):
            if holds:
                findings.skipped(reason, *rules)
        if self.subject.order:
            for rule in ("pgmap-link", "compound-order"):
                if self.asked and rule not in self.asked and not self.missed:
                    findings.skipped(
                        "no struct page that could be read is a head", *rules_named(rule)
                    )
            if "tail-contents" not in self.asked:
                findings.skipped("no tail pages that share a frame", *rules_named("tail-contents"))
            facts = HeadFacts(self.subject.pagemap, self.heads, self.masked, self.vmemmap.geometry)
            for one in HEAD_ALIGNMENT:
                findings.check(one, facts)
        return counted(areas, self.vmemmap)._replace(
            compounds_checked=self.checked,
            compounds_unreadable=self.unreadable,
            base_pages_checked=self.base_checked,
            base_pages_unreadable=self.base_unreadable,
        )
