# SPDX-License-Identifier: LGPL-2.1-or-later
"""
How much is handled at a time.

No result depends on these numbers, only time and memory: they bound what is in memory
at once, whatever the size of the target, and keep it in the processor's caches. A test
that wants many batches of a small target sets them smaller.
"""

from __future__ import annotations

from msgspec import Struct

__all__ = ("LIMITS", "Limits")


class Limits(Struct):
    """How much is handled at a time."""

    #: tables of the last level that one batch of a walk has: 1 MiB of tables on x86-64
    tables: int = 256
    #: frames between two that are read, which are rather read along than read around:
    #: a read of its own costs as much as copying them (see docs/performance.md)
    gap: int = 3
    #: vpages looked up, and of these vpages read, at a time where members of struct
    #: pages are read: what was read is still in the processor's cache when used
    translated: int = 4096
    read: int = 256
    #: rows that a frame table gathers before it adds up those of the same frame
    gathered: int = 1 << 21
    #: rows of frames that are audited together, and log2 of the frames that the bounds of a
    #: window of them are a multiple of
    window: int = 1 << 20
    window_order: int = 18
    #: frames of memory for each one in use, up to which they are not sorted; and that may
    #: be gone through one by one, however few are in use
    dense: int = 4
    sparse: int = 1 << 18
    #: blocks of frames that are counted one by one, rather than sorted
    narrow: int = 1 << 12
    #: compound pages, and vpages, whose struct pages are looked up at a time
    compounds: int = 16384
    vpages: int = 16384
    #: frames of struct pages that are read at a time
    frames: int = 512
    #: whether what is regular may be taken many at a time, without going through it one by
    #: one; a test that compares the results with those of the plain way clears it
    short_cuts: bool = True


LIMITS = Limits()
