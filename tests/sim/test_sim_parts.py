# SPDX-License-Identifier: LGPL-2.1-or-later
"""Parts of the simulator that can be judged on their own."""

from __future__ import annotations

from copy import deepcopy

import pytest

from vmemscope.sim.kallsyms import encode
from vmemscope.sim.kernel_image import Symbol
from vmemscope.sim.memory import Memory
from vmemscope.sim.page_alloc import Memblock
from vmemscope.sim.pagetable import KERNEL_LARGE, PageTables
from vmemscope.sim.units import Units
from vmemscope.sim.xarray import _largest_piece


@pytest.mark.parametrize(
    ("first", "last", "pieces"),
    [
        # Seen in the kernel: orders 17 and 16.
        (0x120000, 0x14FFFF, [(0x120000, 12, 32), (0x140000, 12, 16)]),
        (0x100000, 0x11FFFF, [(0x100000, 12, 32)]),
        (0, 63, [(0, 6, 1)]),
        (0, 62, [(0, 0, 63)]),
        (1, 64, [(1, 0, 63), (64, 0, 1)]),
        (0, 4095 + 64, [(0, 12, 1), (4096, 6, 1)]),
        # Not powers of two: 95 subsections of 8 slots each.
        (0x1F2000, 0x1FDDFF, [(0x1F2000, 12, 11), (0x1FD000, 6, 56)]),
        (5, 5, [(5, 0, 1)]),
    ],
)
def test_xarray_pieces(first, last, pieces):
    found = []
    while first <= last:
        shift, slots = _largest_piece(first, last)
        found.append((first, shift, slots))
        first += slots << shift
    assert found == pieces
    assert first == last + 1


def test_memory():
    memory = Memory(Units())
    memory.write(0x1FFE, b"abcd")
    assert memory.read(0x1FFD, 6) == b"\0abcd\0"
    assert 1 in memory
    assert 3 not in memory
    memory.make(8, 2)
    memory.page(9)[0] = 7
    assert [*memory.segments()] == [(1, 2), (8, 2)]
    memory.missing.add(8)
    assert [*memory.segments()] == [(1, 2), (9, 1)]
    assert memory.read(9 << 12, 1) == b"\7"


def test_memory_of_several_blocks():
    memory = Memory(Units())
    memory.make(60, 80)
    # From the middle of a page to the end of what is one array.
    words = memory.stretch((62 << 12) + 8, 1 << 20)
    words[:] = 5
    assert len(words) == 2 * 512 - 1
    assert memory.read(62 << 12, 16) == bytes(8) + b"\5" + bytes(7)
    assert memory.read(64 << 12, 8) == bytes(8)
    assert 140 not in memory
    memory.stretch((140 << 12) + 4088, 16)[:] = 6
    assert list(memory.segments()) == [(60, 82)]
    assert [(pfn, len(rows)) for pfn, rows in memory.rows(60, 82)] == [(60, 4), (64, 64), (128, 14)]
    copied = deepcopy(memory)
    assert list(copied.segments()) == [(60, 82)]
    memory.words(141)[0] = 7
    assert copied.read((141 << 12) - 8, 16) == (b"\6" + bytes(7)) * 2


@pytest.mark.parametrize(("levels", "shift"), [(4, 39), (5, 48)])
def test_page_tables(levels, shift):
    memory = Memory(Units())
    frames = iter(range(100, 200))
    shape = [(12 + 9 * level, 9) for level in reversed(range(levels))]
    tables = PageTables(memory, shape, 1, lambda va, count: next(frames))
    assert tables.shifts[0] == shift
    assert tables.translate(0x1000) is None
    # From 4K below 1G to 2M and 4K above it: 4K, 1G (aligned alike), 2M, 4K.
    va, pa = 0xFF11000080000000 - 0x1000, 0x40000000 - 0x1000
    tables.map_range(va, pa, 0x1000 + (1 << 30) + (2 << 20) + 0x1000, KERNEL_LARGE)
    sizes = []
    at = va
    while (leaf := tables.leaf(at)) is not None:
        assert tables.translate(at + 0x123) == pa + at - va + 0x123
        sizes.append(leaf[0])
        at += 1 << leaf[0]
    assert sizes == [12, 30, 21, 12]
    assert tables.last(va + 0x1000) is None
    with pytest.raises(ValueError, match="below a large leaf"):
        tables.set(va + 0x1000, 12, 0)


def test_memblock():
    memblock = Memblock([(1, 100, 0), (1000, 1100, 1)])
    assert memblock.alloc(10) == 1090
    assert memblock.alloc(10, nid=0) == 90
    assert memblock.alloc(16, 16, 0) == 64
    assert memblock.alloc(90, nid=0) == 1000
    memblock.reserve(1, 64)
    assert [(run.start, run.end) for run in memblock.runs] == [(80, 90)]


def test_kallsyms_long_names():
    name = "x" * 200
    table = encode([Symbol(name, 0xFFFFFFFF81000000, "t")])
    assert table.names[:2] == bytes((201 & 0x7F | 0x80, 1))
    assert table.names[2:] == b"t" + name.encode()
    assert table.num_syms == b"\1\0\0\0"


def test_kallsyms_offsets():
    symbols = [Symbol("a", 0x40, "d"), Symbol("b", 0x1000, "D"), Symbol("c", 0x2000, "D")]
    table = encode(symbols[::-1])
    assert [s.name for s in table.symbols] == ["a", "b", "c"]
    assert table.offsets_absolute_percpu(0x1000) == b"".join(
        value.to_bytes(4, "little", signed=True) for value in (0x40, -1, -0x1001)
    )
    assert table.offsets_place_relative(0x3000) == b"".join(
        value.to_bytes(4, "little", signed=True) for value in (-0x2FC0, -0x2004, -0x1008)
    )
