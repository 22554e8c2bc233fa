# SPDX-License-Identifier: LGPL-2.1-or-later
"""The walk, held against a scalar walk of the same made-up tables."""

from __future__ import annotations

import numpy as np
import pytest
from drgn import Architecture, Platform
from msgspec.structs import replace

from vmemscope.arch import AddressBits, Bits, EntryFormat, Level, PageTable, architecture_of
from vmemscope.limits import LIMITS
from vmemscope.vmemmap.tables import Kind, decode, trace, translate, walk

PRESENT, WRITABLE, LARGE = 1, 2, 1 << 7
ADDRESS = (AddressBits(0x000F_FFFF_FFFF_F000),)
UPPER = EntryFormat(
    present=Bits(PRESENT, PRESENT),
    table=Bits(LARGE, 0),
    frame=ADDRESS,
    pointer=ADDRESS,
    writable=Bits(WRITABLE, WRITABLE),
    no_execute=Bits(1 << 63, 1 << 63),
)
NAMES = (("pgd", 48), ("p4d", 39), ("pud", 30), ("pmd", 21))
LEVELS = {
    count: (
        *(Level(name, shift, 9, UPPER) for name, shift in NAMES[5 - count :]),
        Level("pte", 12, 9, replace(UPPER, table=None)),
    )
    for count in (4, 5)
}


class Tables:
    """Page tables in a dict; frames that are not in it can't be read."""

    page_size = 4096

    def __init__(self, levels: int) -> None:
        self.table = PageTable(
            root=0x1000,
            levels=LEVELS[levels],
            dtype="<u8",
        )
        self.frames = {1: np.zeros(512, dtype="<u8")}
        self.next_frame = 2

    def map(self, address: int, pfn: int, level: int = -1, flags: int = PRESENT | WRITABLE) -> None:
        """Map a leaf at a level (counted from the last)."""
        frame = 1
        levels = self.table.levels[: len(self.table.levels) + level + 1]
        for one in levels[:-1]:
            index = (address >> one.shift) & 511
            if not self.frames[frame][index]:
                self.frames[frame][index] = self.next_frame << 12 | PRESENT | WRITABLE
                self.frames[self.next_frame] = np.zeros(512, dtype="<u8")
                self.next_frame += 1
            frame = int(self.frames[frame][index]) >> 12
        large = LARGE if level != -1 else 0
        self.frames[frame][(address >> levels[-1].shift) & 511] = pfn << 12 | flags | large

    def table_of(self, address: int) -> int:
        """Get the frame of the last-level table for an address."""
        frame = 1
        for one in self.table.levels[:-1]:
            frame = int(self.frames[frame][(address >> one.shift) & 511]) >> 12
        return frame

    def read_batches(self, pfns, count):  # type: ignore[no-untyped-def]
        for start in range(0, len(pfns), count):
            yield self.read_frames(pfns[start : start + count])

    def read_frames(self, pfns):  # type: ignore[no-untyped-def]
        data = np.zeros((len(pfns), 4096), dtype=np.uint8)
        ok = np.zeros(len(pfns), dtype=bool)
        for i, pfn in enumerate(pfns.tolist()):
            if pfn in self.frames:
                data[i] = self.frames[pfn].view(np.uint8)
                ok[i] = True
        return data, ok

    def lookup(self, address: int) -> tuple[Kind, int]:
        """Translate one address, the plain way."""
        frame = 1
        for one in self.table.levels:
            if frame not in self.frames:
                return Kind.UNREADABLE, 0
            entry = int(self.frames[frame][(address >> one.shift) & 511])
            if not entry & PRESENT:
                return Kind.HOLE, 0
            frame = (entry & 0x000F_FFFF_FFFF_F000) >> 12
            if one.shift == 12 or entry & LARGE:
                within = (address & (one.size - 1)) >> 12
                return Kind.MAPPED, (frame & ~((one.size >> 12) - 1)) + within
        raise AssertionError


def by_page(tables: Tables, start: int, end: int) -> list[tuple[Kind, int]]:
    """Walk a range, and spread what comes out over its base pages."""
    found: list[tuple[Kind, int]] = []
    expected_next = None
    for leaves in walk(tables, tables.table, start, end):  # type: ignore[arg-type]
        columns = (leaves.address, leaves.shift, leaves.pfn, leaves.kind, leaves.pieces)
        for address, shift, pfn, kind, pieces in zip(*(c.tolist() for c in columns), strict=True):
            assert pieces == 1 or shift == 12
            assert expected_next is None or address == expected_next
            expected_next = address + (pieces << shift)
            for page in range(max(address, start), min(expected_next, end), 4096):
                within = (page - address) >> 12 if kind == Kind.MAPPED and shift > 12 else 0
                found.append((Kind(kind), pfn + within))
        apart = leaves.apart()
        assert apart.pieces.max(initial=1) == 1
        assert int((apart.pieces << apart.shift).sum()) == int(
            (leaves.pieces << leaves.shift).sum()
        )
    return found


BASE = {4: 0xFFFF_EA00_0000_0000, 5: 0xFFA2_1A8B_4000_0000}


@pytest.fixture(params=[4, 5])
def tables(request: pytest.FixtureRequest) -> Tables:
    return Tables(request.param)


def base_of(tables: Tables) -> int:
    return BASE[len(tables.table.levels)]


def test_agrees_with_a_scalar_walk(tables: Tables) -> None:
    base = base_of(tables)
    rng = np.random.default_rng(0)
    for page in rng.choice(2048, 900, replace=False).tolist():
        tables.map(base + page * 4096, int(rng.integers(1, 1 << 30)))
    tables.map(base + (4 << 21), 0x200 * 7, level=-2)
    tables.map(base + (6 << 21), 0x200 * 9, level=-2)
    start, end = base + 5 * 4096, base + (8 << 21) - 3 * 4096
    expected = [tables.lookup(address) for address in range(start, end, 4096)]
    assert by_page(tables, start, end) == expected
    assert {kind for kind, _ in expected} == {Kind.MAPPED, Kind.HOLE}


def test_runs_of_equal_entries(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LIMITS, "tables", 3)
    base = base_of(tables)
    # The same frame at the end of a table and the start of the next, which is no neighbour.
    for page in (*range(100, 512), *range(1024, 1600), *range(4096, 4100), *range(5000, 5120)):
        tables.map(base + page * 4096, 0x1234)
    tables.map(base + (1 << 21), 0x200 * 7, level=-2)
    for start, end in ((0, 5120), (200, 1500), (511, 1025), (1030, 1031), (300, 1024), (2, 5119)):
        found = by_page(tables, base + start * 4096, base + end * 4096)
        assert found == [tables.lookup(base + page * 4096) for page in range(start, end)]
    [leaves, *_] = walk(tables, tables.table, base, base + (3 << 21))  # type: ignore[arg-type]
    assert leaves.pieces.tolist() == [100, 412, 1, 512]
    assert leaves.shift.tolist() == [12, 12, 21, 12]


def test_translate_agrees_with_a_scalar_walk(tables: Tables) -> None:
    base = base_of(tables)
    for page in range(0, 600, 3):
        tables.map(base + page * 4096, 0x1000 + page)
    tables.map(base + (4 << 21), 0x200 * 7, level=-2)
    tables.frames.pop(tables.table_of(base))
    addresses = base + np.array(
        [0, 512 * 4096, 513 * 4096, (4 << 21) + 5 * 4096, 1 << 33], dtype=np.uint64
    )
    pfn, kind = translate(tables, tables.table, addresses)  # type: ignore[arg-type]
    expected = [tables.lookup(address) for address in addresses.tolist()]
    assert list(zip(kind.tolist(), pfn.tolist(), strict=True)) == expected
    assert expected[0] == (Kind.UNREADABLE, 0)
    assert expected[3] == (Kind.MAPPED, 0x200 * 7 + 5)


def test_pat_bit_of_a_large_leaf_is_no_address(tables: Tables) -> None:
    base = base_of(tables)
    tables.map(base, 0x200 * 5, level=-2, flags=PRESENT | WRITABLE | 1 << 12)
    (leaves,) = walk(tables, tables.table, base, base + (1 << 21))  # type: ignore[arg-type]
    assert leaves.pfn.tolist() == [0x200 * 5]


def test_unreadable_table_covers_its_range(tables: Tables) -> None:
    base = base_of(tables)
    tables.map(base, 1)
    tables.map(base + (1 << 21), 2)
    tables.frames.pop(tables.table_of(base))
    found = by_page(tables, base, base + (2 << 21))
    assert found[:512] == [(Kind.UNREADABLE, 0)] * 512
    assert found[512] == (Kind.MAPPED, 2)
    assert found[513:] == [(Kind.HOLE, 0)] * 511


def test_nothing_at_all_is_one_hole_over_the_range(tables: Tables) -> None:
    base = base_of(tables)
    assert by_page(tables, base, base + 0x5000) == [(Kind.HOLE, 0)] * 5


def test_root_that_can_not_be_read(tables: Tables) -> None:
    base = base_of(tables)
    tables.frames.clear()
    assert by_page(tables, base, base + 0x3000) == [(Kind.UNREADABLE, 0)] * 3


def test_tables_that_point_at_themselves_end(tables: Tables) -> None:
    base = base_of(tables)
    tables.frames[1][:] = 1 << 12 | PRESENT | WRITABLE
    found = by_page(tables, base, base + (1 << 21))
    assert found == [(Kind.MAPPED, 1)] * 512


def test_batches_cover_a_range_with_more_tables_than_one_holds(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LIMITS, "tables", 2)
    base = base_of(tables)
    for table in (0, 1, 2, 5, 6):
        tables.map(base + (table << 21) + 0x7000, 0x100 + table)
    tables.map(base + (3 << 21), 0x200 * 3, level=-2)
    start, end = base, base + (8 << 21)
    batches = list(walk(tables, tables.table, start, end))  # type: ignore[arg-type]
    assert len(batches) == 3
    assert by_page(tables, start, end) == [
        tables.lookup(address) for address in range(start, end, 4096)
    ]


def test_end_of_the_address_space(tables: Tables) -> None:
    start = (1 << 64) - 0x2000
    tables.map(start + 0x1000, 0x77)
    assert by_page(tables, start, 1 << 64) == [(Kind.HOLE, 0), (Kind.MAPPED, 0x77)]


@pytest.mark.parametrize(
    ("platform", "keys"),
    [
        (
            "X86_64",
            {"NUMBER(pgtable_l5_enabled)": "1", "SYMBOL(swapper_pg_dir)": "ffffffff82000000"},
        ),
        (
            "RISCV64",
            {
                "NUMBER(VA_BITS)": "57",
                "NUMBER(va_kernel_pa_offset)": "0",
                "SYMBOL(swapper_pg_dir)": "ffffffff82000000",
            },
        ),
    ],
)
def test_kernel_space_is_what_the_widest_tables_can_map(
    platform: str, keys: dict[str, str]
) -> None:
    arch = architecture_of(Platform(Architecture[platform]))
    top = arch.page_table(keys, lambda address: 0).levels[0]
    # The upper half of what they map, sign-extended.
    assert arch.kernel_space == (1 << 64) - (1 << top.shift + top.bits - 1)
    assert arch.kernel_space < arch.vmemmap(keys, lambda name: 0)[1]


def test_decode_of_other_formats() -> None:
    # Invalid bit clear, a pointer by two bits, an address in two pieces, shifted.
    form = EntryFormat(
        present=Bits(0x20, 0),
        table=Bits(3, 3),
        frame=(AddressBits(0x0000_FFFF_FFFF_F000), AddressBits(0x300, 42)),
        pointer=(AddressBits(0x003F_FFFF_FFFF_FC00, 2),),
        writable=Bits(0x80, 0),
        no_execute=Bits(0x40, 0x40),
    )
    level = Level("pmd", 21, 9, form)
    entry = np.array([0x1234_5678_9301, 0x20, 0x48D0C0 | 3, 0x1], dtype=np.uint64)
    found = decode(level, entry)
    assert found.present.tolist() == [True, False, True, True]
    assert found.leaf.tolist() == [True, False, False, True]
    # A leaf is aligned to 2 MiB; a pointer is shifted.
    assert int(found.address[0]) == 0x1234_5660_0000 | 3 << 50
    assert int(found.address[2]) == (0x48D0C3 & 0x3F_FFFF_FFFF_FC00) << 2
    assert found.writable.tolist() == [True, True, False, True]
    assert found.no_execute.tolist() == [False, False, True, False]


@pytest.mark.parametrize(("upper", "lower"), [(11, 8), (5, 13), (9, 9)])
def test_tables_of_other_sizes_and_byte_order(upper: int, lower: int) -> None:
    # Tables of 2 KiB and 16 KiB, or 256 bytes and 64 KiB; entries in big-endian order.
    address = (AddressBits(~0xFF & (1 << 52) - 1),)
    one = EntryFormat(
        Bits(1, 1), Bits(LARGE, 0), address, address, Bits(2, 2), Bits(1 << 63, 1 << 63)
    )
    levels = (
        Level("pmd", 12 + lower, upper, one),
        Level("pte", 12, lower, replace(one, table=None)),
    )
    memory = np.zeros(1 << 20, dtype=np.uint8)
    root, sizes = 0x10000, (8 << upper, 8 << lower)
    table = PageTable(root=root, levels=levels, dtype=">u8")
    place, expected = {}, {}
    rng = np.random.default_rng(upper)
    for page in rng.choice(1 << lower + 1, 300, replace=False).tolist():
        top = page >> lower
        if top not in place:
            place[top] = 0x40000 + top * sizes[1]
            memory[root + 8 * top :][:8] = list((place[top] | 1).to_bytes(8, "big"))
        pfn = int(rng.integers(1, 1 << 30))
        at = place[top] + 8 * (page & (1 << lower) - 1)
        memory[at : at + 8] = list((pfn << 12 | 3).to_bytes(8, "big"))
        expected[page] = pfn

    class Memory:
        page_size = 4096

        def read_batches(self, pfns, count):  # type: ignore[no-untyped-def]
            pages = memory.reshape(-1, 4096)
            for start in range(0, len(pfns), count):
                part = pfns[start : start + count].astype(np.int64)
                yield pages[part], np.ones(len(part), dtype=bool)

    end = 1 << lower + 1 + 12
    found = {}
    for leaves in walk(Memory(), table, 0, end):  # type: ignore[arg-type]
        pages = leaves.apart()
        for start, pfn, kind in zip(pages.address, pages.pfn, pages.kind, strict=True):
            if kind == Kind.MAPPED:
                found[int(start) >> 12] = int(pfn)
    assert found == expected
    chosen = np.array(sorted(expected), dtype=np.uint64)
    pfns, kinds = translate(Memory(), table, chosen << np.uint64(12))  # type: ignore[arg-type]
    assert pfns.tolist() == [expected[page] for page in chosen.tolist()]
    assert not kinds.any()
    way = trace(Memory(), table, int(chosen[-1]) << 12)  # type: ignore[arg-type]
    assert way.pfn == expected[int(chosen[-1])]
