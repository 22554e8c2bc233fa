# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is found in logs; expected is what the kernel's source says that the messages mean."""

from __future__ import annotations

import pytest

from vmemscope.kernel.printk import Message
from vmemscope.messages import Event, NumberKind, Subject, search

from .logs import BAD_PAGE, MEMORY_FAILURE, PAGE_FAULT, SYSRQ


def events(*texts: str) -> list[Event]:
    """Search a log in which each text is of a caller of its own, all written at once."""
    lines = [text.split("\n") for text in texts]
    mixed = [
        (caller, text[at])
        for at in range(max(map(len, lines)))
        for caller, text in enumerate(lines)
        if at < len(text)
    ]
    return list(
        search(
            Message(number, number * 1000, 4, f"T{caller}", line)
            for number, (caller, line) in enumerate(mixed)
        )
    )


def pfns(event: Event) -> list[int]:
    return [number for meaning, number in event.subjects if meaning is NumberKind.PFN]


def test_a_bad_page_is_one_event() -> None:
    (event,) = events(BAD_PAGE.format(comm="cat", pfn=0x100003))
    assert (event.kind, event.trouble, event.needs_trace) == ("bad page", True, False)
    assert pfns(event) == [0x100003]
    assert event.functions == ("bad_page.cold", "free_unref_page")
    # The words of a struct page are no registers.
    assert all(meaning is not NumberKind.REGISTER for meaning, _ in event.subjects)
    assert len(event.lines) == 15


@pytest.mark.parametrize(
    "comm", ["pfn:dead", "x  pfn:1", "<script>alert(1)</script>", "a: pfn:0x77  pfn:", "  pfn:ff"]
)
def test_a_process_can_not_choose_the_page(comm: str) -> None:
    (event,) = events(BAD_PAGE.format(comm=comm, pfn=0x100003))
    assert pfns(event) == [0x100003]


def test_a_memory_failure() -> None:
    (event,) = events(MEMORY_FAILURE.format(pfn=0x1234))
    assert event.kind == "memory failure"
    assert pfns(event) == [0x1234]


def test_a_page_fault_and_its_registers() -> None:
    text = PAGE_FAULT.replace("{{", "{").replace("}}", "}")
    text = text.replace("{page:0x{pfn:x}}", "ffffea0004000040")
    text = text.replace("{page:0x{other:x}}", "ffffea0004000080")
    (event,) = events(text)
    assert event.kind == "page fault"
    assert event.needs_trace
    assert Subject(NumberKind.ADDRESS, 0xFFFFEA0004000040) in event.subjects
    assert Subject(NumberKind.REGISTER, 0xFFFFEA0004000080) in event.subjects
    # Where it happened, and what is on the stack for certain ("?" is not).
    assert event.functions == ("get_page_from_freelist", "zap_huge_pud")


def test_a_crash_of_another_kind_names_nothing() -> None:
    (event,) = events(SYSRQ)
    assert event.functions == ()
    assert event.needs_trace


def test_callers_are_told_apart() -> None:
    found = events(BAD_PAGE.format(comm="a", pfn=1), BAD_PAGE.format(comm="b", pfn=2))
    assert [(event.caller, pfns(event)) for event in found] == [("T0", [1]), ("T1", [2])]


def test_two_of_one_caller_are_two() -> None:
    text = BAD_PAGE.format(comm="a", pfn=1) + "\n" + BAD_PAGE.format(comm="a", pfn=2)
    assert [pfns(event) for event in events(text)] == [[1], [2]]


def test_an_event_ends() -> None:
    """With its trace, with time, or with a number of lines."""
    after = "\nnothing to do with it 1+0x1/0x2"
    (event,) = events(SYSRQ + after)
    assert event.lines[-1].startswith("---[ end trace")
    late = [
        Message(0, 0, 4, "T1", "BUG: Bad page state in process x  pfn:5"),
        Message(1, 10**10, 4, "T1", "page: refcount:0 mapcount:0 pfn:0x6"),
    ]
    assert [pfns(event) for event in search(late)] == [[5], [6]]
    flood = [Message(0, 0, 4, "T1", "kernel BUG at mm/slub.c:1!")]
    flood += [Message(n, 0, 4, "T1", f" {n:016x}") for n in range(1, 5000)]
    (event,) = search(flood)
    assert len(event.lines) == 256
    assert len(event.subjects) == 64


@pytest.mark.parametrize(
    ("line", "kind", "subject"),
    [
        ("Memory failure: 0x12: already hardware poisoned", "memory failure", ("pfn", 0x12)),
        ("soft offline: 0x12: invalidated", "memory failure", ("pfn", 0x12)),
        ("Soft offlining pfn 0x12 at process virtual address 0x7f", "memory failure", ("pfn", 18)),
        ("BUG: Bad page map in process x  pte:8000 pmd:7", "bad page table", None),
        ("mce: [Hardware Error]: TSC 0 ADDR 3a4000 MISC 86 ", "machine check", ("phys", 0x3A4000)),
        ("{1}[Hardware Error]:   physical_address: 0x0000000012345000", "machine check",
         ("phys", 0x12345000)),
        ("memory offlining [mem 0x140000000-0x147ffffff] failed due to signal backoff",
         "hotplug failed", ("phys", 0x140000000)),
        ("BUG: kernel NULL pointer dereference, address: 0000000000000008", "page fault",
         ("address", 8)),
        ("Unable to handle kernel paging request at virtual address fffffdffc0000000",
         "page fault", ("address", 0xFFFFFDFFC0000000)),
        ("BUG: Unable to handle kernel data access on read at 0xc00c000001000000", "page fault",
         ("address", 0xC00C000001000000)),
        ("Failing address: 0000037202a00000 TEID: 0000037202a00403", "page fault",
         ("address", 0x37202A00000)),
        ("Oops: general protection fault, maybe for address 0xffff88: 0000 [#1] SMP",
         "general protection fault", ("address", 0xFFFF88)),
        ("WARNING: CPU: 0 PID: 5 at mm/gup.c:1 try_grab_folio+0x1/0x2", "warning", None),
        ("WARNING: mm/gup.c:1 at try_grab_folio+0x1/0x2, CPU#0: x/5", "warning", None),
        ("kernel BUG at mm/memremap.c:1!", "kernel bug", None),
    ],
)  # fmt: skip
def test_messages_of_kernels(line: str, kind: str, subject: tuple[str, int] | None) -> None:
    meanings = {
        "pfn": NumberKind.PFN, "phys": NumberKind.PHYSICAL, "address": NumberKind.ADDRESS
    }  # fmt: skip
    (event,) = events(line)
    assert (event.kind, event.trouble) == (kind, True)
    named = [one for one in event.subjects if one.meaning is not NumberKind.REGISTER]
    assert named == ([Subject(meanings[subject[0]], subject[1])] if subject else [])


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("HugeTLB: registered 2.00 MiB page size, pre-allocated 0 pages", "HugeTLB"),
        ("Built 1 zonelists, mobility grouping on.  Total pages: 1", "hotplug"),
        ("Offlined Pages 32768", "hotplug"),
        ("device_dax dax0.0: mapping0: 0x1-0x2 could not reserve range", "device memory"),
        ("nd_pmem namespace0.0: unable to guarantee persistence of writes", "device memory"),
    ],
)
def test_notices(line: str, kind: str) -> None:
    (event,) = events(line)
    assert (event.kind, event.trouble, event.subjects) == (kind, False, ())


@pytest.mark.parametrize(
    "line",
    [
        "systemd[1]: Memory failure: 0x12: x",
        "audit: BUG: Bad page state in process x  pfn:5",
        "usb 1-1: WARNING: x",
        "page allocation failure",
        "",
        "x" * 5000,
    ],
)
def test_other_messages_are_none(line: str) -> None:
    assert events(line) == []


def test_functions_in_a_trace_of_s390x() -> None:
    """arch/s390/kernel/dumpstack.c: show_registers(), show_trace(); those in parentheses are left
    over on the stack."""
    lines = (
        "Unable to handle kernel pointer dereference in virtual kernel address space",
        "Failing address: 0000037202a00000 TEID: 0000037202a00403",
        "Krnl PSW : 0704c00180000000 00000000001d2f3a (zap_huge_pud+0x12a/0x230)",
        "Call Trace:",
        " [<00000000001d2f3a>] memmap_init_zone_device+0x12a/0x230",
        "([<00000000001d2f3a>] free_unref_page+0x1a/0x230)",
        " [<0000000000a1b2c3>] __do_syscall+0x1d4/0x200",
    )
    (event,) = search(Message(n, 0, 4, "T1", line) for n, line in enumerate(lines))
    assert event.functions == ("zap_huge_pud", "memmap_init_zone_device")
    assert [one.number for one in event.subjects if one.meaning is NumberKind.ADDRESS] == [
        0x372_02A0_0000
    ]
