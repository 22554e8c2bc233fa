# SPDX-License-Identifier: LGPL-2.1-or-later
"""
One page of simulated kernels, compared with drgn's helpers and a walk entry by entry.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path

import jsonschema
import pytest
from drgn import FaultError
from drgn.helpers.linux.mm import (
    PageHead,
    PageTail,
    compound_head,
    compound_order,
    decode_page_flags_value,
    follow_phys,
    page_to_pfn,
    pfn_to_page,
    pfn_to_virt,
)
from drgn.helpers.linux.mmzone import decode_section_flags, pfn_to_section

from vmemscope.audits.page import audit, audit_each
from vmemscope.cli.main import main
from vmemscope.errors import UsageError
from vmemscope.machine import Kernel
from vmemscope.report import schema_text, to_document
from vmemscope.report.documents.page import PageReport
from vmemscope.report.page import render_page

from . import kernels
from .kernels import (
    DEVICE,
    KERNELS,
    PAGE,
    STRUCT_PAGE,
    Dumps,
    View,
    filtered,
    image,
    undocumented,
    write,
)
from .patched import Memory
from .test_memmap import optimise, struct_page

VALIDATOR = jsonschema.Draft202012Validator(json.loads(schema_text("vmemscope.page/1")))


class Pages:
    """The pages of a dump of a simulated kernel."""

    def __init__(self, core: str | Path, view: View | None = None) -> None:
        self.core = str(core)
        self.view = view or View(core)

    def page(self, number: int, meaning: str | None = None) -> PageReport:
        """Audit a page; each report fits the schema, and lines are lines."""
        report = audit(self.kernel.again(), number, meaning)
        VALIDATOR.validate(to_document(report))
        assert all(line.isprintable() for line in render_page(report).splitlines())
        return report

    @cached_property
    def kernel(self) -> Kernel:
        """The dump, opened once: each audit reads it anew."""
        return Kernel.open_core(self.core)

    @cached_property
    def mapped(self) -> dict[int, tuple[int, int]]:
        """Mapped pages of the vmemmap: address -> frame, bytes of the leaf."""
        return self.view.pages()

    @cached_property
    def free(self) -> int:
        """The first pfn of the largest free block."""
        return max(Memory(self.view.prog).free)[1]


Make = Callable[[str, str], Pages]


@pytest.fixture(scope="module")
def pages(dumps: Dumps) -> Make:
    """Return the pages of a scenario's dump, made once for each kernel."""
    return cache(lambda *key: Pages(dumps.core(*key), dumps.view(*key)))


def planted_pfn(dumps: Dumps, scenario: str, kernel: str) -> int:
    """Return the pfn whose struct page the first fault of a dump is in."""
    vaddr = dumps.planted(scenario, kernel)[0].vaddr
    return (vaddr - dumps.view(scenario, kernel).vmemmap) // STRUCT_PAGE


# Of the kernel with five devices: heads and tails, of 2M and 1G, in head frames
# and tail frames, base pages, an altmap's data, RAM in use, free, at the ends.
PAGES = (
    0x100000, 0x100001, 0x10003F, 0x100040, 0x1001FF, 0x100200, 0x11FFFF,
    0x150000, 0x150040, 0x18FFFF, 0x190000, 0x1FFFFF,
    0x120E00, 0x120E01, 0x14FFFF,
    0x210000, 0x21FFFF, 0x220000, 0x25FFFF,
    0, 1, 0xFF, 0x1000, 0x1001, 0x8000, 0x20000, 0x3FFFF,
)  # fmt: skip


def follows_head(one: Pages, pfn: int) -> bool:
    # By the flag alone: what follows a tail that looks like a head is, in that
    # frame, the first tail.
    try:
        before = one.view.words(pfn - 1)
    except (FaultError, OverflowError):
        return False
    return bool(before[0] >> one.view.prog["PG_head"].value_() & 1 and not before[1] & 1)


def check_against_drgn(one: Pages, pfn: int, kernel: str) -> None:
    report = one.page(pfn, "pfn")
    prog, view = one.view.prog, one.view
    page = pfn_to_page(prog, pfn)
    assert (report.pfn, report.physical) == (pfn, pfn * PAGE)
    assert report.page.address == page.value_()
    assert page_to_pfn(page).value_() == pfn

    # The way, and where it leads.
    entries = [(at & -PAGE, at % PAGE // 8, entry) for _, at, entry in view.path(page.value_())]
    assert [(step.table, step.index, step.entry) for step in report.walk] == entries
    frame = follow_phys(prog["init_mm"].address_of_(), page.value_()).value_() // PAGE
    assert report.frame is not None
    assert report.frame.pfn == frame
    last = report.walk[-1]
    assert last.kind == "leaf"
    assert report.frame.leaf_size == last.size == one.mapped[page.value_() & -PAGE][1]

    # The struct page, where it is in the dump.
    assert report.page.readable
    assert [word.value for word in report.page.words] == list(view.words(pfn))
    flags = report.page.flags
    assert flags is not None
    raw = view.words(pfn)[0]
    if kernel != "6.1" and follows_head(one, pfn):
        # folio->_flags_1: the low byte is the order.
        raw &= ~0xFF
    named = decode_page_flags_value(prog, raw)
    assert set(flags.names) == (set(named.split("|")) if named != "0" else set())
    assert report.page.refcount == page._refcount.counter.value_()
    compound = report.page.compound
    assert compound is not None
    assert (compound.role == "head") == PageHead(page)
    assert (compound.role in ("tail", "fake-head")) == PageTail(page)
    if compound.role != "none":
        head = compound_head(page)
        assert compound.head_pfn == page_to_pfn(head).value_()
        assert compound.order == compound_order(head).value_()
    on_frame = pfn_to_page(prog, frame)
    if report.frame.memory == "RAM":
        assert report.frame.page.refcount == on_frame._refcount.counter.value_()

    # Whose it is.
    section = pfn_to_section(prog, pfn)
    assert len(report.section.flags) == decode_section_flags(section).count("|") + 1
    assert report.section.valid
    zone = prog.type("enum zone_type").enumerators[view.words(pfn)[0] >> 51 & 7].name
    assert report.zone == zone.removeprefix("ZONE_").replace("NORMAL", "Normal").replace(
        "DEVICE", "Device"
    )
    assert report.node == view.words(pfn)[0] >> 54

    # Who shares the frame. Of a device's, that is all there are.
    sharers = {va for va, (other, _) in one.mapped.items() if other == frame}
    assert report.sharing is not None
    near = {va for va in sharers if report.sharing.start <= va < report.sharing.end}
    assert near == sharers or report.place is None
    runs = report.sharing.runs
    assert {run.address + i * PAGE for run in runs for i in range(run.pages)} == near
    assert report.sharing.pages == len(near)
    assert all(run.first_pfn * STRUCT_PAGE + view.vmemmap == run.address for run in runs)


@pytest.mark.parametrize("kernel", KERNELS)
def test_against_drgn(pages: Make, kernel: str) -> None:
    one = pages("mixed", kernel)
    # 1G compound pages start off their alignment here: 7.2 resolves their tails wrong.
    for pfn in PAGES:
        if not (kernel == "7.2" and 0x150000 <= pfn <= 0x1FFFFF):
            check_against_drgn(one, pfn, kernel)


def test_against_drgn_with_other_tables_and_nodes(pages: Make, dumps: Dumps) -> None:
    for scenario, kernel in (("4-level", "6.12"), ("two-nodes", "7.2"), ("early-section", "6.1")):
        one = pages(scenario, kernel)
        for (start, end), *_ in dumps.made(scenario, kernel).ranges.values():
            for pfn in (start, start + 65, end - 1):
                check_against_drgn(one, pfn, kernel)
        check_against_drgn(one, 0x1234, kernel)


@pytest.mark.parametrize("kernel", KERNELS)
def test_against_drgn_where_hugetlb_shrank_the_memory_map(pages: Make, kernel: str) -> None:
    one = pages("hugetlb", kernel)
    heads = {
        (leaf.va - one.view.vmemmap) // STRUCT_PAGE // 512 * 512
        for leaf in one.view.leaves()
        if not leaf.entry & kernels.RW
    }
    assert len(heads) == 8
    for head in sorted(heads):
        for within in (0, 1, 2, 63, 64, 65, 127, 128, 511):
            check_against_drgn(one, head + within, kernel)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_tail_page_in_words(pages: Make, kernel: str) -> None:
    report = pages("mixed", kernel).page(0x100243)
    place = report.place
    assert place is not None
    assert (place.name, place.type, place.populated, place.altmap) == (
        "dax0.0", "generic", "compound", None,
    )  # fmt: skip
    assert (place.compound, place.head_pfn, place.order) == (1, 0x100200, 9)
    assert report.frame is not None
    assert report.state == (
        "device memory of dax0.0 (generic), node 0",
        "tail 67 of the compound page of order 9 with head pfn 0x100200",
        f"its struct page lies in pfn {report.frame.pfn:#x} of RAM, which 7 pages of the compound"
        " page's memory map share",
    )
    assert [name.name for name in report.resources] == ["Persistent Memory", "dax0.0"]
    assert report.sharing is not None
    assert report.findings == report.not_read == ()
    assert report.walk[-1].flags == ("PRESENT", "RW", "ACCESSED", "DIRTY", "GLOBAL", "NX")
    assert "PSE" not in report.walk[-1].flags


@pytest.mark.parametrize("kernel", KERNELS)
def test_pages_of_ram_in_words(pages: Make, kernel: str) -> None:
    # With and without the enumeration of page types.
    one = pages("mixed", kernel)
    free = one.page(one.free)
    assert free.page.type == "buddy"
    assert free.state[0].startswith("System RAM, node 0, zone DMA")
    assert free.state[1] == "free, in the buddy allocator"
    assert free.place is None
    assert free.walk[-1].flags[-3:] == ("PSE", "GLOBAL", "NX")
    memmap = one.view.leaf(one.view.vmemmap)
    assert memmap is not None
    used = one.page(memmap.pfn)
    assert "reserved: the page allocator has nothing to do with it" in used.state


# What the number means.


def test_meanings(pages: Make) -> None:
    one = pages("mixed", "6.12")
    prog, view = one.view.prog, one.view
    text = prog.symbol("vmemmap_populate").address
    direct = pfn_to_virt(prog, 0x1234).value_() + 5
    for number, forced, kind, pfn in (
        (0x100001, None, "pfn", 0x100001),
        (0x100001, "phys", "physical", 0x100),
        (0x100001000, None, "physical", 0x100001),
        (0x100001FFF, None, "physical", 0x100001),
        (view.vmemmap + 0x100001 * STRUCT_PAGE, None, "struct-page", 0x100001),
        (view.vmemmap + 0x100001 * STRUCT_PAGE + 63, None, "struct-page", 0x100001),
        (direct, None, "virtual", 0x1234),
        (text, None, "virtual", follow_phys(prog["init_mm"].address_of_(), text).value_() >> 12),
        (0x50000, "pfn", "pfn", 0x50000),
    ):
        report = one.page(number, forced)
        assert (report.meaning.kind, report.pfn) == (kind, pfn), hex(number)
        assert report.meaning.number == number
    assert "(--phys)" in one.page(0x100001).meaning.words
    assert "(the direct map)" in one.page(direct).meaning.words
    assert "(the direct map)" not in one.page(text).meaning.words
    assert one.page(view.vmemmap + 63).meaning.words == "63 bytes into a struct page"


@pytest.mark.parametrize(
    ("number", "forced", "message"),
    [
        (1 << 40, "pfn", "no page frame number"),
        (1 << 52, "phys", "no physical address"),
        (0x1000, "address", "no virtual address of the kernel"),
        (1 << 60, None, "no virtual address of the kernel"),
        ((1 << 64) - 4096, None, "nothing mapped"),
    ],
)
def test_what_can_be_no_page(pages: Make, number: int, forced: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pages("mixed", "6.12").page(number, forced)


def test_a_page_that_there_is_not(pages: Make) -> None:
    one = pages("mixed", "6.12")
    for number, forced, kind, pfn in (
        (0x80000, "pfn", "pfn", 0x80000),
        (0x7_0000_0000, None, "physical", 0x700000),
        (0x7_0000_0000, "phys", "physical", 0x700000),
    ):
        report = one.page(number, forced)
        assert (report.meaning.kind, report.pfn) == (kind, pfn)
        assert not report.section.present
        assert (report.frame, report.sharing, report.place) == (None, None, None)
        assert not report.page.readable
        assert report.walk[-1].kind == "hole"
        assert report.state == (
            "no memory that the kernel has struct pages for",
            "there is no struct page for it: its section is not present",
        )
        assert report.not_read == ()


# What can't be read, is wrong, or odd.


def test_an_altmaps_own_pages(pages: Make) -> None:
    one = pages("mixed", "6.12")
    for pfn, altmap in ((0x120000, "reserve"), (0x120002, "map"), (0x120E00, "data")):
        report = one.page(pfn)
        assert report.place is not None
        assert report.place.altmap == altmap
        assert report.frame is not None
        assert report.frame.memory == "device"
    reserve = one.page(0x120000)
    assert reserve.state[1].endswith("what they say means nothing")
    assert reserve.findings == ()
    assert (reserve.node, reserve.zone) == (0, "Device")


@pytest.mark.parametrize(
    ("fault", "kernel", "kind"),
    [
        ("unreadable-table", "6.1", "unreadable"),
        ("unreadable-struct-page", "6.12", "leaf"),
        ("unreadable-frame", "6.12", "leaf"),
        ("hole", "7.2", "hole"),
        ("refcount-high", "6.1", "leaf"),
        ("refcount-low", "6.1", "leaf"),
        ("frame-freed", "6.12", "leaf"),
        ("subsection-lost", "6.1", "leaf"),
    ],
)
def test_page_with_a_fault(pages: Make, dumps: Dumps, fault: str, kernel: str, kind: str) -> None:
    pfn = planted_pfn(dumps, fault, kernel)
    report = pages(fault, kernel).page(pfn)
    # Counts and marks are for reading: of one page they can't be judged.
    assert report.findings == ()
    assert bool(report.not_read) == fault.startswith("unreadable")
    assert report.section.valid == (fault != "subsection-lost")
    last, frame = report.walk[-1], report.frame
    assert (last.kind, frame is None) == (kind, kind != "leaf")
    if fault == "unreadable-table":
        assert (last.entry, report.sharing) == (None, None)
        assert report.not_read == (
            "page tables on the way to the struct page: 1",
            "pages of vmemmap whose page tables are missing, and which may map this page: 512",
        )
    if fault in ("unreadable-struct-page", "unreadable-frame"):
        assert frame is not None
        assert not (report.page.readable and frame.page.readable)
    if fault == "frame-freed":
        assert frame is not None
        assert frame.page.refcount == 0


def test_a_mask_that_leads_to_another_devices_page(pages: Make) -> None:
    # A stock 7.2 kernel, with 1G pages off a 1G boundary.
    report = pages("mixed", "7.2").page(0x150003)
    compound, place = report.page.compound, report.place
    assert compound is not None
    assert place is not None
    assert (compound.role, compound.encoding, compound.head_pfn) == ("tail", "mask", 0x140000)
    assert place.head_pfn == 0x150000
    assert any("its struct page does not say so" in line for line in report.state)
    assert {one.rule for one in report.findings} == {"compound-head"}


def test_very_many_runs_are_counted(tmp_path: Path) -> None:
    # Every other page of a 1G compound page's memory map has the frame of another page.
    built = kernels.image("devdax-1g", "6.12")
    kernel = built.kernel
    record = kernel.pagemaps[0]
    start = record.ranges[0][0]
    va = struct_page(kernel, start)
    other = kernel.pages.alloc_page()
    for i in range(3, 203, 2):
        entry = kernel.tables.entry(va + i * PAGE, kernels.PTE_SHIFT)
        kernel.tables.set(va + i * PAGE, kernels.PTE_SHIFT, entry & ~kernels.FRAME | other << 12)
    report = Pages(kernels.write(built, tmp_path)).page(start + 3 * 64)
    assert report.sharing is not None
    assert (report.sharing.pages, len(report.sharing.runs)) == (100, 32)
    assert report.sharing.runs_left_out == 68


def test_tails_that_look_like_heads(tmp_path: Path) -> None:
    # HugeTLB's optimization from 5.18 to 7.0: all pages of a huge page's memory map
    # have the frame of the first.
    built = kernels.image(DEVICE, "6.12")
    kernel = built.kernel
    head = 0x8000
    optimise(kernel, head, None)
    va = struct_page(kernel, head)
    leaf = kernel.tables.leaf(va)
    assert leaf is not None
    words = kernel.physical.words((leaf[1] & kernels.FRAME) >> 12).reshape(64, 8)
    words[0, 0] |= kernel.memmap.flag("head")
    words[0, 1] = 0
    words[1:, 1] = va + 1
    words[1, 0] = int(words[1, 0]) & ~0xFF | 9
    one = Pages(kernels.write(built, tmp_path))
    real, fake, tail = one.page(head), one.page(head + 64), one.page(head + 65)
    for report, role in ((real, "head"), (fake, "fake-head"), (tail, "tail")):
        compound = report.page.compound
        assert compound is not None
        assert (compound.role, compound.head_pfn, compound.order) == (role, head, 9)
        page = pfn_to_page(one.view.prog, report.pfn)
        assert PageHead(page) == (role == "head")
        assert page_to_pfn(compound_head(page)).value_() == head
        assert report.sharing is not None
        assert report.sharing.pages == 8
        # Such frames' reference counts are not the number of entries.
        assert not any("a count is wrong" in line for line in report.state)
    assert "RW" not in fake.walk[-1].flags
    assert "RW" in real.walk[-1].flags


# Memory that is not online.

BLOCKS = """
ram = "256M"
[[block]]
start = 0x140000000
size = "128M"
[[block]]
start = 0x148000000
size = "128M"
online = true
[[block]]
start = 0x150000000
size = "128M"
[[block]]
start = 0x158000000
size = "128M"
online = true
[[pagemap]]
name = "dax0.0"
type = "devdax"
start = 0x100000000
size = "64M"
align = "2M"
"""


@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_is_read_into_struct_pages_that_are_not_online(pages: Make, kernel: str) -> None:
    one = pages(BLOCKS, kernel)
    words = set()
    # Before and between blocks that are online, at both ends: their words are random.
    for pfn in (*range(0x140000, 0x140020), 0x147FFF, 0x150000, 0x152345, 0x157FFF):
        report = one.page(pfn, "pfn")
        assert not report.section.online
        assert [word.value for word in report.page.words] == list(one.view.words(pfn))
        words.add(one.view.words(pfn)[0])
        assert not report.page.initialised
        read = (report.page.flags, report.page.compound, report.page.refcount, report.page.type)
        assert read == (None,) * 4
        assert (report.node, report.zone, report.page.poisoned) == (None, None, None)
        assert report.state[0] == "System RAM that is not online: it is in no zone"
        assert report.state[1].endswith("what it says means nothing")
        assert (report.findings, report.not_read) == ((), ())
    assert len(words) > 20
    for pfn in (0x148000, 0x14FFFF, 0x158000, 0x8000, 0x100000, 0x100041):
        report = one.page(pfn, "pfn")
        assert report.page.initialised
        zone = report.page.flags
        assert zone is not None
        assert (report.node, report.zone) == (0, zone.zone_name) != (0, None)
        assert report.section.online == (pfn < 0x100000 or pfn > 0x140000)


def test_memory_from_boot_that_was_taken_offline(tmp_path: Path) -> None:
    built = kernels.image(BLOCKS, "6.12")
    section = built.kernel.sections.get(1)
    assert section is not None
    section["section_mem_map"] &= ~built.kernel.sections.flag("IS_ONLINE")
    one = Pages(kernels.write(built, tmp_path))
    report = one.page(0x8000, "pfn")
    assert "early" in report.section.flags
    assert not report.page.initialised
    assert (report.node, report.zone) == (None, None)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_struct_page_of_ones_is_not_initialised(pages: Make, dumps: Dumps, kernel: str) -> None:
    report = pages("uninitialised-ones", kernel).page(
        planted_pfn(dumps, "uninitialised-ones", kernel)
    )
    assert not report.page.initialised
    assert report.page.compound is None
    assert any("is not initialised: it says nothing" in line for line in report.state)


def test_a_subsection_that_is_not_valid_in_a_section_from_boot(tmp_path: Path) -> None:
    # pfn_valid(): "early sections always returned pfn_valid() for the entire section".
    built = kernels.image(BLOCKS, "6.12")
    for number, pfn in ((1, 0x8000 + 5 * 512), (32, 0x100000 + 5 * 512)):
        section = built.kernel.sections.get(number)
        assert section is not None
        usage = built.kernel.memory.struct("mem_section_usage", section["usage"])
        usage["subsection_map[0]"] &= ~(1 << 5)
        assert pfn // 32768 == number
    one = Pages(kernels.write(built, tmp_path))
    early, late = one.page(0x8000 + 5 * 512), one.page(0x100000 + 5 * 512)
    assert (early.section.valid, late.section.valid) == (False, False)
    assert any("returns true all the same" in line for line in early.state)
    assert any("pfn_valid() returns false" in line for line in late.state)


# What a page backs.


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("scenario", ["mixed", "hugetlb", "devdax-1g", BLOCKS])
def test_what_of_the_memory_map_lies_in_a_page(pages: Make, scenario: str, kernel: str) -> None:
    one = pages(scenario, kernel)
    users: dict[int, list[int]] = {}
    for va, (frame, _) in one.mapped.items():
        users.setdefault(frame, []).append(va)
    # Frames of all kinds: most shared first, of RAM, of devices, the ends, and none.
    chosen = sorted(users, key=lambda frame: (-len(users[frame]), frame))
    chosen = [*chosen[:3], *chosen[-3:], *sorted(users)[:: max(len(users) // 12, 1)]]
    for frame in {*chosen, max(users), one.free}:
        report = one.page(frame, "pfn")
        if frame not in users:
            assert report.backs is None
            continue
        assert report.backs is not None
        assert report.backs.pages == len(users[frame])
        listed = [run.address + i * PAGE for run in report.backs.runs for i in range(run.pages)]
        wanted = sorted(users[frame])
        assert listed == wanted[: len(listed)]
        assert (report.backs.runs_left_out > 0) == (len(listed) < len(wanted))
        for run in report.backs.runs:
            first = (run.address - one.view.vmemmap) // STRUCT_PAGE
            assert run.first_pfn == first
            assert run.last_pfn == first + run.pages * 64 - 1
            at = one.page(run.first_pfn, "pfn").place
            assert run.pgmap == (at.address if at is not None else None)
        assert any(line.startswith("it backs") for line in report.state)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_page_of_a_memory_failure(pages: Make, dumps: Dumps, kernel: str) -> None:
    one = pages("frame-poisoned", kernel)
    frame = one.page(planted_pfn(dumps, "frame-poisoned", kernel)).frame
    assert frame is not None
    report = one.page(frame.pfn, "pfn")
    assert report.page.poisoned == "page"
    assert report.backs is not None
    # Compound page 5 of 2M from 4G, all of its tails but those beside the head.
    head = 0x100000 + 5 * 512
    (run,) = report.backs.runs
    assert (run.first_pfn, run.last_pfn, run.pages) == (head + 64, head + 511, 7)
    assert (run.name, run.head_pfn, report.backs.compounds) == ("dax0.0", head, 1)
    assert (report.backs.elsewhere, report.backs.runs_left_out) == (0, 0)
    assert any("PG_hwpoison" in line for line in report.state)
    (said,) = [line for line in report.state if line.startswith("it backs")]
    assert f"{head:#x}" in said
    assert "dax0.0" in said
    assert any("struct pages are lost" in line for line in report.state)
    # And of a page whose struct page lies there.
    assert any("that frame is poisoned" in line for line in one.page(head + 100).state)


@pytest.mark.parametrize("kernel", KERNELS)
def test_tails_of_a_poisoned_compound_page(tmp_path: Path, kernel: str) -> None:
    # mf_generic_kill_procs() marks the head of a device-dax page.
    built = kernels.image(DEVICE, kernel)
    memmap = built.kernel.memmap
    memmap.words(0x100000 + 512)[0] |= memmap.flag("hwpoison")
    one = Pages(kernels.write(built, tmp_path))
    for tail in (1, 63, 64, 511):
        report = one.page(0x100000 + 512 + tail, "pfn")
        assert report.page.poisoned == "head"
        assert any("PG_hwpoison is set in the head" in line for line in report.state)
    for pfn, where in ((0x100000 + 512, "page"), (0x100000, None), (0x100001, None)):
        assert one.page(pfn, "pfn").page.poisoned == where


# What surrounds it.


def test_exit_status_of_a_finding(dumps: Dumps, capsys: pytest.CaptureFixture[str]) -> None:
    number = hex(planted_pfn(dumps, "wrong-pgmap", "6.1"))
    core = str(dumps.core("wrong-pgmap", "6.1"))
    assert main(["page", "-c", core, "--format", "json", "--", number]) == 1
    VALIDATOR.validate(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize("number", ["zero", "-1", "0x10000000000000000"])
def test_no_number(capsys: pytest.CaptureFixture[str], number: str) -> None:
    assert main(["page", "--sim", "empty", "--", number]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vmemscope: error: ")


def test_the_manual_names_every_field_of_the_document(pages: Make) -> None:
    document = to_document(pages("mixed", "7.2").page(0x100243))
    assert undocumented(document, "page") == set()


@pytest.mark.parametrize("kernel", KERNELS)
def test_several_pages_at_once_are_as_each_alone(tmp_path: Path, kernel: str) -> None:
    """What can't be read for one of them is not said of another."""
    one = image("[[hugetlb]]\noptimized = false\n", kernel)
    whole = write(one, tmp_path)
    pages = Kernel.open_core(str(whole))
    (folio,) = one.kernel.hugetlb.folios
    # Frames of its memory map: that of the head is lost, the next has tail pages only.
    lost, tails = (
        follow_phys(pages.prog["init_mm"].address_of_(), pfn_to_page(pages.prog, pfn).value_())
        .value_() // PAGE
        for pfn in (folio.pfn, folio.pfn + PAGE // STRUCT_PAGE)
    )  # fmt: skip
    core = str(filtered(Path(whole), tmp_path / "without", {lost}))
    pfns = [0x10, tails, lost, 0x11]
    together = map(to_document, audit_each(Kernel.open_core(core), pfns))
    alone = [to_document(audit(Kernel.open_core(core), pfn, "pfn")) for pfn in pfns]
    assert [{**one, "timings": None} for one in together] == [
        {**one, "timings": None} for one in alone
    ]
    assert [bool(one["summary"]["not_read"]) for one in alone] == [False, True, False, False]
