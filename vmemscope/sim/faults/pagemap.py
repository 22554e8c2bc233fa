# SPDX-License-Identifier: LGPL-2.1-or-later
"""``struct dev_pagemap`` and what leads to it."""

from __future__ import annotations

from .planted import Finding, Planted
from .planter import Planter
from .registry import fault
from .simulated import SimPlanter


@fault("pgmap range-invalid")
def range_inverted(p: Planter, range_: int = 0) -> Planted:
    """A range ends before it starts."""
    p.pfns(range_)
    start, end = f"ranges[{range_}].start", f"ranges[{range_}].end"
    p.pgmap[start], p.pgmap[end] = p.pgmap[end], p.pgmap[start]
    return p.planted(p.record.va, start=p.pgmap[start], end=p.pgmap[end])


@fault("pgmap range-overlap", "pgmap xarray")
def range_overlap(p: Planter, range_: int = 0, other: str = "") -> Planted:
    """
    A range reaches into another pagemap's. The one that starts second overlaps, and
    the one that was made longer has frames that pgmap_array does not.
    """
    _, end = p.pfns(range_)
    if not other:
        raise p.error("say which pagemap with other")
    reached = p.pagemap(other)
    other_start, other_end = reached.ranges[0]
    second = (reached.name, reached.va)
    if other_start >= end:
        pa = (other_start + p.units.pages_per_subsection) * p.units.page_size
        p.pgmap[f"ranges[{range_}].end"] = pa - 1
    else:
        pa = (other_end - p.units.pages_per_subsection) * p.units.page_size
        p.pgmap[f"ranges[{range_}].start"] = pa
        second = (p.owner, p.record.va)
    findings = [
        Finding("pgmap", "range-overlap", *second),
        Finding("pgmap", "xarray", p.owner, p.record.va),
    ]
    return p.planted(p.record.va, findings=findings)


def _claims(p: Planter, member: str, value: int) -> Planted:
    p.pgmap[member] = value
    return p.planted(p.record.va, value=value)


@fault("pgmap nr-range")
def nr_range_absurd(p: Planter, value: int = 0x7FFFFFFF) -> Planted:
    """The pagemap claims more ranges than it can have."""
    return _claims(p, "nr_range", value)


@fault("pgmap vmemmap-shift")
def shift_absurd(p: Planter, value: int = 63) -> Planted:
    """The pagemap claims compound pages of an impossible size."""
    return _claims(p, "vmemmap_shift", value)


@fault()
def ref_dead(p: Planter) -> Planted:
    """The pagemap's reference count was killed: it is being torn down."""
    return _claims(p, "ref.percpu_count_ptr", p.pgmap["ref.percpu_count_ptr"] | 3)


def _add_references(p: Planter, cpu: int, by: int) -> Planted:
    va = p.per_cpu(p.pgmap["ref.percpu_count_ptr"], cpu)
    p.write(va, p.read(va) + by)
    return p.planted(p.record.va, by=by)


@fault("pgmap pagemap-ref-high")
def ref_leaked(p: Planter, by: int = 1) -> Planted:
    """The pagemap has more references than pages: it can't be torn down."""
    return _add_references(p, 0, by)


@fault("pgmap pagemap-ref-low")
def ref_lost(p: Planter, by: int = 1) -> Planted:
    """The pagemap has fewer references than pages: it goes while they are in use."""
    return _add_references(p, 1, -by)


@fault("pgmap xarray")
def xarray_stray(p: SimPlanter) -> Planted:
    """pgmap_array has the pagemap where no device is."""
    pfn = p.unused_pfn
    p.kernel.pgmap_array.store_range(pfn, pfn + p.units.pages_per_subsection - 1, p.record.va)
    return p.planted(p.record.va, first_pfn=pfn, count=p.units.pages_per_subsection)


@fault("pgmap xarray")
def xarray_cycle(p: Planter) -> Planted:
    """A node of pgmap_array is below itself. It is no single pagemap's."""
    nodes = p.xarray_nodes()
    root, node = nodes[0], nodes[-1]
    slot = next(i for i in range(63, -1, -1) if not node[f"slots[{i}]"])
    node[f"slots[{slot}]"] = root.va | 2
    node["count"] += 1
    findings = [Finding("pgmap", "xarray", None, root.va)]
    return p.planted(node.va, findings=findings, slot=slot, root=root.va)


@fault("pgmap resource-tree")
def resource_cycle(p: Planter) -> Planted:
    """The sibling of one of the pagemap's resources is its own parent's first child."""
    resource = p.struct("resource", p.resource())
    again = p.struct("resource", resource["parent"])["child"]
    resource["sibling"] = again
    # It is reported where one comes to twice.
    findings = [Finding("pgmap", "resource-tree", None, again)]
    return p.planted(resource.va, findings=findings, again=again)


@fault()
def name(p: SimPlanter, text: str = "", hex_: str = "") -> Planted:
    """The device's name is not what a terminal should be sent."""
    try:
        name = bytes.fromhex(hex_) or text.encode()
    except ValueError:
        raise p.error("hex must be hexadecimal digits, two a byte") from None
    if not 0 < len(name) < 32 or b"\0" in name:
        raise p.error("a name has 1 to 31 bytes, none of them 0")
    record = p.kernel.pagemap(p.owner)
    string = p.kernel.slab.string(name)
    vaddr = record.va
    for resource in record.resources:
        resource["name"] = string
    if record.dev_dax is not None:
        record.dev_dax["dev.kobj.name"] = string
        vaddr = record.dev_dax.va
    if record.gendisk is not None:
        record.gendisk.set_bytes("disk_name", name)
        vaddr = record.gendisk.va
    return p.planted(vaddr, name=name)


@fault("pgmap altmap-alloc")
def altmap_lost(p: Planter, frames: int = 512) -> Planted:
    """The altmap counts frames as handed out that nothing maps."""
    if not p.record.altmap:
        raise p.error(f"{p.record.name} has no altmap")
    p.pgmap["altmap.alloc"] += frames
    return p.planted(p.record.va, value=p.pgmap["altmap.alloc"])
