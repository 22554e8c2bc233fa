# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Plants faults in a kernel whose devices are up.

One function a kind of :data:`..scenario.FAULTS`, or of
:data:`..scenario.HUGETLB_FAULTS`, in the module of what it is planted in. Each
leaves all else consistent: when an entry is made to map another frame,
references move along, as ``get_page()`` and ``put_page()`` would have it, and a
frame that lost its last one is free. What was done where is returned as
:class:`Planted`.
"""

from __future__ import annotations

from collections.abc import Callable

from ..kernel import Kernel
from ..scenario import Fault
from . import entries, frames, hugetlb, pagemap, sections, struct_pages, unreadable
from .planter import HugetlbPlanter, PagemapPlanter, Planted

__all__ = ("HUGETLB_PLANTERS", "PLANTERS", "Planted", "plant", "plant_hugetlb")

PLANTERS: dict[str, Callable[[PagemapPlanter], Planted]] = {
    "hole": entries.hole,
    "tail-wrong-frame": entries.tail_wrong_frame,
    "head-not-private": entries.head_not_private,
    "missing-dedup": entries.missing_dedup,
    "huge-leaf": entries.huge_leaf,
    "base-pages": entries.base_pages,
    "altmap-outside": entries.altmap_outside,
    "read-only": entries.read_only,
    "executable": entries.executable,
    "kernel-entry": entries.kernel_entry,
    "refcount-low": frames.refcount_low,
    "refcount-high": frames.refcount_high,
    "frame-freed": frames.frame_freed,
    "tail-wrong-head": struct_pages.tail_wrong_head,
    "head-flag-lost": struct_pages.head_flag_lost,
    "wrong-order": struct_pages.wrong_order,
    "wrong-pgmap": struct_pages.wrong_pgmap,
    "mask-missing": struct_pages.mask_missing,
    "early-uninitialised": struct_pages.early_uninitialised,
    "frame-free": frames.frame_free,
    "frame-foreign": frames.frame_foreign,
    "frame-poisoned": frames.frame_poisoned,
    "frame-node": frames.frame_node,
    "stray-head": struct_pages.stray_head,
    "tail-written": struct_pages.tail_written,
    "page-refcount": struct_pages.page_refcount,
    "wrong-zone": struct_pages.wrong_zone,
    "uninitialised": struct_pages.uninitialised,
    "unreadable-table": unreadable.unreadable_table,
    "unreadable-struct-page": unreadable.unreadable_struct_page,
    "unreadable-node": unreadable.unreadable_node,
    "unreadable-sections": unreadable.unreadable_sections,
    "range-inverted": pagemap.range_inverted,
    "range-overlap": pagemap.range_overlap,
    "nr-range-absurd": pagemap.nr_range_absurd,
    "shift-absurd": pagemap.shift_absurd,
    "ref-dead": pagemap.ref_dead,
    "ref-leaked": pagemap.ref_leaked,
    "ref-lost": pagemap.ref_lost,
    "xarray-stray": pagemap.xarray_stray,
    "xarray-cycle": pagemap.xarray_cycle,
    "resource-cycle": pagemap.resource_cycle,
    "name": pagemap.name,
    "subsection-lost": sections.subsection_lost,
    "subsection-stale": sections.subsection_stale,
    "section-map": sections.section_map,
    "usage-lost": sections.usage_lost,
    "boot-memmap-hole": sections.boot_memmap_hole,
    "leak": sections.leak,
    "counter": sections.counter,
}

HUGETLB_PLANTERS: dict[str, Callable[[HugetlbPlanter], Planted]] = {
    "tail-writable": hugetlb.tail_writable,
    "head-read-only": hugetlb.head_read_only,
    "hole": hugetlb.hole,
    "executable": hugetlb.executable,
    "tail-frame": hugetlb.tail_frame,
    "head-shared": hugetlb.head_shared,
    "head-freed": hugetlb.head_freed,
    "tail-page": hugetlb.tail_page,
    "restore": hugetlb.restore,
    "stray": hugetlb.stray,
    "flag-missing": hugetlb.flag_missing,
    "flag-extra": hugetlb.flag_extra,
    "key": hugetlb.key,
    "count": hugetlb.count,
    "list-cycle": hugetlb.list_cycle,
    "list-wild": hugetlb.list_wild,
    "no-head": hugetlb.no_head,
    "isolated": hugetlb.isolated,
    "shared-tail": hugetlb.shared_tail,
    "unreadable": hugetlb.unreadable,
}


def plant(kernel: Kernel, fault: Fault) -> Planted:
    """
    Plant a fault in a pagemap, or in what there is beside.

    :raises UsageError: if there is no such place to plant it
    """
    return PLANTERS[fault.kind](PagemapPlanter(kernel, fault))


def plant_hugetlb(kernel: Kernel, fault: Fault) -> Planted:
    """
    Plant a fault in HugeTLB.

    :raises UsageError: if there is no such place to plant it
    """
    return HUGETLB_PLANTERS[fault.kind](HugetlbPlanter(kernel, fault))
