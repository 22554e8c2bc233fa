# SPDX-License-Identifier: LGPL-2.1-or-later
"""
VMCOREINFO: the kernel's description of itself (``kernel/vmcore_info.c``).

Lines of ``KEY=value``: ``SYMBOL(x)=hex``, ``NUMBER(x)=decimal``, ``OFFSET(x)=decimal``.
The text comes from the target and is not trusted.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from .errors import TargetError

__all__ = (
    "MAX_NOTE",
    "NOTE_NAME",
    "note_order",
    "note_text",
    "number",
    "page_size",
    "parse",
    "physmem_bits",
    "physmem_frames",
    "symbol",
)

#: bits of a physical address, at most, on any architecture (riscv64), and where the kernel
#: does not say it (x86-64)
_MAX_PHYSMEM_BITS = 56
_PHYSMEM_BITS = 52
_MASK_64 = (1 << 64) - 1
#: name of the ELF note, with the zeros that end it and fill its last word
NOTE_NAME = b"VMCOREINFO\0\0"
#: bytes in a note, at most: VMCOREINFO_BYTES and a page
MAX_NOTE = 1 << 16


def note_text(data: bytes) -> bytes | None:
    """
    Return the text of a note, ``None`` if it is none.

    It comes as text, or as an ELF note as it lies in memory and in dumps: struct elf64_note
    with the name VMCOREINFO (``kernel/crash_core.c: append_elf_note()``), in either byte
    order.
    """
    if data[12:].startswith(NOTE_NAME):
        start = 12 + -(-len(NOTE_NAME) // 4) * 4
        sizes = (int.from_bytes(data[4:8], order) for order in ("little", "big"))
        size = min(size for size in sizes) if len(data) > start else 0
        data = data[start : start + size]
    text = data.rstrip(b"\0")
    known = text.startswith(b"OSRELEASE=") or b"\nOSRELEASE=" in text
    return text if known and b"\0" not in text else None


def note_order(data: bytes) -> str | None:
    """Return the byte order of an ELF note with that name, ``<`` or ``>``; ``None`` if unknown."""
    size = len(NOTE_NAME) - 1
    return next((one for one in "<>" if data[:4] == struct.pack(f"{one}I", size)), None)


def parse(text: bytes) -> dict[str, str]:
    """Parse a VMCOREINFO note into its keys; drop lines without ``=``."""
    keys = {}
    for line in text.decode("utf-8", "backslashreplace").splitlines():
        key, separator, value = line.partition("=")
        if separator:
            keys[key] = value
    return keys


def symbol(keys: Mapping[str, str], name: str) -> int:
    """
    Return ``SYMBOL(name)``, a kernel virtual address.

    :raises TargetError: if it is missing or not a hexadecimal number
    """
    return _value(keys, f"SYMBOL({name})", 16, None) & _MASK_64


def number(keys: Mapping[str, str], name: str, default: int | None = None) -> int:
    """
    Return ``NUMBER(name)``, which may be negative (``phys_base``).

    :raises TargetError: if it is not a number, or missing without a default
    """
    return _value(keys, f"NUMBER({name})", 0, default)


def page_size(keys: Mapping[str, str]) -> int:
    """
    Return the bytes in a base page (``PAGESIZE``), a power of two.

    :raises TargetError: if it is missing, or can't be
    """
    size = _value(keys, "PAGESIZE", 0, None)
    if not 1 << 12 <= size <= 1 << 18 or size & (size - 1):
        raise TargetError(f"VMCOREINFO has a PAGESIZE of {size}")
    return size


def physmem_bits(keys: Mapping[str, str]) -> int:
    """
    Return the bits of a physical address (``MAX_PHYSMEM_BITS``), 56 at most.

    :raises TargetError: if the kernel's value is not a number
    """
    return min(number(keys, "MAX_PHYSMEM_BITS", _PHYSMEM_BITS), _MAX_PHYSMEM_BITS)


def physmem_frames(keys: Mapping[str, str], page_size: int) -> int:
    """
    Return the number of page frames that :func:`physmem_bits` can address.

    :param page_size: bytes in a frame
    :raises TargetError: if the kernel's value is not a number
    """
    return 1 << physmem_bits(keys) - (page_size.bit_length() - 1)


def _value(keys: Mapping[str, str], key: str, base: int, default: int | None) -> int:
    try:
        value = keys[key]
    except KeyError:
        if default is not None:
            return default
        raise TargetError(f"VMCOREINFO has no {key}") from None
    try:
        return int(value, base)
    except ValueError:
        raise TargetError(f"VMCOREINFO has a {key} that is not a number") from None
