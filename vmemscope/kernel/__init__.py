# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Kernel structures, read into frozen records.

Each module reads one structure of the kernel, and is named after it. It judges and
prints nothing. The target is not trusted: every walk is bounded, and each thing that
can't be read or followed is returned as a :class:`Damage`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from drgn import Program

__all__ = ("SUBSECTION_SIZE", "Damage", "word_of")

#: bytes of physical memory in a subsection, on every architecture
#: (``include/linux/mmzone.h: SUBSECTION_SHIFT``)
SUBSECTION_SIZE = 1 << 21


class Damage(Struct, frozen=True):
    """Something in a kernel structure that could not be read or followed."""

    #: virtual address of the structure, in bytes
    address: int
    #: what is wrong, a clause without a full stop
    message: str
    #: the target does not have the memory; otherwise its contents make no sense
    unreadable: bool = False


def word_of(prog: Program) -> str:
    """Return the numpy dtype of an ``unsigned long`` in a target's memory, with its byte order."""
    from drgn import PlatformFlags

    platform = prog.platform
    little = platform is None or platform.flags & PlatformFlags.IS_LITTLE_ENDIAN
    return "<u8" if little else ">u8"
