# SPDX-License-Identifier: LGPL-2.1-or-later
"""
VMCOREINFO: what a kernel says of itself (``kernel/vmcore_info.c``).

Lines of ``KEY=value``; symbols and offsets in hex or decimal as the macro
that wrote them does: ``SYMBOL(x)=hex``, ``NUMBER(x)=decimal``,
``OFFSET(x)=decimal``. The text comes from the target, so none of it is trusted.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import TargetError

__all__ = ("number", "parse", "physmem_bits", "physmem_frames", "symbol")

#: bits of physical address that any architecture has
_MAX_PHYSMEM_BITS = 52
_MASK_64 = (1 << 64) - 1


def parse(text: bytes) -> dict[str, str]:
    """Parse a VMCOREINFO note into its keys; lines that are none are dropped."""
    keys = {}
    for line in text.decode("utf-8", "backslashreplace").splitlines():
        key, separator, value = line.partition("=")
        if separator:
            keys[key] = value
    return keys


def symbol(keys: Mapping[str, str], name: str) -> int:
    """
    Get ``SYMBOL(name)``, a kernel virtual address.

    :raises TargetError: if it is missing or not a hexadecimal number
    """
    return _value(keys, f"SYMBOL({name})", 16, None) & _MASK_64


def number(keys: Mapping[str, str], name: str, default: int | None = None) -> int:
    """
    Get ``NUMBER(name)``; negative where the kernel prints it so (``phys_base``).

    :raises TargetError: if it is not a number, or missing without a default
    """
    return _value(keys, f"NUMBER({name})", 0, default)


def physmem_bits(keys: Mapping[str, str]) -> int:
    """
    Get how many bits a physical address has (``MAX_PHYSMEM_BITS``), 52 at the most.

    :raises TargetError: if what the kernel says is not a number
    """
    return min(number(keys, "MAX_PHYSMEM_BITS", _MAX_PHYSMEM_BITS), _MAX_PHYSMEM_BITS)


def physmem_frames(keys: Mapping[str, str], page_size: int) -> int:
    """
    Get how many page frames there can be, by :func:`physmem_bits`.

    :param page_size: bytes in a frame
    :raises TargetError: if what the kernel says is not a number
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
