# SPDX-License-Identifier: LGPL-2.1-or-later
"""What maps the vmemmap of a pagemap: holes, leaves, compound pages."""

from __future__ import annotations

from ..legacy import Rule
from ..rule import Severity

__all__ = ("RULES",)

RULES = (
    Rule(
        "hole",
        Severity.ERROR,
        "all of the vmemmap that describes a pagemap is mapped",
        "mm/sparse-vmemmap.c: __populate_section_memmap()",
        meaning="Some struct pages of the device are not there. The first access (initialisation,"
        " a fault on the device, page walkers) is an oops in kernel mode. On a device that is"
        " coming or going this is a moment's state; on one that is in use, population was not"
        " finished or somebody freed a neighbour's memory map.",
        look_at="The length: one page is a lost page table entry, 512 a page table or a large"
        " leaf. Whether the neighbours' struct pages are initialised, and whether another device"
        " in the same section was removed (section_deactivate() frees by subsection).",
    ),
    Rule(
        "leaf-size",
        Severity.ERROR,
        "only the memory map of whole sections without deduplication has large leaves",
        "arch/x86/mm/init_64.c: vmemmap_populate()",
        archs=("x86_64",),
        meaning="Where tail pages are to share frames, or a section is only partly the device's,"
        " the kernel maps base pages. A large leaf there means that deduplication did not take"
        " place, or that the entry was written by something else; what it maps may be a"
        " neighbour's.",
        look_at="The entry itself and what its frames hold: struct pages of this device (populated"
        " in another way than this kernel should) or anything else (a corrupted page table).",
    ),
    Rule(
        "leaf-fallback",
        Severity.NOTE,
        "the memory map of a whole section without deduplication has large leaves",
        "mm/sparse-vmemmap.c: vmemmap_populate_hugepages()",
        archs=("x86_64",),
        meaning="Nothing is wrong: the kernel found no free block of 2 MiB when the device was"
        " added, and took base pages. It costs a page table of 4 KiB and TLB entries.",
        look_at="Fragmentation when the device was added (/proc/buddyinfo). With an altmap it is"
        " not expected at all.",
    ),
    Rule(
        "read-only",
        Severity.ERROR,
        "the vmemmap of device memory is writable",
        "mm/sparse-vmemmap.c: vmemmap_pte_populate()",
        meaning="The kernel writes to struct pages all the time: an entry of a device's vmemmap"
        " without write permission is an oops at the next reference count. Only HugeTLB's vmemmap"
        " optimization makes vmemmap read-only, and it has no business with a device's.",
        look_at="Whether HugeTLB folios lie next to the device, and whose frame the entry maps: a"
        " remapping that hit the wrong range, or a bit flip.",
    ),
    Rule(
        "executable",
        Severity.ERROR,
        "the vmemmap can't be executed",
        "mm/sparse-vmemmap.c: vmemmap_pte_populate()",
        meaning="The kernel maps its memory map no-execute (PAGE_KERNEL). An executable entry is a"
        " hole in W^X: data that user space can influence could be run. It works as well as"
        " before, so nobody else will notice.",
        look_at="Whether the page table above has the bit too; whether other entries of the same"
        " table are executable: one is damage, all are a wrong pgprot.",
    ),
    Rule(
        "not-deduplicated",
        Severity.ERROR,
        "the tail pages of a compound page share one frame",
        "mm/sparse-vmemmap.c: vmemmap_populate_compound_pages()",
        since="5.19",
        archs=("x86_64", "riscv64"),
        meaning="The pagemap has compound pages and nothing else stands in the way, yet each page"
        " of its vmemmap has a frame of its own: the memory that deduplication should save is not"
        " saved. The kernel works all the same.",
        look_at="vmemmap_can_optimize() of this kernel, and its configuration"
        " (CONFIG_ARCH_WANT_OPTIMIZE_DAX_VMEMMAP, CONFIG_ARCH_WANT_HUGETLB_PAGE_OPTIMIZE_VMEMMAP"
        " before 6.6).",
    ),
    Rule(
        "tail-frame",
        Severity.ERROR,
        "all tail pages of a compound page map the same frame",
        "mm/sparse-vmemmap.c: vmemmap_populate_compound_pages()",
        since="5.19",
        archs=("x86_64", "riscv64"),
        meaning="A tail page is written to, or read from, a frame that is not its compound page's:"
        " its struct page shows something else's contents, and compound_head() of it leads"
        " elsewhere. If the frame is in use by somebody else, initialising the device overwrote"
        " it, and removing the device drops a reference that is not its own.",
        look_at="Whose frame it is: the compound page's own head (population slipped by one"
        " entry), another compound page's (wrong reuse), or a frame of somebody else (corrupted"
        " entry). The reference counts of both frames tell which is older.",
    ),
)
