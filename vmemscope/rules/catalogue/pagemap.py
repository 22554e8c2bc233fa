# SPDX-License-Identifier: LGPL-2.1-or-later
"""A pagemap itself: its ranges, its shift, the references to it."""

from __future__ import annotations

from ..legacy import Rule
from ..rule import Severity

__all__ = ("RULES",)

RULES = (
    Rule(
        "range-invalid",
        Severity.ERROR,
        "a pagemap's ranges are whole subsections of physical address space",
        "mm/memory_hotplug.c: check_pfn_span()",
        since="5.3",
        meaning="check_pfn_span() refuses to add memory that does not start and end on a"
        " subsection boundary, so no running kernel has such a pagemap: the struct dev_pagemap was"
        " overwritten or freed, or the entry of pgmap_array that led here is stale. Nothing that"
        " follows from the range (its part of the vmemmap, its frames) can be gone by, and it is"
        " not looked at.",
        look_at="The bytes around the address: a freed slab object has the poison or the free"
        " pointer of its cache. Compare the ranges with /proc/iomem and with the driver's own"
        " (struct dev_dax: ranges; struct nd_namespace_io: res).",
    ),
    Rule(
        "range-overlap",
        Severity.ERROR,
        "no two ranges of pagemaps overlap",
        "mm/memremap.c: pagemap_range()",
        meaning="Two drivers believe that they own the same page frames. Their struct pages are"
        " the same memory, initialised by one and then by the other; the last one to go frees the"
        " memory map under the other. memremap_pages() refuses a range that intersects a pagemap"
        " or System RAM, so one of the two structures was changed later, or is stale.",
        look_at="Which of the two agrees with pgmap_array (rule xarray) and with /proc/iomem: the"
        " other is wrong.",
    ),
    Rule(
        "nr-range",
        Severity.ERROR,
        "the number of ranges is one that a driver can make",
        "mm/memremap.c: memremap_pages()",
        since="5.10",
        meaning="memremap_pages() counts nr_range up while it brings ranges online; no driver"
        " makes thousands. A wild number means that the struct dev_pagemap was overwritten, or"
        " that this is none. A walk over its ranges, such as memunmap_pages() does, runs off its"
        " end.",
        look_at="The structure as a whole (drgn: Object(prog, 'struct dev_pagemap', address=...)):"
        " whether type, ops and owner make sense tells damage to one field from an address that is"
        " wrong.",
    ),
    Rule(
        "vmemmap-shift",
        Severity.ERROR,
        "a compound page is no larger than its pagemap",
        "mm/memremap.c: memremap_pages()",
        since="5.17",
        meaning="vmemmap_shift says how large compound pages are, and so how the vmemmap of the"
        " pagemap was populated. Too large, it was not what memremap_pages() went by: the field"
        " has changed since. On teardown the kernel computes references and section populations"
        " from it, and gets both wrong.",
        look_at="The alignment of the device that the pagemap is of"
        " (/sys/bus/dax/devices/*/align): vmemmap_shift is log2 of it in pages. What the page"
        " tables say of compound pages is in the vmemmap, which is still walked for holes.",
    ),
    Rule(
        "pagemap-ref-low",
        Severity.ERROR,
        "a pagemap has a reference for each of its compound pages, or base pages",
        "mm/memremap.c: pagemap_range(), percpu_ref_get_many()",
        since="5.10",
        meaning="memremap_pages() takes a reference on the pagemap (struct dev_pagemap: ref) for"
        " each page that its driver may hand out, and memunmap_pages() gives them all back. With"
        " fewer than that somebody gave one back that was not his: when the device is removed, the"
        " count falls through zero, percpu_ref warns ('percpu ref ... <= 0'), and the pagemap goes"
        " while its pages are in use.",
        look_at="By how much it is off: one points to a put_dev_pagemap() too many (an error path"
        " of get_user_pages(), memory failure handling), the pages of a range to a"
        " memunmap_pages() that ran for half of the pagemap, and anything wild to per-CPU memory"
        " that was overwritten.",
    ),
    Rule(
        "pagemap-ref-high",
        Severity.WARNING,
        "a pagemap has no more references than compound pages, or base pages, or it never goes",
        "mm/memremap.c: get_dev_pagemap(), memunmap_pages()",
        since="5.10",
        meaning="Somebody holds a reference on the pagemap that no page accounts for. Removing the"
        " device waits for it in memunmap_pages(), in the state D, until it is given back. Looking"
        " a page up (get_user_pages(), memory failure handling) takes one for a moment, so it may"
        " be no fault if the kernel was at it just then.",
        look_at="Whether it is still so in a moment; whether a task is in get_user_pages() or"
        " memory_failure() (their stacks); which error path lacks a put_dev_pagemap().",
    ),
)
