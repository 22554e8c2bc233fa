# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What the kernel writes to its log about memory that vmemscope can explain.

Each pattern names its source in the kernel. Groups named ``pfn``, ``phys`` and ``address``
are hexadecimal numbers; ``doubtful`` is an address of the kernel only if :data:`OF_KERNEL`
matches the next line. Text before a number may be a process's name, which the process
chooses: a pattern takes the last place that fits.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = (
    "ENDS",
    "NOTICES",
    "OF_KERNEL",
    "OF_WHOM",
    "TRACE",
    "TROUBLE",
    "WORDS_OF",
    "Pattern",
    "is_about_memory",
)


class Pattern(NamedTuple):
    """A message of the kernel."""

    #: what it is about, in words
    kind: str
    regex: re.Pattern[str]
    #: whether it counts only with a function of memory management in its trace, or with a
    #: page that can be explained
    needs_trace: bool = False


def _pattern(kind: str, regex: str, *, needs_trace: bool = False) -> Pattern:
    return Pattern(kind, re.compile(regex), needs_trace)


_HEX = "(?:0x)?{}[0-9a-f]+)"
_PFN, _PHYS, _ADDRESS, _DOUBTFUL = (
    _HEX.format(f"(?P<{name}>") for name in ("pfn", "phys", "address", "doubtful")
)

#: something went wrong
TROUBLE = (
    # mm/page_alloc.c: bad_page()
    _pattern("bad page", rf"^BUG: Bad page state in process .*  pfn:{_PFN}$"),
    # mm/memory.c: print_bad_pte(), print_bad_page_map()
    _pattern("bad page table", r"^BUG: Bad (?:page map|rss-counter|page cache) "),
    # mm/debug.c: __dump_page(), __dump_folio()
    _pattern("dumped page", rf"^page: ?\S* ?refcount:.* pfn:{_PFN}$"),
    # mm/memory-failure.c
    _pattern("memory failure", rf"^Memory failure: {_PFN}: "),
    _pattern("memory failure", rf"^(?:Injecting memory failure for|MCE: .*) pfn {_PFN} "),
    _pattern("memory failure", rf"^(?:soft offline|Soft offlining pfn):? {_PFN}[ :]"),
    _pattern("memory failure", rf"^unpoison: .* {_PFN}$"),
    # arch/x86/kernel/cpu/mce/core.c: __print_mce()
    _pattern("machine check", rf"^mce: \[Hardware Error\]: .*\bADDR {_PHYS}\b"),
    # drivers/firmware/efi/cper.c: cper_print_mem()
    _pattern("machine check", rf"\[Hardware Error\]: *physical_address: {_PHYS}"),
    # mm/memory_hotplug.c
    _pattern("hotplug failed", rf"^memory offlining \[mem {_PHYS}-0x[0-9a-f]+\] failed"),
    _pattern("hotplug failed", rf"^removing memory fails, because memory \[{_PHYS}-"),
    _pattern("hotplug failed", rf"^(?:failed to isolate|migrating) pfn {_PFN}\b"),
    # mm/memremap.c
    _pattern("memremap", r"^memremap attempted on (?:mixed|ram) range "),
    # arch/x86/mm/fault.c, arch/arm64/mm/fault.c, arch/riscv/mm/fault.c
    _pattern(
        "page fault",
        rf"^BUG: (?:unable to handle page fault for|kernel NULL pointer dereference,)"
        rf" address: {_ADDRESS}$",
        needs_trace=True,
    ),
    _pattern(
        "page fault",
        rf"^Unable to handle kernel .* at virtual address {_ADDRESS}$",
        needs_trace=True,
    ),
    # arch/powerpc/mm/fault.c, arch/s390/mm/fault.c
    _pattern(
        "page fault",
        rf"^BUG: Unable to handle kernel (?:data access|instruction fetch).* at {_ADDRESS}$",
        needs_trace=True,
    ),
    # The last two bits of the TEID say in which address space: 3 is the home space, which is
    # the kernel's. The next line says whose the others are.
    _pattern(
        "page fault", rf"^Failing address: {_ADDRESS} TEID: [0-9a-f]{{15}}[37bf]", needs_trace=True
    ),
    _pattern("page fault", rf"^Failing address: {_DOUBTFUL} TEID: ", needs_trace=True),
    # arch/x86/kernel/traps.c: exc_general_protection()
    _pattern(
        "general protection fault",
        r"^(?:Oops: )?general protection fault"
        rf"(?:, (?:probably|maybe) for .*address {_ADDRESS})?(?::|$)",
        needs_trace=True,
    ),
    # lib/bug.c, kernel/panic.c: __warn()
    _pattern("warning", r"^WARNING: (?:CPU: \d+ PID: \d+ at )?\S", needs_trace=True),
    _pattern("kernel bug", r"^kernel BUG at \S", needs_trace=True),
    # also arch/arm64/kernel/traps.c: die(): "synchronous external abort", which a memory error is
    _pattern("oops", r"^(?:Internal error: \S|Oops(?: -|:) )", needs_trace=True),
    _pattern("stuck", r"^(?:watchdog: )?BUG: soft lockup ", needs_trace=True),
)

#: the kernel reports what it did
NOTICES = (
    # mm/hugetlb.c, mm/hugetlb_vmemmap.c
    _pattern("HugeTLB", r"^(?:HugeTLB|hugetlb)\b"),
    # mm/memory_hotplug.c
    _pattern("hotplug", r"^(?:Offlined Pages \d|Built \d+ zonelists|memory_hotplug: )"),
    # drivers/dax, drivers/nvdimm, mm/memremap.c
    _pattern("device memory", r"^(?:device_dax|dax\d|dax_\w+|nd_\w+|namespace\d|pmem\d|nfit|hmem)"),
    _pattern("device memory", r"\bmemremap|^pgmap|\bZONE_DEVICE\b"),
)

#: the last line of what a warning or an oops writes: kernel/panic.c, kernel/exit.c
ENDS = re.compile(r"^---\[ end (?:trace|Kernel panic)")
#: a function in a trace that is on the stack for certain, or where it happened
TRACE = re.compile(
    r"^(?: ?\[<[0-9a-f]+>\] |RIP: [0-9a-f]{4}:|pc : |epc : |NIP \[[0-9a-f]+\] "
    r"|Krnl PSW : [0-9a-f]+ [0-9a-f]+ \(| )"
    r" *(?!\?)([A-Za-z_][\w.]*)\+0x[0-9a-f]+/0x[0-9a-f]+"
)
#: arch/s390/mm/fault.c: dump_fault_info(): the address in the line before is the kernel's
OF_KERNEL = re.compile(r"^Fault in .* while using kernel ASCE\.")
#: arch/s390/kernel/dumpstack.c: show_registers(): those of a process follow, or of the kernel
OF_WHOM = re.compile(r"^(?:(?P<process>User)|Krnl) PSW : ")
#: an address in registers; the words of a struct page and machine code are none
WORDS_OF = re.compile(r"(?<![0-9a-fx])[0-9a-f]{16}(?![0-9a-f])")

_ABOUT_MEMORY = re.compile(
    r"(?:^|_)(?:"
    "vmemmap|memremap|memunmap|pagemap|pgmap|zone_device|hugetlb|hugepage|hugepages|huge_page|"
    "memory_failure|soft_offline|hwpoison|unpoison|bad_page|dax|nvdimm|pmem|nd|"
    "(?:free|alloc|prep|put|get|split|clear|copy|destroy)_(?:new_|huge_|compound_)*"
    "(?:page|pages|folio|pcppages)|free_unref|free_pcp|free_frozen|rmqueue|get_page_from_freelist|"
    "gup|get_user_pages|pin_user_pages|unpin_user|try_grab|follow_page|vmf_insert|insert_pfn|"
    "insert_page|zap_huge|page_remove|folio|"
    "offline_pages|online_pages|add_memory|remove_memory|sparse|memory_block|isolate_migratepages"
    ")(?:_|$|\\.)"
)


def is_about_memory(function: str) -> bool:
    """
    Return whether a function of the kernel deals with pages or the memory map.

    >>> is_about_memory("free_unref_folios"), is_about_memory("sysrq_handle_crash")
    (True, False)
    """
    return _ABOUT_MEMORY.search(function) is not None
