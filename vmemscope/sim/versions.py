# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What the simulated kernels do differently, besides their types.

They are Debian's: 6.1.192, 6.12.117 and 7.2.13, with the fixes of their stable
series in; and "next", which is 7.2 with what mm-unstable of September 2026 changes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ("BEHAVIOUR", "Behaviour")


@dataclass(frozen=True)
class Behaviour:
    """How one kernel behaves."""

    #: memmap_init_compound() calls prep_compound_head() after all tail pages,
    #: not in the loop when it has passed the first one
    prep_compound_head_last: bool
    #: pages of all types but MEMORY_DEVICE_GENERIC are free, reference count 0,
    #: until their driver hands them out (6.15); before, PRIVATE and COHERENT only
    idle_pages_free: bool
    #: kallsyms_offsets holds distances from where each entry is stored (7.0)
    kallsyms_place_relative: bool
    #: per-CPU symbols are in the kernel image, not counted from 0 (6.15)
    percpu_in_image: bool
    #: get_page_bootmem() keeps type and info in page->private, not in
    #: page->index and page->private with PG_private set
    bootmem_info_packed: bool
    #: where whole sections get base pages, the altmap gives these, too (6.2); before, RAM
    altmap_base_pages: bool
    #: ppc64: vmemmap_populate_compound_pages() advances by the page frames that a page of the
    #: vmemmap describes, not by one
    radix_population: bool
    #: bits per pageblock in mem_section_usage.pageblock_flags
    pageblock_bits: int
    #: SYMBOL(vmemmap) and NUMBER(VMALLOC_START) are in VMCOREINFO
    vmcoreinfo_vmemmap: bool
    #: resources that the ranges of a dax_hmem device lie in, outermost first, {}
    #: for its region: 6.1 has the platform device's, too; 7.2 keeps those of soft
    #: reserved memory in a tree of their own
    hmem_resources: tuple[str, ...]
    #: name of the variable that has the highest section that there is
    highest_section: str = "__highest_present_section_nr"


BEHAVIOUR = {
    "6.1": Behaviour(
        prep_compound_head_last=False,
        idle_pages_free=False,
        kallsyms_place_relative=False,
        percpu_in_image=False,
        bootmem_info_packed=False,
        altmap_base_pages=False,
        radix_population=False,
        pageblock_bits=4,
        vmcoreinfo_vmemmap=False,
        hmem_resources=("hmem.{}", "Soft Reserved"),
    ),
    "6.12": Behaviour(
        prep_compound_head_last=False,
        idle_pages_free=False,
        kallsyms_place_relative=False,
        percpu_in_image=False,
        bootmem_info_packed=False,
        altmap_base_pages=True,
        radix_population=False,
        pageblock_bits=4,
        vmcoreinfo_vmemmap=True,
        hmem_resources=("Soft Reserved",),
    ),
    "7.2": Behaviour(
        prep_compound_head_last=True,
        idle_pages_free=True,
        kallsyms_place_relative=True,
        percpu_in_image=True,
        bootmem_info_packed=True,
        altmap_base_pages=True,
        radix_population=True,
        pageblock_bits=8,
        vmcoreinfo_vmemmap=True,
        hmem_resources=(),
    ),
}
#: the coming kernel: the other differences follow from its structures
BEHAVIOUR["next"] = replace(BEHAVIOUR["7.2"], highest_section="__highest_used_section_nr")
