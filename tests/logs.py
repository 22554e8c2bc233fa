# SPDX-License-Identifier: LGPL-2.1-or-later
"""Logs of simulated kernels: what real ones write, with addresses put in."""

from __future__ import annotations

import json

__all__ = ("BAD_PAGE", "GENERAL_PROTECTION", "MEMORY_FAILURE", "PAGE_FAULT", "SYSRQ", "log")

#: mm/page_alloc.c: bad_page(), with what dump_page() of 6.12 writes
BAD_PAGE = """\
BUG: Bad page state in process {comm}  pfn:{pfn:x}
page: refcount:1 mapcount:0 mapping:0000000000000000 index:0x0 pfn:0x{pfn:x}
flags: 0x17ffffc0000000(node=0|zone=4|lastcpupid=0x1fffff)
raw: 0017ffffc0000000 dead000000000100 dead000000000122 0000000000000000
raw: 0000000000000000 0000000000000000 00000001ffffffff 0000000000000000
page dumped because: nonzero _refcount
Modules linked in: dax_pmem device_dax
CPU: 0 UID: 0 PID: 77 Comm: {comm} Not tainted 6.12
Call Trace:
 <TASK>
 dump_stack_lvl+0x5d/0x80
 bad_page.cold+0x7a/0x91
 free_unref_page+0x3a0/0x4d0
 vfs_write+0xf5/0x450
 </TASK>"""

#: mm/memory-failure.c, after madvise(MADV_HWPOISON)
MEMORY_FAILURE = """\
Injecting memory failure for pfn 0x{pfn:x} at process virtual address 0x7f0000001000
Memory failure: 0x{pfn:x}: recovery action for dirty LRU page: Recovered"""

#: arch/x86/mm/fault.c, of a struct page that is not mapped
PAGE_FAULT = """\
BUG: unable to handle page fault for address: {{page:0x{pfn:x}}}
#PF: supervisor read access in kernel mode
#PF: error_code(0x0000) - not-present page
Oops: Oops: 0000 [#1] PREEMPT SMP NOPTI
CPU: 1 UID: 0 PID: 77 Comm: cat Not tainted 6.12
RIP: 0010:get_page_from_freelist+0x1a/0x30
Code: 0f 1f 44 00 00 48 8b 07 <48> 8b 40 08
RSP: 0018:ffffb1c3c0a0fd58 EFLAGS: 00010246
RAX: 0000000000000000 RBX: {{page:0x{other:x}}} RCX: 0000000000000000
Call Trace:
 <TASK>
 ? __die_body.cold+0x19/0x27
 zap_huge_pud+0x44/0x90
 </TASK>
---[ end trace 0000000000000000 ]---"""

#: arch/x86/kernel/traps.c, with a register that has a struct page
GENERAL_PROTECTION = """\
general protection fault, probably for non-canonical address 0xdead000000000108: 0000 [#1] SMP
CPU: 0 PID: 9 Comm: kworker Not tainted 6.1.0
RIP: 0010:do_something+0x5/0x10
RAX: {{page:0x{pfn:x}}} RBX: 0000000000000001 RCX: 0000000000000000
Call Trace:
 process_one_work+0x1e5/0x3b0"""

#: drivers/tty/sysrq.c: nothing of it is about memory
SYSRQ = """\
sysrq: Trigger a crash
BUG: kernel NULL pointer dereference, address: 0000000000000000
#PF: supervisor write access in kernel mode
Oops: 0002 [#1] PREEMPT SMP NOPTI
RIP: 0010:sysrq_handle_crash+0x1a/0x20
RAX: 0000000000000000 RBX: 0000000000000004 RCX: 0000000000000000
Call Trace:
 __handle_sysrq.cold+0x7c/0x11b
 write_sysrq_trigger+0x24/0x40
 vfs_write+0xf5/0x450
---[ end trace 0000000000000000 ]---"""


def log(*texts: str, start: float = 10.0) -> str:
    """
    Return a scenario's log: each text is written by a process of its own, a second apart.

    :param texts: lines, each a message
    """
    return "".join(
        f"[[message]]\ntime = {start + number + at / 1000:.3f}\n"
        f"text = {json.dumps(line)}\ncaller = {number + 2}\n"
        for number, text in enumerate(texts)
        for at, line in enumerate(text.split("\n"))
    )
