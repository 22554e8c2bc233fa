# SPDX-License-Identifier: LGPL-2.1-or-later
"""
``struct page``s by pfn, many at a time.

They are read through the page tables of the vmemmap, each page of it once.
"""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..kernel.page_flags import read_flag_layout
from ..kernel.pglist_data import DEVICE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from drgn import Program
    from numpy.typing import NDArray

    from ..kernel.page_flags import FlagLayout
    from ..kernel.pglist_data import Zone
    from .vmemmap import Vmemmap

__all__ = ("ReadPages", "flag_layout", "read_struct_pages", "self_hosted")

#: struct pages read at a time
_BATCH = 1 << 14


class ReadPages(NamedTuple):
    """``struct page``s as read, in the order that was asked for."""

    #: shape ``(n, sizeof(struct page))`` (uint8), zeros where unreadable
    data: NDArray[np.uint8]
    #: frame that holds the first byte of each (uint64), 0 where nothing is mapped
    frame: NDArray[np.uint64]
    #: whether each could be read (bool)
    readable: NDArray[np.bool_]

    def word(self, offset: int, dtype: str) -> NDArray[np.uint64]:
        """
        Return a word of each.

        :param offset: in bytes, a multiple of 8
        :param dtype: of a word of the target, with its byte order
        """
        column: NDArray[np.uint64] = self.data[:, offset : offset + 8].copy().view(dtype)[:, 0]
        return column.astype(np.uint64, copy=False)


def read_struct_pages(vmemmap: Vmemmap, pfns: NDArray[np.int64]) -> ReadPages:
    """Read the ``struct page``s of page frames, shape ``(n,)``."""
    size, page_size = vmemmap.geometry.struct_page_size, vmemmap.geometry.page_size
    # A struct page may lie across two vpages where its size is no power of two. Parts of it that
    # do not: words, unless its size makes no sense.
    part = gcd(size, 8)
    offset = pfns[:, None] * size + np.arange(0, size, part)
    vpage, into = np.divmod(offset, page_size)
    vpages, which = np.unique(vpage[:, [0, -1]], return_inverse=True)
    which = which.reshape(-1, 2)
    pages = vmemmap.read(vpages)
    row = np.where(vpage == vpage[:, :1], which[:, :1], which[:, 1:])
    readable = pages.readable[which[:, 0]] & pages.readable[which[:, 1]]
    data = pages.data.view(f"u{part}")[row, into // part].view(np.uint8)
    return ReadPages(data, pages.pfn[which[:, 0]], readable)


def self_hosted(vmemmap: Vmemmap, pfns: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """
    Return which frames of a memory map lie in the memory block that they describe (bool).

    ``mm/memory_hotplug.c: mhp_init_memmap_on_memory()`` marks them when the block goes
    online. Before, nothing else can be in it.

    :param pfns: frames that hold struct pages of System RAM, shape ``(n,)``
    """
    sections, pages = vmemmap.sections, pfns.astype(np.int64)
    found = np.zeros(len(pages), dtype=np.bool_)
    if not vmemmap.page.pg_self_hosted or not len(sections.number):
        return found
    at = np.searchsorted(sections.number, pages // sections.pages)
    at = np.minimum(at, len(sections.number) - 1)
    present = sections.number[at] == pages // sections.pages
    found |= present & ~sections.online[at]
    online = np.flatnonzero(present & sections.online[at] & ~sections.early[at])
    for start in range(0, len(online), _BATCH):
        some = online[start : start + _BATCH]
        read = read_struct_pages(vmemmap, pages[some])
        flags = read.word(vmemmap.page.flags, vmemmap.word)
        found[some] = read.readable & (flags & np.uint64(vmemmap.page.pg_self_hosted) != 0)
    return found


def flag_layout(
    prog: Program, vmemmap: Vmemmap, zones: Iterable[Zone], devices: Iterable[int]
) -> FlagLayout:
    """
    Find out where zone and node are in page flags, by the first page of each zone.

    :param zones: used only if the kernel's types leave the layout open
    :param devices: pfns of pages of devices, used only if all RAM is in the first zone of
        the first node
    """
    return read_flag_layout(prog, _samples(vmemmap, zones), lambda: _device_flags(vmemmap, devices))


def _device_flags(vmemmap: Vmemmap, devices: Iterable[int]) -> list[int]:
    read = read_struct_pages(vmemmap, np.array(list(devices), dtype=np.int64))
    words = read.word(vmemmap.page.flags, vmemmap.word)
    return [int(word) for word in words[read.readable]]


def _samples(vmemmap: Vmemmap, zones: Iterable[Zone]) -> Iterator[tuple[int, int, int]]:
    """Read page flags, node and number of the zone of the first page of each zone."""
    # The first page that a zone of RAM spans is one of its own; that of a device
    # may never have been written to (altmap).
    ram = [zone for zone in zones if zone.name != DEVICE]
    read = read_struct_pages(vmemmap, np.array([zone.start for zone in ram], dtype=np.int64))
    words = read.word(vmemmap.page.flags, vmemmap.word).tolist()
    for zone, word, readable in zip(ram, words, read.readable.tolist(), strict=True):
        if readable:
            yield word, zone.nid, zone.index
