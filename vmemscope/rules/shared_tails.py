# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rule about the frames of tail pages that devices of a node share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from .rule import Severity, Skip, Violation, rule

if TYPE_CHECKING:
    from ..kernel.mem_section import Sections
    from ..vmemmap.layout import Geometry
    from ..vmemmap.shared_tails import SharedTail

__all__ = ("OrderFacts", "SlotFacts", "section_order", "shared_tail")


class SlotFacts(NamedTuple):
    """A frame that devices share, and the slot that should name it."""

    shared: SharedTail
    geometry: Geometry


class OrderFacts(NamedTuple):
    """The sections of a pagemap."""

    #: log2 of the pages in its compound pages, 0 if their tail pages share nothing
    order: int
    #: page frames ``[first, end)`` of its trusted ranges
    pfns: Sequence[tuple[int, int]]
    sections: Sections
    geometry: Geometry


@rule(
    "section-order",
    Severity.ERROR,
    holds="the sections that a device has as a whole are populated for compound pages of its order",
    source="mm/sparse-vmemmap.c: section_activate()",
    schemes=("device-zone",),
    meaning="The order in struct mem_section says how the section's memory map was populated. The"
    " kernel goes by it when it initialises struct pages, when it counts what it saved, and when it"
    " takes the memory map down. vmemscope does not know how such a section should be mapped, and"
    " checks nothing there.",
    look_at="The struct mem_section: all of it overwritten, or the order alone. A section of order"
    " 0 among others was added by code that does not know the device's compound pages.",
)
def section_order(facts: OrderFacts) -> Iterator[Violation]:
    for pfns in facts.pfns:
        for start, _, order in facts.sections.order_runs(*pfns):
            if order not in (None, facts.order):
                yield Violation(
                    f"section {start} is populated for compound pages of order {order}",
                    vaddr=facts.geometry.page_address(start * facts.sections.pages),
                    expected=facts.order,
                    observed=order,
                )


@rule(
    "shared-tail",
    Severity.ERROR,
    holds="the zone of a node's devices names the frame that their tail pages map",
    source="mm/sparse-vmemmap.c: vmemmap_shared_tail_page()",
    schemes=("device-zone",),
    meaning="The kernel takes the frame of tail pages for a new device from the zone's slot"
    " (vmemmap_tails) for its order. A slot that names another frame gives the next device tail"
    " pages of another order, of another zone, or memory that is in use for something else; an"
    " empty one gives it a second frame, and the first one is lost.",
    look_at="What the slot names (vmemscope page with its pfn): the frame of another order, or of"
    " another zone's tail pages, is a wrong index; anything else was written there.",
)
def shared_tail(facts: SlotFacts) -> Iterator[Violation | Skip]:
    shared, slot = facts.shared, facts.shared.slot
    if slot is None or shared.slot_unknown:
        yield Skip("the zone's slot could not be read, or it is not known which one it is")
        return
    seen = None if shared.pfn is None else f"pfn {shared.pfn:#x}"
    if shared.slot_empty is not None:
        if seen is not None:
            yield Violation(
                f"the zone has no frame for {shared.name}, which they map all the same",
                vaddr=slot.address or None,
                pfn=shared.pfn,
                expected=seen,
                observed=shared.slot_empty,
            )
        return
    if shared.named is None:
        yield Violation(
            f"the pointer to the frame of {shared.name} leads to no struct page",
            vaddr=slot.address,
            expected=seen,
            observed=f"{slot.page:#x}",
        )
    elif shared.named != shared.pfn:
        yield Violation(
            f"the zone names another frame than that of {shared.name}",
            vaddr=slot.address,
            pfn=shared.named,
            expected=seen,
            observed=f"pfn {shared.named:#x}",
        )
