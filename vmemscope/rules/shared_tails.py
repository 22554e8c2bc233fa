# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules about the frames of tail pages that devices of a node share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..text import count
from .rule import Severity, Skip, Violation, Violations, rule
from .words import agree

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..kernel.mem_section import Sections
    from ..vmemmap.frames import Frames
    from ..vmemmap.layout import Geometry
    from ..vmemmap.shared_tails import SharedTail

__all__ = (
    "OrderFacts",
    "SlotFacts",
    "UncountedFacts",
    "section_order",
    "shared_references",
    "shared_tail",
)


class SlotFacts(NamedTuple):
    """A frame that devices share, and the slot that should name it."""

    shared: SharedTail
    geometry: Geometry


class UncountedFacts(NamedTuple):
    """Frames that devices share, each with one reference, whatever maps it."""

    frames: Frames
    #: ``_refcount`` (int32), shape ``(n,)``
    refcounts: NDArray[np.int32]
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
    holds="the sections that a device has as a whole are populated for compound pages of its order,"
    " those that it has a part of for none",
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
        yield from _parts(facts, *pfns)


def _parts(facts: OrderFacts, first: int, end: int) -> Iterator[Violation]:
    """Check the sections of which page frames have only a part."""
    sections, pages = facts.sections, facts.sections.pages
    ends = {pfn // pages: pfn for pfn in (end, first) if pfn % pages}
    for number, pfn in sorted(ends.items()):
        index = sections.index(number)
        if index is None or sections.orders is None or not sections.orders[index]:
            continue
        order = int(sections.orders[index])
        yield Violation(
            f"section {number}, of which it has only a part, is populated for compound pages of"
            f" order {order}",
            vaddr=facts.geometry.page_address(pfn if pfn == first else number * pages),
            expected=0,
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


@rule(
    "shared-references",
    Severity.NOTE,
    holds="a frame that devices share shows whether entries take references to it",
    source="mm/sparse-vmemmap.c: vmemmap_pte_populate(), get_page()",
    schemes=("device-zone",),
    meaning="Each frame that devices share has one reference, however many entries map it, and"
    " nothing else says what this kernel does. If it takes no references for entries, as for"
    " HugeTLB, nothing is wrong. If it takes one for each, all of them are missing, and the first"
    " device to be removed frees the frame under the others (rule refcount-low). Writable entries"
    " would decide for the second: the kernel that maps them so drops a reference for each when it"
    " takes them down. Here they are read-only, or the architecture has no such protection.",
    look_at="get_page() where the kernel populates these entries, and what vmemmap_free() does with"
    " them. On a running kernel, add a device of another order or node: a frame with more than one"
    " reference says that entries count.",
)
def shared_references(facts: UncountedFacts) -> Violations:
    frames = facts.frames

    def sentence(row: int) -> str:
        entries = int(frames.entries[row])
        return (
            f"{count(entries, 'entry', 'entries')} {agree(entries, 'maps', 'map')} the frame, its"
            " reference count is 1: either this kernel takes no references for entries, or all of"
            " them are missing"
        )

    return Violations(
        facts.refcounts == 1,
        sentence,
        vaddr=lambda row: facts.geometry.address(int(frames.vpage[row])),
        pfn=frames.pfn,
        expected=lambda row: f"1, or {int(frames.entries[row]) + 1}",
        observed=facts.refcounts,
    )
