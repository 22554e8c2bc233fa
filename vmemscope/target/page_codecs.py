# SPDX-License-Identifier: LGPL-2.1-or-later
"""
How pages of kdump files are compressed (``makedumpfile``'s ``diskdump_mod.h``: DUMP_DH_*).

zlib is Python's. The others need a module that may be missing: of the extra
``vmemscope[kdump]``; zstd is Python's own since 3.14. Data is not trusted: what it claims to
decompress to is never allocated beyond the size of a page, but for lzo, where 255 bytes for each
byte of data are the most that there can be.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from functools import cache

__all__ = ("CODECS", "MissingCodecError", "decompress")

#: flag of struct page_desc -> name
CODECS = {0x1: "zlib", 0x2: "lzo", 0x4: "snappy", 0x20: "zstd"}


class MissingCodecError(Exception):
    """A module is not installed; its text says what for, and which."""


def decompress(codec: str, data: bytes, size: int) -> bytes | None:
    """
    Decompress a page.

    :param codec: a name of :data:`CODECS`
    :param size: bytes in a page
    :return: ``None`` if the data is damaged
    :raises MissingCodecError: if the module for it is not installed
    """
    try:
        page = _decompressor(codec)(data, size)
    except MissingCodecError:
        raise
    except Exception:
        # Each module has its own.
        return None
    return page if len(page) == size else None


@cache
def _decompressor(codec: str) -> Callable[[bytes, int], bytes]:
    module = "lzallright" if codec == "lzo" else "cramjam"
    try:
        return _MAKERS[codec]()
    except ImportError:
        raise MissingCodecError(f"compressed with {codec}, which needs {module}") from None


def _zlib() -> Callable[[bytes, int], bytes]:
    # One byte more says that there is more.
    return lambda data, size: zlib.decompressobj().decompress(data, size + 1)


def _lzo() -> Callable[[bytes, int], bytes]:
    from lzallright import LZOCompressor

    return lambda data, size: bytes(LZOCompressor.decompress(data, size))


def _snappy() -> Callable[[bytes, int], bytes]:
    from cramjam import snappy

    def decompressed(data: bytes, size: int) -> bytes:
        page = bytearray(size)
        return bytes(page[: snappy.decompress_raw_into(data, page)])

    return decompressed


def _zstd() -> Callable[[bytes, int], bytes]:
    if sys.version_info >= (3, 14):
        from compression.zstd import ZstdDecompressor

        return lambda data, size: ZstdDecompressor().decompress(data, size + 1)
    from cramjam import zstd

    def decompressed(data: bytes, size: int) -> bytes:
        page = bytearray(size)
        return bytes(page[: zstd.decompress_into(data, page)])

    return decompressed


_MAKERS = {"zlib": _zlib, "lzo": _lzo, "snappy": _snappy, "zstd": _zstd}
