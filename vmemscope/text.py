# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Printable text from kernel memory, and readable numbers.

A name in a dump may have terminal escapes, newlines or bytes that are no text. The
reader of a name calls :func:`printable`, so that no other code must.
"""

from __future__ import annotations

__all__ = ("binary_size", "count", "hexadecimal", "printable", "safe")

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def printable(raw: bytes) -> str:
    r"""
    Decode bytes from kernel memory, and escape all but printable text.

    >>> printable(b"dax0.0\x1b[2J")
    'dax0.0\\x1b[2J'
    """
    text = raw.decode("utf-8", "backslashreplace")
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def safe(text: str) -> str:
    r"""
    Return text from the user or a target with all but printable characters escaped.

    Escaped text stays as it is. Bytes of a path that are no UTF-8, which Python keeps as
    surrogates, become ``\xNN``.

    >>> safe("a\x1b[2J\udcff"), safe(safe("a\n"))
    ('a\\x1b[2J\\xff', 'a\\n')
    """
    # A lone surrogate that stands for no byte can't be encoded, but is escaped all the same.
    return "".join(
        printable(bytes([ord(char) & 0xFF]))
        if "\udc80" <= char <= "\udcff"
        else printable(char.encode("utf-8", "backslashreplace"))
        for char in text
    )


def binary_size(size: int) -> str:
    """
    Format a number of bytes in binary units, with at most one decimal.

    >>> binary_size(2 << 20), binary_size(2815 << 20), binary_size(0)
    ('2 MiB', '2.7 GiB', '0 B')
    """
    if size < 0:
        return "-" + binary_size(-size)
    unit = min((max(size, 1).bit_length() - 1) // 10, len(_UNITS) - 1)
    scaled = size / (1 << 10 * unit)
    number = f"{scaled:.0f}" if scaled == int(scaled) else f"{scaled:.1f}"
    return f"{number} {_UNITS[unit]}"


def count(number: int, singular: str, plural: str | None = None) -> str:
    """
    Format a number with its noun.

    >>> count(1, "page"), count(2, "entry", "entries")
    ('1 page', '2 entries')
    """
    return f"{number} {singular if number == 1 else plural or singular + 's'}"


def hexadecimal(value: int | None) -> str | None:
    """Format an address as the kernel prints it; return ``None`` for ``None``."""
    return None if value is None else f"0x{value:x}"
