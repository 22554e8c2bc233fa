# SPDX-License-Identifier: LGPL-2.1-or-later
"""ELF dumps that hold less than they say: the headers, the missing pieces, drgn's own reads."""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
from drgn import FaultError, Program

from vmemscope.cli.main import main
from vmemscope.errors import TargetError
from vmemscope.target import open_core
from vmemscope.target.elf import (
    NOT_IN_DUMP,
    AbsentPiece,
    Load,
    absent_pieces,
    add_segments,
    cut_off,
    read_elf,
)

from .kernels import image

PAGE = 4096
END = 1 << 64
VMCOREINFO = b"""\
OSRELEASE=6.1.0-test
PAGESIZE=4096
SYMBOL(swapper_pg_dir)=ffffffff80001000
NUMBER(phys_base)=0
NUMBER(pgtable_l5_enabled)=0
"""


def elf_file(
    loads: Sequence[Load],
    *,
    order: str = "<",
    note: bytes = b"",
    content: bytes = b"",
    extended: bool = False,
    bits: int = 64,
) -> bytes:
    """Make a core file: headers, a VMCOREINFO note, then content at 0x1000 of the file."""
    phnum = len(loads) + bool(note)
    phoff = 64 + (64 if extended else 0)
    header = b"\x7fELF" + bytes([bits // 32, 1 if order == "<" else 2, 1]) + bytes(9)
    header += struct.pack(
        f"{order}HHIQQQIHHHHHH",
        # ET_CORE, EM_X86_64, EV_CURRENT
        *(4, 62, 1, 0, phoff, 64 if extended else 0, 0),
        *(64, 56, 0xFFFF if extended else phnum, 64, 1 if extended else 0, 0),
    )
    if extended:
        header += struct.pack(f"{order}IIQQQQIIQQ", 0, 0, 0, 0, 0, 0, 0, phnum, 0, 0)
    described = b""
    if note:
        described = struct.pack(f"{order}III", 11, len(note), 0) + b"VMCOREINFO\0\0" + note
        described += bytes(-len(described) % 4)
        offset = phoff + 56 * phnum
        header += struct.pack(
            f"{order}IIQQQQQQ", 4, 0, offset, 0, 0, len(described), len(described), 0
        )
    for load in loads:
        header += struct.pack(
            f"{order}IIQQQQQQ", 1, 7, load.offset, load.vaddr, load.paddr, load.filesz,
            load.memsz, 0,
        )  # fmt: skip
    whole = header + described
    return whole.ljust(PAGE, b"\0") + content if content else whole


def write(directory: Path, data: bytes) -> str:
    path = directory / "vmcore"
    path.write_bytes(data)
    return str(path)


TWO = [Load(0x1000, 0xFFFF888000000000, 0, 0x1000, 0x3000), Load(0x2000, 0, 0x8000, 0, 0x1000)]


class TestHeaders:
    @pytest.mark.parametrize("order", "<>")
    @pytest.mark.parametrize("extended", [False, True])
    def test_all_are_read(self, tmp_path: Path, order: str, extended: bool) -> None:
        data = elf_file(TWO, order=order, extended=extended, note=b"OSRELEASE=1\n")
        assert read_elf(write(tmp_path, data)) == (TWO, False)

    def test_none(self, tmp_path: Path) -> None:
        assert read_elf(write(tmp_path, elf_file([]))) == ([], False)

    def test_32_bits_are_left_to_drgn(self, tmp_path: Path) -> None:
        assert read_elf(write(tmp_path, elf_file(TWO, bits=32))) == ([], False)

    def test_sizes_are_cut_off_at_64_bits(self, tmp_path: Path) -> None:
        huge = [Load(0, END - 0x1000, 0, END - 1, END - 1), Load(0, 0, 0, 0x5000, 0x1000)]
        assert read_elf(write(tmp_path, elf_file(huge)))[0] == [
            Load(0, END - 0x1000, 0, 0x1000, 0x1000),
            Load(0, 0, 0, 0x1000, 0x1000),
        ]

    @pytest.mark.parametrize("extended", [False, True])
    def test_cut_off_anywhere(self, tmp_path: Path, extended: bool) -> None:
        data = elf_file(TWO, extended=extended)
        for keep in range(4, len(data)):
            with pytest.raises(TargetError, match=r"cannot read .*; it may be cut off"):
                read_elf(write(tmp_path, data[:keep]))

    @pytest.mark.parametrize(
        ("position", "content", "message"),
        [
            (5, b"\3", "a byte order of 3"),
            (32, b"\xff" * 8, "2 program headers are not all in the file"),
            (32, struct.pack("<Q", 1 << 63), "not all in the file"),
            (54, b"\x20\0", "32 bytes long, not 56"),
            (54, b"\0\0", "0 bytes long, not 56"),
        ],
    )
    def test_damaged(self, tmp_path: Path, position: int, content: bytes, message: str) -> None:
        data = bytearray(elf_file(TWO))
        data[position : position + len(content)] = content
        with pytest.raises(TargetError, match=message):
            read_elf(write(tmp_path, bytes(data)))

    @pytest.mark.parametrize("number", [1 << 20, (1 << 20) + 1, 0xFFFFFFFF])
    def test_absurd_number_of_headers(self, tmp_path: Path, number: int) -> None:
        data = bytearray(elf_file(TWO, extended=True))
        struct.pack_into("<I", data, 64 + 44, number)
        with pytest.raises(TargetError, match="program headers"):
            read_elf(write(tmp_path, bytes(data)))

    @pytest.mark.parametrize("offset", [1 << 63, END - 1, 64 + 1])
    def test_section_header_that_is_nowhere(self, tmp_path: Path, offset: int) -> None:
        data = bytearray(elf_file(TWO[:1], extended=True)[:110])
        struct.pack_into("<Q", data, 40, offset)
        with pytest.raises(TargetError, match="first section header is not in the file"):
            read_elf(write(tmp_path, bytes(data)))

    def test_random_bytes(self, tmp_path: Path) -> None:
        rng = random.Random(1)
        for _ in range(300):
            data = bytearray(elf_file(TWO, extended=rng.random() < 0.5))
            for _ in range(rng.randrange(1, 8)):
                data[rng.randrange(4, len(data))] = rng.randrange(256)
            try:
                loads, _ = read_elf(write(tmp_path, bytes(data)))
            except TargetError:
                continue
            for piece in absent_pieces(loads):
                assert 0 < piece.size <= END - piece.vaddr


class TestAbsentPieces:
    def test_whole_segments_have_none(self) -> None:
        assert absent_pieces([Load(0x1000, 0, 0, 0x2000, 0x2000)]) == []

    def test_tail(self) -> None:
        assert absent_pieces([Load(0x1000, 0xFF00, 0x100, 0x200, 0x700)]) == [
            AbsentPiece(0x10100, 0x300, 0x500, None)
        ]

    def test_segment_without_anything(self) -> None:
        assert absent_pieces([Load(0, 0x7000, 0x5000, 0, 0x1000)]) == [
            AbsentPiece(0x7000, 0x5000, 0x1000, None)
        ]

    def test_no_physical_address(self) -> None:
        assert absent_pieces([Load(0, 0x7000, END - 1, 0x1000, 0x3000)]) == [
            AbsentPiece(0x8000, None, 0x2000, None)
        ]

    def test_physical_addresses_that_wrap(self) -> None:
        assert absent_pieces([Load(0, 0, END - 0x2000, 0x1000, 0x4000)]) == [
            AbsentPiece(0x1000, END - 0x1000, 0x1000, None),
            AbsentPiece(0x2000, None, 0x2000, None),
        ]

    def test_what_another_segment_has_is_there(self) -> None:
        loads = [
            Load(0x1000, 0xA000, 0x10000, 0x1000, 0x5000),
            Load(0x9000, 0xF000, 0x12000, 0x1000, 0x1000),
        ]
        assert absent_pieces(loads) == [
            AbsentPiece(0xB000, 0x11000, 0x1000, None),
            AbsentPiece(0xC000, 0x12000, 0x1000, 0x9000),
            AbsentPiece(0xD000, 0x13000, 0x2000, None),
        ]

    def test_every_address_is_right(self) -> None:
        """Compared with a check of every address of small random files."""
        rng = random.Random(7)
        for _ in range(500):
            loads = []
            for _ in range(rng.randrange(1, 5)):
                memsz = rng.randrange(1, 12)
                paddr, filesz = rng.randrange(30), rng.randrange(memsz + 1)
                loads.append(Load(rng.randrange(100), rng.randrange(1000), paddr, filesz, memsz))
            held = {
                load.paddr + i: {
                    other.offset + load.paddr + i - other.paddr
                    for other in loads
                    if other.paddr <= load.paddr + i < other.paddr + other.filesz
                }
                for load in loads
                for i in range(load.memsz)
            }
            expected = [
                (load.vaddr + i, load.paddr + i)
                for load in loads
                for i in range(load.filesz, load.memsz)
            ]
            pieces = [
                (
                    piece.vaddr + i,
                    piece.paddr + i,
                    None if piece.offset is None else piece.offset + i,
                )
                for piece in absent_pieces(loads)
                if piece.paddr is not None
                for i in range(piece.size)
            ]
            assert [(vaddr, paddr) for vaddr, paddr, _ in pieces] == expected
            for _, paddr, offset in pieces:
                assert offset in (held[paddr] or {None})


class TestDrgn:
    """A program of a dump with a page of data behind four levels of page tables."""

    #: where nothing is in a segment: only the page tables lead there
    VADDR = 0xFFFFEA0000000000
    #: pgd, pud, pmd, pte, data
    FRAMES = tuple(range(0x1000, 0x6000, PAGE))

    def content(self) -> bytes:
        pages = []
        for shift, below in zip((39, 30, 21, 12), self.FRAMES[1:], strict=True):
            table = bytearray(PAGE)
            struct.pack_into("<Q", table, (self.VADDR >> shift & 511) * 8, below | 3)
            pages.append(bytes(table))
        return b"".join(pages) + b"\xa5" * PAGE

    def dump(self, directory: Path, absent: int | None = None) -> str:
        """Write the dump; one of the pages is left out of it the way makedumpfile does."""
        base = 0xFFFF888000000000
        loads = [
            Load(0x1000, base + 0x1000, 0x1000, 0x5000, 0x5000),
            Load(0x2000, 0xFFFFFFFF80002000, 0x2000, 0x1000, 0x1000),
        ]
        if absent is not None:
            before, after = absent - 0x1000, 0x6000 - absent - PAGE
            loads = [
                Load(0x1000, base + 0x1000, 0x1000, before, before + PAGE),
                Load(absent + PAGE, base + absent + PAGE, absent + PAGE, after, after),
            ]
        return write(directory, elf_file(loads, note=VMCOREINFO, content=self.content()))

    def test_all_there(self, tmp_path: Path) -> None:
        target = open_core(self.dump(tmp_path))
        assert target.notes == ()
        prog = target.prog
        assert prog.read(self.VADDR, PAGE) == b"\xa5" * PAGE

    @pytest.mark.parametrize("absent", FRAMES)
    def test_absent_page_on_the_way_or_at_the_end(self, tmp_path: Path, absent: int) -> None:
        target = open_core(self.dump(tmp_path, absent))
        assert target.notes == (
            "4 KiB of memory are not in the dump (filtered or cut off), and not read as zeros",
        )
        prog = target.prog
        with pytest.raises(FaultError, match=NOT_IN_DUMP[:15]):
            prog.read(self.VADDR, PAGE)
        for address, physical in ((absent, True), (0xFFFF888000000000 + absent, False)):
            with pytest.raises(FaultError, match=r"not in the dump \(filtered or cut off\)") as e:
                prog.read(address, 8, physical)
            assert e.value.address == address
            # With what is there beside it:
            with pytest.raises(FaultError):
                prog.read(address - 4, 8, physical)
        for frame in self.FRAMES:
            if frame != absent:
                content = self.content()[frame - 0x1000 :][:PAGE]
                assert prog.read(frame, PAGE, True) == content
                assert prog.read(0xFFFF888000000000 + frame, PAGE) == content

    def test_drgn_alone_reads_zeros(self, tmp_path: Path) -> None:
        """The premise: without hiding, what is not in the file reads as zeros."""
        loads = [Load(0x1000, 0xFFFF888000001000, 0x1000, 0x1000, 0x5000)]
        path = write(tmp_path, elf_file(loads, note=VMCOREINFO, content=self.content()))
        prog = Program()
        prog.set_core_dump(path)
        assert prog.read(0x2000, 8, True) == bytes(8)
        assert add_segments(prog, path, read_elf(path)[0]) == 0x4000
        with pytest.raises(FaultError):
            prog.read(0x2000, 8, True)

    def test_page_that_only_another_segment_has(self, tmp_path: Path) -> None:
        """The segment that drgn would take is the one that lacks the page."""
        image = Load(0x1000, 0xFFFFFFFF80001000, 0x1000, 0x5000, 0x5000)
        lacking = Load(0x1000, 0xFFFF888000001000, 0x1000, 0x1000, 0x5000)
        for loads in itertools.permutations((image, lacking)):
            path = write(tmp_path, elf_file(loads, note=VMCOREINFO, content=self.content()))
            prog = open_core(path).prog
            assert prog.read(0x5000, PAGE, True) == b"\xa5" * PAGE
            assert prog.read(0xFFFF888000005000, PAGE) == b"\xa5" * PAGE
            assert prog.read(self.VADDR, PAGE) == b"\xa5" * PAGE


@pytest.mark.parametrize("gone", [1, 5 << 20])
def test_a_file_that_is_cut_off_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], gone: int
) -> None:
    """On one line with what goes wrong then, or before the report."""
    core = tmp_path / "vmcore"
    image("devdax-2m", "6.12").write(core)
    assert open_core(str(core)).notes == ()
    size = core.stat().st_size
    with core.open("r+b") as file:
        file.truncate(size - gone)
    words = {1: "1 B", 5 << 20: "5 MiB"}[gone]
    note = f"the file is cut off: {words} of memory are missing at its end"
    assert open_core(str(core)).notes == (note,)
    status = main(["pgmap", "-c", str(core)])
    (line,) = capsys.readouterr().err.splitlines()
    if status == 3:
        assert line.startswith("vmemscope: error: cannot read the kernel's symbol table: ")
        assert f" ({note}); " in line
    else:
        assert line == f"vmemscope: note: {note}"
    # The same memory at two addresses is missing once.
    loads, _ = read_elf(str(core))
    assert cut_off(str(core), [*loads, *loads]) == gone
