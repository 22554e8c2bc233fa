# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What the kernel should have built for a pagemap.

The vmemmap of a range is populated in chunks, cut at absolute section
boundaries (``mm/memory_hotplug.c: __add_pages()``). A chunk is one of:

* **early**: part of a section that was there at boot. The section's memory
  map covers it already and is used as it is
  (``mm/sparse.c: section_activate()``, all versions).
* **compound**: deduplicated (5.19+), in one of the ways that :mod:`.schemes` describes. Each
  compound page has one frame for its head page, and its tail pages share another, with each
  other or with those of other devices
  (``mm/sparse-vmemmap.c: vmemmap_populate_compound_pages()``).
* **leaf**: a whole section without deduplication, one large leaf, from RAM or
  from the altmap (``arch/x86/mm/init_64.c: vmemmap_populate()``; base pages
  where no large block was to be had). On some architectures part of a section, too
  (:attr:`.Architecture.leaves_in_parts`). Where a section's memory map is no multiple of a
  large leaf (``sizeof(struct page)`` other than 64 on x86-64, sections of 16 MiB on ppc64),
  neighbouring sections share leaves: whichever was added first took the frames
  (``vmemmap_use_sub_pmd()``).
* **base**: part of a section without deduplication, base pages from RAM,
  whatever the altmap (same function; from the altmap on some,
  :attr:`.Architecture.altmap_base_pages`). Where a neighbouring section has a leaf already that
  covers some of it, the kernel uses that leaf.

The expected layout has one frame for the head of every compound page, and of the tails what
the scheme says. ``vmemmap_populate_compound_pages()`` itself builds another for a compound
page larger than a subsection, in a range that does not start on a section boundary or in a
section that was there at boot: a finding.

A **vpage** is a page of the vmemmap, numbered from its start: the ``struct page`` of frame
``pfn`` lies in vpage
``pfn * sizeof(struct page) // page size``.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from ..kernel import SUBSECTION_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from ..arch import Architecture
    from ..kernel.dev_pagemap import Pagemap
    from ..kernel.mem_section import Sections
    from .schemes import Scheme

__all__ = (
    "RAM",
    "Geometry",
    "Piece",
    "Populated",
    "each_vpage_once",
    "expected_frames",
    "first_compound",
    "pieces_of",
    "unknown_piece",
)


class Geometry(Struct, frozen=True):
    """Sizes that the layout follows from."""

    arch: Architecture
    #: bytes
    page_size: int
    #: sizeof(struct page), bytes
    struct_page_size: int
    #: virtual address of the ``struct page`` of frame 0; not all of it must be the kernel's
    vmemmap: int
    #: first virtual address that can be the vmemmap's, and the first after it
    bounds: tuple[int, int] = (0, 1 << 64)

    @property
    def leaf(self) -> int:
        """Bytes of the leaf that maps the memory map of a section, or part of it."""
        return self.arch.vmemmap_leaf(self.page_size)

    @property
    def start(self) -> int:
        """The first vpage that can be mapped."""
        return max(-(-(self.bounds[0] - self.vmemmap) // self.page_size), 0)

    @property
    def straddles(self) -> bool:
        """Whether some ``struct page``s lie across two pages of the vmemmap."""
        return self.page_size % self.struct_page_size != 0

    @property
    def whole_subsections(self) -> bool:
        """Whether the ``struct page``s of a subsection fill pages, so that no page has others'."""
        return SUBSECTION_SIZE // self.page_size * self.struct_page_size % self.page_size == 0

    @property
    def row(self) -> int:
        """``struct page``s that are read as one: a vpage's, or a subsection's if any straddle."""
        if self.straddles:
            return SUBSECTION_SIZE // self.page_size
        return self.page_size // self.struct_page_size

    def shares_leaves(self, pages: int) -> bool:
        """
        Return whether a large leaf can have the ``struct page``s of several owners.

        :param pages: base pages in a section
        """
        leaf = self.leaf // self.page_size
        section = max(pages * self.struct_page_size // self.page_size, 1)
        return leaf > 1 and bool(section % leaf or self.arch.leaves_in_parts)

    def in_shared_leaf(
        self, vpages: NDArray[np.int64], piece: Piece, pages: int
    ) -> NDArray[np.bool_]:
        """
        Return which vpages of a piece have others' in the same large leaf.

        There, the kernel uses the leaf of the section, or part of one, that it added first, or
        fills up its page table (``mm/sparse-vmemmap.c: vmemmap_populate_hugepages()``,
        ``vmemmap_check_pmd()``).

        :param vpages: shape ``(n,)``
        :param pages: base pages in a section
        """
        if not self.shares_leaves(pages):
            return np.zeros(len(vpages), dtype=np.bool_)
        leaf = self.leaf // self.page_size
        section = max(pages * self.struct_page_size // self.page_size, 1)
        parts = self.arch.leaves_in_parts
        first = vpages // leaf * leaf
        across = first // section != (first + leaf - 1) // section
        found: NDArray[np.bool_] = (first < piece.start) | (first + leaf > piece.end)
        if not parts:
            found &= across
        return found

    def vpage(self, pfn: int) -> int:
        """Return the vpage that the ``struct page`` of a frame starts in."""
        return pfn * self.struct_page_size // self.page_size

    def vpage_after(self, pfn: int) -> int:
        """Return the first vpage without a ``struct page`` of frames before ``pfn``."""
        return -(-pfn * self.struct_page_size // self.page_size)

    def address(self, vpage: int) -> int:
        """Return the virtual address of a vpage."""
        return (self.vmemmap + vpage * self.page_size) % (1 << 64)

    def vpage_at(self, address: int) -> int:
        """Return the vpage of a virtual address."""
        return (address - self.vmemmap) // self.page_size

    def vpages_at(self, addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
        """
        Return the vpages of virtual addresses, negative below the vmemmap.

        A hole of an upper level may start there.

        :param addresses: bytes, shape ``(n,)``
        """
        base, shift = np.uint64(self.vmemmap), np.uint64(self.page_size.bit_length() - 1)
        found: NDArray[np.int64] = ((addresses - base) >> shift).astype(np.int64)
        if (below := addresses < base).any():
            found[below] = -((base - addresses[below]) >> shift).astype(np.int64)
        return found

    def addresses(self, vpages: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return the virtual addresses of vpages, bytes, shape ``(n,)``."""
        found: NDArray[np.uint64] = vpages.astype(np.uint64) * np.uint64(self.page_size)
        found += np.uint64(self.vmemmap)
        return found

    def page_address(self, pfn: int) -> int:
        """Return the virtual address of the ``struct page`` of a frame (``pfn_to_page()``)."""
        return (self.vmemmap + pfn * self.struct_page_size) % (1 << 64)

    def pfn_at(self, address: int) -> tuple[int, int]:
        """
        Return the frame whose ``struct page`` is at a virtual address, and the bytes into that.

        Only for addresses in the vmemmap there is such a frame.
        """
        return divmod(address - self.vmemmap, self.struct_page_size)

    def has(self, address: int, frames: int) -> bool:
        """
        Return whether a virtual address is in the vmemmap.

        :param frames: page frames that there can be
        """
        return max(self.vmemmap, self.bounds[0]) <= address < self.end(frames)

    def end(self, frames: int) -> int:
        """
        Return the first virtual address after the vmemmap.

        :param frames: page frames that there can be (:func:`~.vmcoreinfo.physmem_frames`)
        """
        return min(self.vmemmap + frames * self.struct_page_size, self.bounds[1])

    def compound_vpages(self, shift: int) -> int:
        """Return the number of vpages with the ``struct page``s of a compound page of an order."""
        return (self.struct_page_size << shift) // self.page_size


#: the name of what is no device: RAM, and holes in sections that were there at boot
RAM = "System RAM"


class Populated(Enum):
    """How a piece of a range's vmemmap is populated."""

    EARLY = "early"
    COMPOUND = "compound"
    LEAF = "leaf"
    BASE = "base"
    #: a page that describes other memory, too, and counts with that (:mod:`.shared_pages`)
    NEIGHBOUR = "neighbour"
    #: unknown: the pagemap is invalid
    UNKNOWN = "unknown"


class Piece(Struct, frozen=True):
    """A run of vpages that are populated alike."""

    populated: Populated
    #: first vpage
    start: int
    #: first vpage after it
    end: int
    #: first vpage of the range that it is of: compound pages are laid out from
    #: there, aligned or not (``mm/mm_init.c: memmap_init_zone_device()``)
    origin: int
    #: the page frame whose ``struct page`` is there
    head: int
    #: what the page describes besides, if it is one that does
    others: tuple[str, ...] = ()


def pieces_of(
    first: int,
    end: int,
    pagemap: Pagemap,
    geometry: Geometry,
    sections: Sections,
    scheme: Scheme | None,
) -> list[Piece]:
    """
    Return the pieces of the vmemmap of one range, in order; neighbours may share a vpage.

    :param first: first page frame of the range
    :param end: first page frame after it
    :param scheme: how the pagemap's tail pages should share frames, ``None`` if not at all
    """
    head = first
    if geometry.arch.aligns_compounds and pagemap.vmemmap_shift:
        # radix__vmemmap_populate_compound_pages()
        head = first >> pagemap.vmemmap_shift << pagemap.vmemmap_shift
    found: list[Piece] = []
    for start, stop, populated in _chunks(first, end, pagemap, geometry, sections, scheme):
        vpage, after = geometry.vpage(start), geometry.vpage_after(stop)
        if found and found[-1].populated is populated:
            vpage = found.pop().start
        found.append(Piece(populated, vpage, after, geometry.vpage(head), head))
    return found


def each_vpage_once(pieces: Sequence[Piece]) -> list[Piece]:
    """
    Leave each vpage to the first piece, by address, that has it; keep the order of the pieces.

    Two chunks have a vpage, and two ranges, where a section or a subsection has less than a page
    of ``struct page``s (pages of 64 KiB): the kernel finds the entry there, and uses it
    (``mm/sparse-vmemmap.c: vmemmap_pte_populate()``).
    """
    found: dict[int, Piece] = {}
    done = 0
    for number, piece in sorted(enumerate(pieces), key=lambda one: (one[1].start, one[0])):
        if piece.end > done:
            found[number] = replace(piece, start=max(piece.start, done))
            done = piece.end
    return [found[number] for number in sorted(found)]


def _chunks(
    first: int,
    end: int,
    pagemap: Pagemap,
    geometry: Geometry,
    sections: Sections,
    scheme: Scheme | None,
) -> Iterator[tuple[int, int, Populated]]:
    """Yield chunks of a range that are populated alike: page frames, and how."""
    pages = sections.pages
    # Only the first and the last chunk can be part of a section.
    whole = min(-(-first // pages) * pages, end)
    whole_end = max(end // pages * pages, whole)
    by_section = scheme is not None and scheme.by_section
    for start, stop in ((first, whole), (whole, whole_end), (whole_end, end)):
        if start >= stop:
            continue
        in_section = (start, stop) != (whole, whole_end) or stop - start < pages
        early = in_section and sections.is_early(start // pages)
        if early is None:
            yield start, stop, Populated.UNKNOWN
        elif early:
            yield start, stop, Populated.EARLY
        elif by_section and not in_section:
            yield from _by_order(start, stop, pagemap, sections)
        elif scheme is not None and not by_section:
            yield start, stop, Populated.COMPOUND
        elif in_section and not geometry.arch.leaves_in_parts:
            yield start, stop, Populated.BASE
        else:
            yield start, stop, Populated.LEAF


def _by_order(
    start: int, stop: int, pagemap: Pagemap, sections: Sections
) -> Iterator[tuple[int, int, Populated]]:
    """
    Yield chunks of whole sections by their orders.

    The kernel gives all whole sections of a device the same (rule section-order).
    """
    pages = sections.pages
    for one, after, order in sections.order_runs(start, stop):
        known = order == pagemap.vmemmap_shift
        yield one * pages, after * pages, Populated.COMPOUND if known else Populated.UNKNOWN


def unknown_piece(first: int, end: int, geometry: Geometry) -> Piece:
    """Return the piece of a range whose expected layout is unknown."""
    start = geometry.vpage(first)
    return Piece(Populated.UNKNOWN, start, geometry.vpage_after(end), start, first)


def expected_frames(pieces: Iterable[Piece], compound: int, scheme: Scheme) -> int:
    """
    Count the frames that should back pieces, without those of a zone.

    :param compound: vpages in a compound page
    :param scheme: how tail pages share frames
    """
    total = 0
    for piece in pieces:
        if piece.populated is not Populated.COMPOUND:
            total += piece.end - piece.start
            continue
        position = piece.start
        into = (position - piece.origin) % compound
        if into:
            # Tail pages of a compound page whose head lies in another piece.
            position = min(position + compound - into, piece.end)
            total += scheme.shared
        whole, rest = divmod(piece.end - position, compound)
        total += whole * scheme.own_frames(compound) + scheme.own_frames(rest)
    return total


def first_compound(pagemap: Pagemap, first: int) -> int:
    """
    Return the head of the first compound page in a range.

    With an altmap the memory map's own frames come first and are no compound
    pages (``mm/mm_init.c: memmap_init_zone_device()``, ``vmem_altmap_offset()``).

    :param first: first page frame of the range
    :return: page frame number
    """
    if pagemap.altmap is None:
        return first
    return first + pagemap.altmap.reserve + pagemap.altmap.free
