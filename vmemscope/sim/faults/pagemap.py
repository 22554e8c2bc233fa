# SPDX-License-Identifier: LGPL-2.1-or-later
"""``struct dev_pagemap`` and what leads to it."""

from __future__ import annotations

from ..units import PAGE_SIZE, PAGES_PER_SUBSECTION
from .planter import PagemapPlanter, Planted

__all__ = (
    "name",
    "nr_range_absurd",
    "range_inverted",
    "range_overlap",
    "ref_dead",
    "ref_leaked",
    "ref_lost",
    "resource_cycle",
    "shift_absurd",
    "xarray_cycle",
    "xarray_stray",
)


def range_inverted(p: PagemapPlanter) -> Planted:
    """A range ends before it starts."""
    i = p.option("range")
    p.range()
    start, end = p.record.pgmap[f"ranges[{i}].start"], p.record.pgmap[f"ranges[{i}].end"]
    p.record.pgmap[f"ranges[{i}].start"] = end
    p.record.pgmap[f"ranges[{i}].end"] = start
    return p.planted(p.record.pgmap.va, start=end, end=start)


def range_overlap(p: PagemapPlanter) -> Planted:
    """A range reaches into another pagemap's."""
    i = p.option("range")
    _, end = p.range()
    if not p.option("other"):
        raise p.error("say which pagemap with other")
    other = p.kernel.pagemap(p.option("other"))
    other_start, other_end = other.ranges[0]
    if other_start >= end:
        p.record.pgmap[f"ranges[{i}].end"] = (other_start + PAGES_PER_SUBSECTION) * PAGE_SIZE - 1
    else:
        p.record.pgmap[f"ranges[{i}].start"] = (other_end - PAGES_PER_SUBSECTION) * PAGE_SIZE
    return p.planted(
        p.record.pgmap.va,
        start=p.record.pgmap[f"ranges[{i}].start"],
        end=p.record.pgmap[f"ranges[{i}].end"],
        other=other.name,
        other_va=other.pgmap.va,
    )


def nr_range_absurd(p: PagemapPlanter) -> Planted:
    """The pagemap claims more ranges than it can have."""
    p.record.pgmap["nr_range"] = p.option("value")
    return p.planted(p.record.pgmap.va, value=p.option("value"))


def shift_absurd(p: PagemapPlanter) -> Planted:
    """The pagemap claims compound pages of an impossible size."""
    p.record.pgmap["vmemmap_shift"] = p.option("value")
    return p.planted(p.record.pgmap.va, value=p.option("value"))


def ref_dead(p: PagemapPlanter) -> Planted:
    """The pagemap's reference count was killed: it is being torn down."""
    p.record.pgmap["ref.percpu_count_ptr"] = p.record.pgmap["ref.percpu_count_ptr"] | 3
    return p.planted(p.record.pgmap.va)


def ref_leaked(p: PagemapPlanter) -> Planted:
    """The pagemap has more references than pages: it can't be torn down."""
    p.kernel.percpu.add(p.record.pgmap["ref.percpu_count_ptr"], 0, p.option("by"))
    return p.planted(p.record.pgmap.va, by=p.option("by"))


def ref_lost(p: PagemapPlanter) -> Planted:
    """The pagemap has fewer references than pages: it goes while they are in use."""
    p.kernel.percpu.add(p.record.pgmap["ref.percpu_count_ptr"], 1, -p.option("by"))
    return p.planted(p.record.pgmap.va, by=p.option("by"))


def xarray_stray(p: PagemapPlanter) -> Planted:
    """pgmap_array has the pagemap where no device is."""
    pfn = p.kernel.end_pfn
    p.kernel.pgmap_array.store_range(pfn, pfn + PAGES_PER_SUBSECTION - 1, p.record.pgmap.va)
    return p.planted(p.record.pgmap.va, first_pfn=pfn, count=PAGES_PER_SUBSECTION)


def xarray_cycle(p: PagemapPlanter) -> Planted:
    """A node of pgmap_array is below itself."""
    nodes = p.kernel.pgmap_array.nodes()
    root, node = nodes[0], nodes[-1]
    slot = next(i for i in range(63, -1, -1) if not node[f"slots[{i}]"])
    node[f"slots[{slot}]"] = root.va | 2
    node["count"] = node["count"] + 1
    return p.planted(node.va, slot=slot, root=root.va)


def resource_cycle(p: PagemapPlanter) -> Planted:
    """The sibling of one of the pagemap's resources is its own parent's first child."""
    resource = p.record.resources[0]
    parent = p.kernel.memory.struct("resource", resource["parent"])
    resource["sibling"] = parent["child"]
    # Where one comes to twice.
    return p.planted(resource.va, again=parent["child"])


def name(p: PagemapPlanter) -> Planted:
    """The device's name is not what a terminal should be sent."""
    try:
        name = bytes.fromhex(p.option("hex")) or p.option("text").encode()
    except ValueError:
        raise p.error("hex must be hexadecimal digits, two a byte") from None
    if not 0 < len(name) < 32 or b"\0" in name:
        raise p.error("a name has 1 to 31 bytes, none of them 0")
    string = p.kernel.slab.string(name)
    vaddr = p.record.pgmap.va
    for resource in p.record.resources:
        resource["name"] = string
    if p.record.dev_dax is not None:
        p.record.dev_dax["dev.kobj.name"] = string
        vaddr = p.record.dev_dax.va
    if p.record.gendisk is not None:
        p.record.gendisk.set_bytes("disk_name", name)
        vaddr = p.record.gendisk.va
    return p.planted(vaddr, name=name)
