# SPDX-License-Identifier: LGPL-2.1-or-later
"""Strings are read as drgn reads them, in fewer reads."""

from __future__ import annotations

import pytest
from drgn import Architecture, FaultError, Platform, Program

from vmemscope.kernel.string import read_string

START = 0x10000
#: ends where the memory ends
MEMORY = b"name\0rest".ljust(4090, b".") + b"across\0" + b"." * 4085 + b"no end"


@pytest.fixture
def reads() -> list[int]:
    return []


@pytest.fixture
def prog(reads: list[int]) -> Program:
    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        reads.append(count)
        return MEMORY[offset : offset + count]

    prog = Program(Platform(Architecture.X86_64))
    prog.add_memory_segment(START, len(MEMORY), read)
    return prog


@pytest.mark.parametrize(
    ("at", "size", "expected", "count"),
    [
        (0, 64, b"name", 1),
        (0, 4, b"name", 1),
        (0, 2, b"na", 1),
        (4, 64, b"", 1),
        (4090, 64, b"across", 2),
        (4090, 6, b"across", 1),
        (8182, 6, b"no end", 1),
    ],
)
def test_string(
    prog: Program, reads: list[int], at: int, size: int, expected: bytes, count: int
) -> None:
    assert read_string(prog, START + at, size) == expected
    assert len(reads) == count
    assert prog.read_c_string(START + at, max_size=size) == expected


def test_not_all_there(prog: Program) -> None:
    for at, size in ((8182, 7), (len(MEMORY), 1), (-1, 1)):
        with pytest.raises(FaultError):
            read_string(prog, START + at, size)
