# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What backs the vmemmap and what is in it, against KERNEL-FACTS: numbers seen on
real guests with the same devices, and closed forms.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.kernels import PAGE, STRUCT_PAGE, image

TAIL_MAPPING = 0xDEAD000000000400


def check_refcounts(view, ranges):
    """Base pages: as many references as entries. Large leaves: the first frame has one."""
    entries = Counter()
    for start, end in ranges:
        for _, shift, pfn, _ in view.leaves_of(start, end):
            if shift == 12:
                entries[pfn] += 1
            else:
                assert view.refcount(pfn) == 1
                assert view.refcount(pfn + 1) == view.refcount(pfn + 511) == 0
    for pfn, count in entries.items():
        assert view.refcount(pfn) == count


@pytest.mark.parametrize(
    ("name", "start", "end", "sharing"),
    [
        ("devdax-2m", 0x100000, 0x120000, {1: 256, 7: 256}),
        ("devdax-1g", 0x140000, 0x200000, {1: 3, 4095: 3}),
        ("unaligned-1g", 0x150000, 0x200000, {1: 3, 4095: 2, 3071: 1}),
        ("partial-sections", 0x1D0000, 0x1D4000, {1: 256}),
        ("partial-sections", 0x1D4000, 0x1D8000, {1: 32, 7: 32}),
        ("partial-sections", 0x1F2000, 0x1FDE00, {1: 95, 7: 95}),
        ("several-ranges", 0x100000, 0x108000, {1: 64, 7: 64}),
        ("several-ranges", 0x140000, 0x150000, {1: 128, 7: 128}),
        ("several-ranges", 0x164000, 0x166000, {1: 16, 7: 16}),
        ("4-level", 0x140000, 0x1C0000, {1: 2, 4095: 2}),
        ("5-level", 0xE0000000, 0xE0080000, {1: 2, 4095: 2}),
    ],
)
def test_deduplicated(dumps, kernel, name, start, end, sharing):
    view = dumps.view(name, kernel)
    assert view.sharing(start, end) == sharing
    check_refcounts(view, [(start, end)])
    flags = {entry & ~0xFFFFFFFFFF000 for _, _, _, entry in view.leaves_of(start, end)}
    assert flags == {0x8000000000000163}


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [
        ("devdax-4k", 0x100000, 0x110000),
        ("fsdax", 0x210000, 0x220000),
        ("p2pdma", 0x800000, 0x808000),
        ("device-private", 0x3FF0000, 0x4000000),
        ("coherent", 0x2000000, 0x2010000),
    ],
)
def test_full_sections_get_large_leaves(dumps, kernel, name, start, end):
    view = dumps.view(name, kernel)
    entries = view.leaves_of(start, end)
    assert len(entries) == (end - start) // 32768
    for _, shift, _, entry in entries:
        assert shift == 21
        assert entry & ~0xFFFFFFFFFF000 == 0x80000000000001E3
    check_refcounts(view, [(start, end)])


def test_tail_frames(dumps, kernel):
    """All struct pages of a frame of tails are the same, and those of the head frame, too."""
    view = dumps.view("devdax-2m", kernel)
    read = view.prog.read
    for head in range(0x100000, 0x120000, 512):
        head_frame = read(view.page_va(head), PAGE)
        tail_frame = read(view.page_va(head + 64), PAGE)
        one = tail_frame[:STRUCT_PAGE]
        assert tail_frame == one * 64
        assert head_frame[3 * STRUCT_PAGE :] == one * 61
        assert (head_frame[2 * STRUCT_PAGE :][:STRUCT_PAGE] == one) == (kernel != "7.2")


def test_compound_contents(dumps, kernel):
    """The table of KERNEL-FACTS section 2, word by word."""
    view = dumps.view("devdax-2m", kernel)
    pgmap = view.pgmap.value_()
    reserved = 1 << view.prog["PG_reserved"].value_()
    head_flag = 1 << view.prog["PG_head"].value_()
    links = 4 << 51 | 0x1FFFFF << 30
    head_va = view.page_va(0x100200)
    compound = {"7.2": 0xFFFFFFFFFFFF8001}.get(kernel, head_va | 1)
    ones = 2**64 - 1
    mapcount = 0xFFFFFFFF
    # INIT_LIST_HEAD(&folio->_deferred_list) in page[2]
    deferred = head_va + 2 * STRUCT_PAGE + 16

    head = (links | reserved | head_flag, pgmap, 0, 0, 0, 0, 1 << 32 | mapcount, 0)
    tail = (links | reserved, compound, 0, TAIL_MAPPING, 0, 0, mapcount, 0)
    order = links | reserved | 9
    first, second = {
        "6.1": (
            (links | reserved, compound, 0xFFFFFFFF00000901, 512 << 32, 0, 0, mapcount, 0),
            tail,
        ),
        "6.12": ((order, compound, ones, 0, 512, 0, mapcount, 0), tail),
        "7.2": (
            (order, compound, mapcount, mapcount, ones, 0, mapcount, 512),
            (tail[0], compound, deferred, deferred, 0, 0, mapcount, 0),
        ),
    }[kernel]
    assert view.words(0x100200) == head
    assert view.words(0x100201) == first
    assert view.words(0x100202) == second
    for pfn in (0x100203, 0x10023F, 0x100240, 0x100300, 0x1003FF):
        assert view.words(pfn) == tail


@pytest.mark.parametrize(
    ("name", "pfn", "refcounts"),
    [
        ("devdax-4k", 0x100123, (1, 1, 1)),
        ("fsdax", 0x210123, (1, 1, 0)),
        ("p2pdma", 0x800123, (1, 1, 0)),
        ("device-private", 0x3FF0123, (0, 0, 0)),
        ("coherent", 0x2000123, (0, 0, 0)),
    ],
)
def test_single_pages(dumps, name, pfn, refcounts):
    for kernel, refcount in zip(("6.1", "6.12", "7.2"), refcounts, strict=True):
        view = dumps.view(name, kernel)
        words = view.words(pfn)
        assert words[0] >> 51 & 7 == view.prog["ZONE_DEVICE"].value_()
        assert words[0] >> view.prog["PG_reserved"].value_() & 1
        assert words[1] == view.pgmap.value_()
        assert words[2:6] == (0, 0, 0, 0)
        assert view.refcount(pfn) == refcount


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_compounds_off_their_boundary_before_masks(dumps, kernel):
    view = dumps.view("unaligned-1g", kernel)
    head_flag = view.prog["PG_head"].value_()
    for head in (0x150000, 0x190000, 0x1D0000):
        assert view.words(head)[0] >> head_flag & 1
        assert view.words(head + 1)[1] == view.page_va(head) + 1
        assert view.words(head + 100)[1] == view.page_va(head) + 1


def test_compounds_off_their_boundary_with_masks(dumps):
    """Trap 2: every tail leads to a head of another pagemap."""
    view = dumps.view("unaligned-1g", "7.2")
    for head, wrong in ((0x150000, 0x140000), (0x190000, 0x180000), (0x1D0000, 0x1C0000)):
        for tail in (1, 2, 3, 63, 64, 127):
            info = view.words(head + tail)[1]
            assert info == 0xFFFFFFFFFF000001
            assert view.page_va(head + tail) & info & ~1 == view.page_va(wrong)


def test_compounds_that_start_inside_sections(dumps, kernel):
    """Trap 3: 12,032 entries on two frames; heads overwritten but the first one."""
    view = dumps.view("unaligned-section-1g", kernel)
    ranges = (0x104000, 0x1C0000)
    assert view.sharing(*ranges) == {1: 1, 12031: 1}
    check_refcounts(view, [ranges])
    head_flag = view.prog["PG_head"].value_()
    assert view.words(0x104000)[0] >> head_flag & 1
    for head in (0x144000, 0x184000):
        assert not view.words(head)[0] >> head_flag & 1
    tail = view.words(0x104000 + 64 + 5)
    if kernel == "7.2":
        # page[1] of the last head is written last, into the shared frame.
        assert view.words(0x104000 + 65)[0] & 0xFF == 18
    else:
        assert tail[1] == view.page_va(0x184000) + 1


def test_compounds_that_start_in_a_section_of_ram(dumps, kernel):
    """Trap 4: pfn 0 under the rest of the range."""
    view = dumps.view("early-1g", kernel)
    entries = view.leaves_of(0x114000, 0x180000)
    assert [shift for _, shift, _, _ in entries[:2]] == [21, 12]
    assert Counter(pfn for _, shift, pfn, _ in entries if shift == 12) == {0: 6656}
    assert view.refcount(0) == 6657
    # Struct pages were written over the page.
    assert any(view.prog.read(0, PAGE, physical=True))


def test_early_section(dumps, kernel):
    """Memory of a section with RAM uses the memory map from boot, all of it initialised."""
    view = dumps.view("early-section", kernel)
    ((_, shift, block, _),) = view.leaves_of(0xA000, 0xE000)
    assert shift == 21
    assert view.refcount(block) == 2
    head_flag = view.prog["PG_head"].value_()
    for head in range(0xA000, 0xE000, 512):
        assert view.words(head)[0] >> head_flag & 1
        for tail in (1, 127, 128, 511):
            words = view.words(head + tail)
            assert words[0] >> 51 & 7 == view.prog["ZONE_DEVICE"].value_()
            assert words[1] & 1
            assert view.refcount(head + tail) == 0


def test_altmap(dumps, kernel):
    """KERNEL-FACTS section 3: six blocks at 0x120200."""
    view = dumps.view("altmap", kernel)
    altmap = view.pgmap.altmap
    assert view.pgmap.flags == 1
    assert altmap.base_pfn == 0x120000
    assert altmap.reserve == 2
    assert altmap.free == 0xDFE
    assert altmap.align == 0x1FE
    assert altmap.alloc == 0xC00
    entries = view.leaves_of(0x120000, 0x150000)
    assert [pfn for _, _, pfn, _ in entries] == [0x120200 + 512 * i for i in range(6)]
    assert {shift for _, shift, _, _ in entries} == {21}
    # Trap 8: reserved, then struct pages of frames of the altmap, then data.
    assert view.words(0x120000) == view.words(0x120001) == (0,) * 8
    reserved = view.prog["PG_reserved"].value_()
    for pfn in (0x120002, 0x120200, 0x120DFF):
        words = view.words(pfn)
        assert words[0] >> reserved & 1
        assert words[1] == words[2] == view.page_va(pfn) + 8
        assert view.refcount(pfn) == 1
    assert view.words(0x120E00)[0] >> view.prog["PG_head"].value_() & 1
    assert view.words(0x120E00)[1] == view.pgmap.value_()
    # Not deduplicated, so all tails of a compound are there.
    assert view.words(0x120FFF)[1] & 1


def test_altmap_with_part_of_a_section(dumps, kernel):
    """KERNEL-FACTS section 3: 384 entries of RAM and one leaf of the altmap."""
    view = dumps.view("partial-sections", kernel)
    entries = view.leaves_of(0x1E2000, 0x1F0000)
    assert Counter(shift for _, shift, _, _ in entries) == {12: 384, 21: 1}
    assert all(pfn < 0x10000 for _, shift, pfn, _ in entries if shift == 12)
    (pgmap,) = (p for p, _ in view.pgmaps().values() if p.flags == 1)
    assert pgmap.altmap.free == 0x3FE
    assert pgmap.altmap.align == 0x1FE
    assert pgmap.altmap.alloc == 0x200
    check_refcounts(view, [(0x1E2000, 0x1E8000)])


def test_page_tables_at_run_time(dumps, kernel):
    """Order-0 pages with one reference, not marked as page tables."""
    view = dumps.view("devdax-2m", kernel)
    table = image("devdax-2m", kernel).kernel.tables
    *_, (shift, pfn, _) = table.tables(view.page_va(0x100000))
    assert shift == 12
    assert view.refcount(pfn) == 1
    assert view.words(pfn)[6] & 0xFFFFFFFF == 0xFFFFFFFF
