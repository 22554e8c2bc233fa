# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rule about folios of which only some tail pages share a frame."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from ..text import binary_size, count
from .rule import Scope, Severity, Skip, Violations, rule
from .words import agree

if TYPE_CHECKING:
    from .hugetlb_folios import FolioFacts

__all__ = ("HalfFacts", "hugetlb_half")


class HalfFacts(NamedTuple):
    """Folios, of which some are half optimized."""

    folios: FolioFacts
    #: folios that may be so, and were not looked at
    left: int


@rule(
    "hugetlb-half",
    Severity.WARNING,
    holds="all tail pages of an optimized folio share the zone's frame",
    source="mm/hugetlb_vmemmap.c: vmemmap_remap_range(), VMEMMAP_REMAP_INCOMPLETE",
    schemes=("hugetlb-section",),
    scope=Scope.HUGETLB,
    meaning="The kernel ran out of memory while it optimized or restored the folio, and could not"
    " go back. Nothing is wrong with the folio: it says that it is optimized, so that the kernel"
    " restores the rest before it gives the folio back. Meanwhile each page of its vmemmap that"
    " has a frame of its own costs a page that should be saved.",
    look_at="Free memory, and whether the log has allocation failures from that time. The folio is"
    " whole again when it is freed; in the pool, lower and raise nr_hugepages when there is"
    " memory.",
)
def hugetlb_half(facts: HalfFacts) -> Iterator[Violations | Skip]:
    folios, maps = facts.folios, facts.folios.maps
    if not (folios.flagged & (maps.read_only > 0)).any():
        yield folios.none_optimized
        return
    if facts.left:
        yield Skip(f"{count(facts.left, 'folio')} more that may be half optimized", partly=True)

    def sentence(i: int) -> str:
        own = int(folios.half[i])
        size = binary_size(own * folios.geometry.page_size)
        return (
            f"{own} of {count(int(maps.end[i] - maps.first[i]), 'page')} of the vmemmap of"
            f" {folios.label(i)} {agree(own, 'has a frame of its', 'have frames of their')} own:"
            f" half optimized, which costs {size} more than it should"
        )

    yield folios.of_folios(
        folios.half > 0,
        sentence,
        expected=f"all tail pages {folios.shared_word}",
        observed=lambda i: f"{int(folios.half[i])} {folios.own_word}",
    )
