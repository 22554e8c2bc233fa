# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sections: what is valid, and what of the memory map is mapped."""

from __future__ import annotations

from ..legacy import Rule
from ..rule import Scope, Severity

__all__ = ("RULES",)

RULES = (
    Rule(
        "subsection-map",
        Severity.ERROR,
        "all page frames of a pagemap are in valid subsections of present sections",
        "mm/sparse.c: fill_subsection_map()",
        since="5.3",
        scope=Scope.PAGEMAP | Scope.MEMORY_MAP,
        meaning="pfn_valid() is false for memory that a driver holds: pfn_to_online_page(), memory"
        " failure handling, hotplug and page walkers skip it, and a later add of the same"
        " subsections would populate its memory map a second time and leak the first.",
        look_at="Which subsections are missing (struct mem_section: usage->subsection_map, a bit"
        " for each 2 MiB): those of a neighbour that was removed point to section_deactivate()"
        " having cleared too much.",
    ),
    Rule(
        "section-stale",
        Severity.ERROR,
        "what became valid after boot is System RAM or in a pagemap",
        "mm/sparse.c: section_deactivate(), clear_subsection_map()",
        since="5.3",
        scope=Scope.MEMORY_MAP,
        meaning="Subsections are valid that belong to no pagemap and no System RAM: a driver went,"
        " and arch_remove_memory() did not finish. pfn_valid() lets page walkers at struct pages"
        " that describe nothing, and the memory for them is lost until the next boot.",
        look_at="The kernel's log for a warning of section_deactivate() or __remove_pages();"
        " whether a device is going at this very moment; which driver last had the range"
        " (/proc/iomem of an earlier boot).",
    ),
    Rule(
        "section-map",
        Severity.ERROR,
        "all present sections have their memory map in the one vmemmap",
        "mm/sparse.c: sparse_encode_mem_map(), SPARSEMEM_VMEMMAP",
        scope=Scope.MEMORY_MAP,
        meaning="With SPARSEMEM_VMEMMAP, section_mem_map less its flags is the same for all"
        " sections, the start of the vmemmap. A section that differs was overwritten, or vmemscope"
        " misunderstands this kernel's flag bits. SPARSEMEM code that goes by it (kdump tools, for"
        " example) finds its struct pages in the wrong place.",
        look_at="The struct mem_section and its neighbours in the same root: one word off is"
        " damage, all of a root off points to the root's pointer.",
    ),
    Rule(
        "section-usage",
        Severity.ERROR,
        "a section with a memory map says which of its subsections are valid",
        "mm/sparse.c: section_deactivate()",
        since="5.3",
        scope=Scope.MEMORY_MAP,
        meaning="A section has SECTION_HAS_MEM_MAP but no usage: pfn_valid() for a page in it"
        " follows a null pointer. Up to 6.7, and in stable trees before 6.6.15 and 6.1.76,"
        " section_deactivate() could leave it so for a moment (CVE-2023-52489); anything that"
        " lasts is damage.",
        look_at="Whether the kernel has the fix (mm/sparsemem: fix race in accessing"
        " memory_section->usage), and whether memory was being removed.",
    ),
    Rule(
        "section-unmapped",
        Severity.ERROR,
        "the memory map of valid subsections, and of whole sections that were there at boot,"
        " is mapped",
        "mm/sparse.c: sparse_init_nid(), section_activate()",
        scope=Scope.MEMORY_MAP,
        meaning="pfn_valid() says that these struct pages are there, and they are not: the first"
        " page walker to touch one (compaction, memory failure, /proc/kpageflags) takes a fault in"
        " kernel mode.",
        look_at="Whether the part that is not mapped is a whole leaf (vmemmap freed with its"
        " neighbour, see the arm64 fix in 6.14 for sections not aligned) or single pages (failed"
        " population, not rolled back).",
    ),
    Rule(
        "vmemmap-leak",
        Severity.ERROR,
        "nothing of the vmemmap is mapped where no section is present",
        "mm/sparse.c: section_deactivate(), depopulate_section_memmap()",
        scope=Scope.MEMORY_MAP,
        meaning="Vmemmap that describes nothing: the section or pagemap it was made for has gone"
        " and its memory map has not. The memory is lost until the next boot. loongarch never"
        " frees it; elsewhere it is a teardown that went wrong.",
        look_at="The size: whole leaves point to section_deactivate() not reached, single pages to"
        " an error path of vmemmap_populate_compound_pages(); the kernel's log around the last"
        " device removal.",
    ),
    Rule(
        "memmap-counter",
        Severity.WARNING,
        "nr_memmap_pages and nr_memmap_boot_pages are what the kernel's own arithmetic makes of"
        " the memory map that is there",
        "mm/sparse-vmemmap.c: section_nr_vmemmap_pages(); mm/vmstat.c",
        since="6.11",
        scope=Scope.MEMORY_MAP,
        meaning="/proc/vmstat tells another amount of memory map than there is. Nothing breaks,"
        " but who watches memory is misled. Before 6.12.101 and 7.2, pages that deduplication"
        " saves are counted as if they were there, and an add that fails is taken off without"
        " having been added.",
        look_at="The difference in pages: exactly what deduplication saves is the known accounting"
        " of older kernels; a negative counter is an error path.",
    ),
)
