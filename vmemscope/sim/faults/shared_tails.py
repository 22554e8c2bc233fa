# SPDX-License-Identifier: LGPL-2.1-or-later
"""The frame of tail pages that all devices of a node and order share (the coming kernel)."""

from __future__ import annotations

from typing import Literal

from ..addresses import STRUCT_PAGE_SIZE
from ..memmap import ZONES_PGSHIFT
from ..pagetable import RW
from .planted import Finding, Planted
from .registry import fault
from .simulated import SimPlanter

_ONLY = ("next",)


def _frame(p: SimPlanter) -> tuple[int, str, int]:
    """Return the frame, and the first pagemap that maps it with the address where it does."""
    head = p.page_va(p.record.data_pfn)
    pfn = p.frame_at(head + p.units.page_size)
    found = p.shared_from(pfn)
    if found is None:
        raise p.error(f"{p.record.name} shares no frame with others")
    return pfn, *found


def _entries(p: SimPlanter, pfn: int) -> int:
    """Count the entries of the pagemap that map a frame."""
    return sum(1 for start, end in p.record.ranges for _ in p.entries_of(pfn, start, end))


@fault("pgmap refcount-low", kernels=_ONLY)
def references_missing(p: SimPlanter) -> Planted:
    """A device took no references to the frame that it shares: others lose it when it goes."""
    pfn, owner, va = _frame(p)
    before = p.refcount(pfn)
    after = before - _entries(p, pfn)
    p.set_refcount(pfn, after)
    finding = Finding("pgmap", "refcount-low", owner, va)
    return p.planted(va, pfn, findings=[finding], expected=before, observed=after)


@fault("pgmap shared-references", kernels=_ONLY)
def references_unclear(p: SimPlanter) -> Planted:
    """
    All entries of the frame that devices share are read-only, and it has one reference: a kernel
    that counts as HugeTLB does, or one that lost them.
    """
    pfn, owner, va = _frame(p)
    for record in p.kernel.pagemaps:
        for start, end in record.ranges:
            for page in p.entries_of(pfn, start, end):
                p.set_entry(page, p.units.page_shift, p.entry(page, p.units.page_shift) & ~RW)
    p.set_refcount(pfn, 1)
    return p.planted(va, pfn, findings=[Finding("pgmap", "shared-references", owner, va)])


@fault("pgmap shared-tail", kernels=_ONLY)
def slot_wrong(
    p: SimPlanter, to: Literal["nothing", "other-order", "wild"] = "nothing", other: str = ""
) -> Planted:
    """The zone's slot does not name the frame that its devices share."""
    pfn, owner, _ = _frame(p)
    slots = p.struct("zone", p.kernel.nodes.zone(p.record.nid, "ZONE_DEVICE").va)["vmemmap_tails"]
    # The smallest compound page with two pages of vmemmap has order 7.
    va = slots + 8 * (p.record.vmemmap_shift - 7)
    value = 0
    if to == "wild":
        value = p.page_va(pfn) + 8
    elif to == "other-order":
        if not other:
            raise p.error("say which pagemap with other")
        value = p.page_va(p.frame_at(p.page_va(p.pagemap(other).data_pfn) + p.units.page_size))
    p.write(va, value)
    return p.planted(va, pfn, findings=[Finding("pgmap", "shared-tail", owner, va)], to=to)


@fault("pgmap compound-head", "pgmap page-zone", "pgmap tail-contents", kernels=_ONLY)
def shared_wrong(p: SimPlanter, what: Literal["order", "zone", "mapping"] = "order") -> Planted:
    """The frame that devices share has tail pages of another order or zone, or others' data."""
    pfn, owner, first = _frame(p)
    rules = {"order": "compound-head", "zone": "page-zone", "mapping": "tail-contents"}
    for i in range(p.per_page):
        va = first + i * STRUCT_PAGE_SIZE
        if what == "order":
            # A mask: of the next order, one bit less of it is set.
            info = va + p.offset("page", "compound_info")
            p.write(info, (p.read(info) & ~1) << 1 & (1 << 64) - 1 | 1)
        elif what == "zone":
            change = p.constant("ZONE_NORMAL") << ZONES_PGSHIFT
            p.write(va, p.read(va) & ~(7 << ZONES_PGSHIFT) | change)
        else:
            p.write(va + p.offset("page", "mapping"), 0x1000)
    return p.planted(first, pfn, findings=[Finding("pgmap", rules[what], owner, first)], what=what)


@fault(
    "pgmap compound-head",
    "pgmap stray-head",
    "pgmap page-refcount",
    "pgmap tail-contents",
    kernels=_ONLY,
)
def head_in_shared(p: SimPlanter, struct_page: int = 0) -> Planted:
    """
    A head was written into the frame that devices share, and stays there: what is left of a
    device whose compound pages larger than a section began in the middle of one.
    """
    pfn, owner, first = _frame(p)
    va = first + struct_page * STRUCT_PAGE_SIZE
    head = p.read_bytes(p.page_va(p.record.data_pfn), STRUCT_PAGE_SIZE)
    p.write(va, int.from_bytes(head, "little"), STRUCT_PAGE_SIZE)
    findings = [Finding(command, rule, owner, va) for command, rule in p.rules]
    return p.planted(va, pfn, findings=findings)
