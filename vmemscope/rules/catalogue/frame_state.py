# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the frames behind the vmemmap are marked for."""

from __future__ import annotations

from ..findings import Rule, Severity

__all__ = ("RULES",)

RULES = (
    Rule(
        "frame-free",
        Severity.ERROR,
        "a frame that backs the vmemmap is not in the buddy allocator",
        "mm/page_alloc.c: prep_new_page(), __free_one_page()",
        meaning="The frame is on a free list of the page allocator while the vmemmap maps it: the"
        " next allocation gets it, and then struct pages and somebody else's data are the same"
        " memory. Whoever writes second destroys what the other wrote.",
        look_at="Its reference count: 0 is a put_page() too many (rule refcount-low), and the frame"
        " went back when it dropped; otherwise the marks in its struct page were overwritten, or"
        " it was freed without regard to the count (free_pages() of a neighbour's block).",
    ),
    Rule(
        "frame-foreign",
        Severity.ERROR,
        "a frame that backs the vmemmap is marked as nobody else's",
        "mm/sparse-vmemmap.c: vmemmap_alloc_block()",
        meaning="The struct page of the frame says that it is part of a slab, a page table, a huge"
        " page or a page cache, or that a process maps it. It was freed under the vmemmap and"
        " given out again: both owners write to it.",
        look_at="Whose it is now (vmemscope page with its number), and what is in it: struct pages"
        " mean that the new owner has not written yet. Then how it came to be freed: rule"
        " refcount-low for the same frame, or for others of the same device.",
    ),
    Rule(
        "frame-poisoned",
        Severity.ERROR,
        "a frame that backs the vmemmap is neither poisoned nor offline",
        "mm/memory-failure.c: memory_failure()",
        meaning="The memory behind these struct pages had an uncorrectable error (PG_hwpoison), or"
        " was taken from the kernel (PageOffline: a balloon, virtio-mem). Reading struct pages in"
        " it may raise a machine check, in the kernel, for which there is no recovery.",
        look_at="The kernel log for 'Memory failure' and the frame's number: memory_failure() can't"
        " handle a frame of the vmemmap, so the device has to be taken down. HardwareCorrupted in"
        " /proc/meminfo counts such frames.",
    ),
    Rule(
        "frame-node",
        Severity.NOTE,
        "the vmemmap is on the device's own node, if that has memory",
        "mm/sparse-vmemmap.c: vmemmap_alloc_block()",
        meaning="The memory map of the device is on another node, as the device's own had no"
        " memory left when it came up. Nothing is wrong, but each look at one of these struct"
        " pages goes over the interconnect: faults, pinning and migration are slower.",
        look_at="Free memory of the node (/sys/devices/system/node/nodeN/meminfo), and the kernel"
        " log for 'memory hotplug' and 'vmemmap alloc failure'. Taking the device down and up"
        " again when there is room moves it.",
    ),
)
