# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pages of kdump files of other architectures, compressed in all ways that makedumpfile knows."""

from __future__ import annotations

import random
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cramjam
import lzallright
import pytest
from drgn import FaultError

from vmemscope.cli.main import main
from vmemscope.errors import UnsupportedError
from vmemscope.target import page_codecs
from vmemscope.target.kdump_pages import KdumpPages
from vmemscope.target.page_codecs import MissingCodecError, decompress

from .test_kdump import kdump_file

PAGE = 4096
RISCV64 = """\
OSRELEASE=7.2.13-riscv64
PAGESIZE=4096
SYMBOL(swapper_pg_dir)=ffffffff81dcb000
NUMBER(VA_BITS)=48
NUMBER(va_kernel_pa_offset)=0xfffffffefde00000
"""
#: name -> flag of struct page_desc, and what compresses
CODECS: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "zlib": (0x1, zlib.compress),
    "lzo": (0x2, lambda page: bytes(lzallright.LZOCompressor().compress(page))),
    "snappy": (0x4, lambda page: bytes(cramjam.snappy.compress_raw(page))),
    "zstd": (0x20, lambda page: bytes(cramjam.zstd.compress(page))),
}


@pytest.fixture(autouse=True)
def nothing_is_remembered() -> Iterator[None]:
    page_codecs._decompressor.cache_clear()
    yield
    page_codecs._decompressor.cache_clear()


def packed(pages: dict[int, bytes], codec: str) -> bytes:
    """Make a kdump file that does not say its machine; pages that grow stay as they are."""
    flag, compress = CODECS[codec]
    data = bytearray(kdump_file(pages, compressed=False, vmcoreinfo=RISCV64))
    # struct disk_dump_header: utsname
    data[12:402] = bytes(390)
    sub_header, bitmap = struct.unpack_from("<II", data, 432)
    start = (1 + sub_header + bitmap) * PAGE
    (first,) = struct.unpack_from("<Q", data, start)
    body = b""
    for number, (_, page) in enumerate(sorted(pages.items())):
        stored, flags = compress(page), flag
        if len(stored) >= PAGE:
            stored, flags = page, 0
        struct.pack_into("<QII", data, start + 24 * number, first + len(body), len(stored), flags)
        body += stored
    return bytes(data[:first]) + body


def content() -> dict[int, bytes]:
    rng = random.Random(5)
    pages = {pfn: rng.randbytes(512) * 4 + bytes(2048) for pfn in range(10, 60, 2)}
    # Of one byte, and one that does not shrink.
    return pages | {20: bytes(PAGE), 22: rng.randbytes(PAGE)}


@pytest.mark.parametrize("codec", CODECS)
def test_pages_are_what_they_were(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(packed(content(), codec))
    found = KdumpPages(str(path))
    found.check_codecs(str(path))
    for pfn, page in content().items():
        assert found.read(pfn * PAGE, PAGE, 0, True) == page
    # Across two pages, of which the second is not there.
    with pytest.raises(FaultError, match="not in the dump"):
        found.read(10 * PAGE + 8, PAGE, 0, True)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("seed", range(40))
def test_damaged_pages(codec: str, seed: int) -> None:
    """Whatever it says that it decompresses to, it is a page or damaged."""
    rng = random.Random(f"{codec} {seed}")
    _, compress = CODECS[codec]
    data = bytearray(compress(rng.randbytes(256) * 16))
    if seed % 4 == 0:
        data = bytearray(rng.randbytes(rng.randrange(64)))
    for _ in range(rng.randrange(1, 4)):
        if data:
            data[rng.randrange(min(len(data), 24))] = rng.randrange(256)
    found = decompress(codec, bytes(data), PAGE)
    assert found is None or len(found) == PAGE


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [PAGE - 1, PAGE + 1, 64 << 20])
def test_another_size_is_damaged(codec: str, size: int) -> None:
    """Nothing beyond the page is made of it: 64 MiB of zeros take some kilobytes."""
    assert decompress(codec, CODECS[codec][1](bytes(size)), PAGE) is None


@pytest.mark.parametrize(
    ("codec", "module"),
    [
        ("lzo", "lzallright"),
        ("snappy", "cramjam"),
        # Python has its own from 3.14 on.
        *([("zstd", "cramjam")] if sys.version_info < (3, 14) else []),
    ],
)
def test_missing_module(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    codec: str,
    module: str,
) -> None:
    """One line names the package; what is not compressed so can be read."""
    path = tmp_path / "vmcore"
    path.write_bytes(packed(content(), codec))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingCodecError, match=f"compressed with {codec}, which needs {module}"):
        decompress(codec, b"", PAGE)
    found = KdumpPages(str(path))
    with pytest.raises(UnsupportedError, match=r"pip install 'vmemscope\[kdump\]'"):
        found.check_codecs(str(path))
    assert found.read(22 * PAGE, PAGE, 0, True) == content()[22]
    with pytest.raises(FaultError, match=f"which needs {module}"):
        found.read(20 * PAGE, PAGE, 0, True)
    assert main(["pgmap", "-c", str(path)]) == 3
    assert capsys.readouterr().err == (
        f"vmemscope: error: cannot read {path}: its pages are compressed with {codec}, which needs"
        f" {module}; pip install 'vmemscope[kdump]'\n"
    )


def test_module_that_no_page_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(packed(content(), "zlib"))
    for module in ("lzallright", "cramjam"):
        monkeypatch.setitem(sys.modules, module, None)
    KdumpPages(str(path)).check_codecs(str(path))
