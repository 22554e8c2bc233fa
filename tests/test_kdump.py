# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kdump files that are cut off are refused before libkdumpfile maps them."""

from __future__ import annotations

import contextlib
import random
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from drgn import FaultError, Program
from kdumpling import KdumpBuilder

from vmemscope.errors import TargetError
from vmemscope.target import open_core
from vmemscope.target.kdump import check_flattened, check_whole

PAGE = 4096
#: of struct disk_dump_header: bytes from the start of the file
BLOCK_SIZE, SUB_HEADER, BITMAP_BLOCKS = 428, 432, 436
VMCOREINFO = """\
OSRELEASE=6.1.0-test
PAGESIZE=4096
SYMBOL(swapper_pg_dir)=ffffffff80001000
NUMBER(phys_base)=0
NUMBER(pgtable_l5_enabled)=0
"""


def kdump_file(
    pages: Mapping[int, bytes],
    *,
    compressed: bool = False,
    order: str = "<",
    vmcoreinfo: str = VMCOREINFO,
    machine: str = "x86_64",
    codec: tuple[int, Callable[[bytes], bytes]] | None = None,
    notes: bytes | None = None,
) -> bytes:
    """
    Make a kdump file as makedumpfile does, of version 6.

    :param pages: page frame number -> content; all of one size
    :param compressed: with zlib
    :param machine: what the kernel calls its architecture
    :param codec: flag and function of another way to compress; pages that grow stay as they are
    :param notes: all ELF notes, instead of that with VMCOREINFO alone
    """
    flag, compress = codec or ((1, zlib.compress) if compressed else (0, bytes))
    size = len(next(iter(pages.values())))
    max_pfn = max(pages) + 1
    bitmap = bytearray(-(-max_pfn // 8 // size) * size or size)
    for pfn in pages:
        bitmap[pfn // 8] |= 1 << pfn % 8
    note = struct.pack(f"{order}III", 11, len(vmcoreinfo), 0) + b"VMCOREINFO\0\0"
    note += vmcoreinfo.encode() + bytes(-len(vmcoreinfo) % 4)
    if notes is not None:
        note = notes
    # After the sub-header, which takes 104 bytes.
    sub_blocks = -(-(104 + len(note)) // size)
    names = (b"Linux", b"host", b"6.1.0", b"1", machine.encode())
    uts = b"".join(text.ljust(65, b"\0") for text in names)
    header = b"KDUMP   " + struct.pack(f"{order}i", 6) + uts + bytes(65 + 6 + 16)
    header += struct.pack(
        *(f"{order}10I", flag, size, sub_blocks, 2 * len(bitmap) // size),
        *(min(max_pfn, 0xFFFFFFFF), 0, 0, 0, 0, 1),
    )
    sub_header = struct.pack(f"{order}Qii", 0, 31, 0) + struct.pack(
        f"{order}11Q",
        *(0, 0),
        *(0, 0),
        *((1 + sub_blocks) * size - len(note), len(note)),
        *(0, 0),
        *(0, 0),
        max_pfn,
    )
    descriptors, data = bytearray(), bytearray()
    start = (1 + sub_blocks) * size + 2 * len(bitmap) + 24 * len(pages)
    for _, page in sorted(pages.items()):
        stored, flags = compress(page), flag
        if len(stored) >= size:
            stored, flags = page, 0
        descriptors += struct.pack(f"{order}QIIQ", start + len(data), len(stored), flags, 0)
        data += stored
    head = header.ljust(size, b"\0") + sub_header.ljust(sub_blocks * size - len(note), b"\0") + note
    return head + bytes(bitmap) * 2 + descriptors + data


@pytest.fixture(params=["stored", "zlib"])
def kdump(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A kdump file of 64 pages, one of them of zeros, with gaps between them."""
    rng = random.Random(3)
    pages = {pfn: rng.randbytes(2048) + bytes(2048) for pfn in range(10, 138, 2)}
    pages[20] = bytes(PAGE)
    path = tmp_path / "vmcore"
    path.write_bytes(kdump_file(pages, compressed=request.param == "zlib"))
    return path


def flattened(content: bytes, *, piece: int = 10000) -> bytes:
    """Put a file into makedumpfile's flattened format."""
    parts = [struct.pack(">16sqq", b"makedumpfile", 1, 1).ljust(4096, b"\0")]
    for offset in range(0, len(content), piece):
        part = content[offset : offset + piece]
        parts.append(struct.pack(">qq", offset, len(part)) + part)
    return b"".join(parts) + b"\xff" * 16


class TestKdump:
    def test_whole(self, kdump: Path) -> None:
        target = open_core(str(kdump))
        assert target.notes == (
            "the dump was filtered (dump level 31): pages left out are not read",
        )
        prog = target.prog
        assert prog.read(20 * PAGE, PAGE, True) == bytes(PAGE)
        assert prog.read(22 * PAGE, 8, True) != bytes(8)
        # What has no descriptor is not a page of zeros.
        with pytest.raises(FaultError, match="Excluded page"):
            prog.read(21 * PAGE, 8, True)

    @pytest.mark.parametrize("level", [0, 1])
    def test_zeros_are_not_left_out(self, kdump: Path, level: int) -> None:
        data = bytearray(kdump.read_bytes())
        struct.pack_into("<i", data, PAGE + 8, level)
        kdump.write_bytes(data)
        assert open_core(str(kdump)).notes == ()

    def test_pages_left_out_at_each_level(self, kdump: Path) -> None:
        """makedumpfile leaves out damaged pages (PG_hwpoison) whatever the level: that is said."""
        data = bytearray(kdump.read_bytes())
        struct.pack_into("<i", data, PAGE + 8, 0)
        # The first bitmap is of the machine's memory, the second of the pages in the file.
        for pfn in (21, 23, 139):
            data[2 * PAGE + pfn // 8] |= 1 << pfn % 8
        kdump.write_bytes(data)
        target = open_core(str(kdump))
        assert target.notes == (
            "12 KiB of memory are not in the dump (filtered or cut off), and not read as zeros",
        )
        assert target.prog.read(138 * PAGE - 2 * PAGE, 8, True) != bytes(8)
        with pytest.raises(FaultError):
            target.prog.read(21 * PAGE, 8, True)

    @pytest.mark.parametrize("order", "<>")
    def test_both_byte_orders(self, tmp_path: Path, order: str) -> None:
        data = kdump_file({1: b"\x5a" * PAGE}, compressed=False, order=order)
        path = tmp_path / "vmcore"
        path.write_bytes(data)
        check_whole(str(path))
        path.write_bytes(data[:-1])
        with pytest.raises(TargetError, match=f"it has {len(data) - 1} bytes of {len(data)} or"):
            check_whole(str(path))

    def test_cut_off_anywhere(self, kdump: Path) -> None:
        data = kdump.read_bytes()
        # Up to its headers, it is no kdump file at all, which drgn reports.
        for keep in [464, 500, *range(PAGE, len(data), 997), len(data) - 1]:
            kdump.write_bytes(data[:keep])
            with pytest.raises(
                TargetError, match=r"it has \d+ bytes of \d+ or more; it may be cut"
            ):
                open_core(str(kdump))

    @pytest.mark.parametrize(
        ("position", "value"),
        [
            (BITMAP_BLOCKS, struct.pack("<I", 0xFFFFFFFF)),
            (BITMAP_BLOCKS, struct.pack("<I", 1000)),
            (SUB_HEADER, struct.pack("<I", 60000)),
            # VMCOREINFO, in the sub header
            (PAGE + 32, struct.pack("<QQ", 1 << 62, 100)),
            (PAGE + 32, struct.pack("<QQ", (1 << 64) - 1, (1 << 64) - 1)),
        ],
    )
    def test_headers_that_tell_of_more(self, kdump: Path, position: int, value: bytes) -> None:
        data = bytearray(kdump.read_bytes())
        data[position : position + len(value)] = value
        kdump.write_bytes(data)
        with pytest.raises(TargetError, match="it may be cut off"):
            open_core(str(kdump))

    @pytest.mark.parametrize("offset", [1 << 40, 1 << 63, (1 << 64) - 1])
    def test_page_that_is_nowhere(self, kdump: Path, offset: int) -> None:
        data = bytearray(kdump.read_bytes())
        (sub_header, bitmap) = struct.unpack_from("<II", data, SUB_HEADER)
        descriptors = (1 + sub_header + bitmap) * PAGE
        struct.pack_into("<Q", data, descriptors + 7 * 24, offset)
        kdump.write_bytes(data)
        with pytest.raises(TargetError, match="it may be cut off"):
            open_core(str(kdump))

    def test_file_of_a_split_dump(self, kdump: Path) -> None:
        """makedumpfile --split gives each file all of the bitmap and a part of the pages."""
        data = bytearray(kdump.read_bytes())
        (sub_header, bitmap) = struct.unpack_from("<II", data, SUB_HEADER)
        descriptors = (1 + sub_header + bitmap) * PAGE
        keep = 20
        ends = [sum(struct.unpack_from("<QI", data, descriptors + i * 24)) for i in range(keep)]
        struct.pack_into("<i", data, PAGE + 12, 1)
        # start_pfn_64, end_pfn_64: every second frame from 10 on is there
        struct.pack_into("<QQ", data, PAGE + 80, 0, 10 + 2 * keep)
        kdump.write_bytes(data[: max(ends)])
        for path in (check_whole, open_core):
            with pytest.raises(TargetError, match=r"split, with pfn 0x0 to 0x32.*--reassemble"):
                path(str(kdump))
        # The second file: the first is no better, each lacks what the others have.
        struct.pack_into("<QQ", data, PAGE + 80, 5, 10 + 2 * keep + 1)
        kdump.write_bytes(data[: max(ends)])
        with pytest.raises(TargetError, match="split, with pfn 0x5 to 0x33"):
            check_whole(str(kdump))

    @pytest.mark.parametrize(
        ("bits", "words"), [(0x8, "marked the dump as incomplete"), (0x10, "option -e")]
    )
    def test_what_makedumpfile_says_of_it(self, kdump: Path, bits: int, words: str) -> None:
        data = bytearray(kdump.read_bytes())
        (status,) = struct.unpack_from("<I", data, BLOCK_SIZE - 4)
        assert not any(words in note for note in open_core(str(kdump)).notes)
        struct.pack_into("<I", data, BLOCK_SIZE - 4, status | bits)
        kdump.write_bytes(data)
        assert any(words in note for note in open_core(str(kdump)).notes)

    def test_random_bytes(self, kdump: Path) -> None:
        data = kdump.read_bytes()
        rng = random.Random(2)
        for _ in range(200):
            broken = bytearray(data)
            for _ in range(rng.randrange(1, 5)):
                broken[rng.choice([rng.randrange(8, 470), rng.randrange(PAGE, len(data))])] ^= (
                    1 << rng.randrange(8)
                )
            kdump.write_bytes(broken)
            with contextlib.suppress(TargetError):
                check_whole(str(kdump))


class TestFlattened:
    def test_whole(self, kdump: Path) -> None:
        kdump.write_bytes(flattened(kdump.read_bytes()))
        check_flattened(str(kdump))
        assert open_core(str(kdump)).prog.read(20 * PAGE, PAGE, True) == bytes(PAGE)

    def test_cut_off_anywhere(self, kdump: Path) -> None:
        data = flattened(kdump.read_bytes())
        for keep in [100, PAGE, PAGE + 23, *range(PAGE + 24, len(data), 1009), len(data) - 1]:
            kdump.write_bytes(data[:keep])
            with pytest.raises(TargetError, match="it may be cut off"):
                open_core(str(kdump))

    def test_elf_in_it(self, tmp_path: Path) -> None:
        """libkdumpfile would take what is left out for zeros, and crash at the end of the file."""
        path = tmp_path / "vmcore"
        builder = KdumpBuilder(arch="x86_64")
        builder.set_vmcoreinfo(VMCOREINFO)
        builder.add_memory_segment(0x1000, b"\xa5" * PAGE)
        builder.write(str(path))
        Program().set_core_dump(str(path))
        path.write_bytes(flattened(path.read_bytes()))
        with pytest.raises(TargetError, match=r"flattened ELF file.*; reassemble it with.* -R "):
            open_core(str(path))
