# SPDX-License-Identifier: LGPL-2.1-or-later
"""A ``struct page`` taken apart: flags, counters, type, and its compound page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from ...kernel.page_words import mapcount_offset, page_type, tails_may_look_like_heads, word_names
from ...report.documents.page import Compound, PageFlagsReport, StructPage, Word
from ...rules.page_rows import holds_mask, resolve_heads
from ...vmemmap.struct_pages import read_struct_pages

if TYPE_CHECKING:
    from .place import Places

__all__ = ("StructPageReader",)

#: PAGE_POISON_PATTERN
_POISON = (1 << 64) - 1


class StructPageReader:
    """Reads single ``struct page``s of a kernel."""

    def __init__(self, places: Places) -> None:
        self.places, self.vmemmap = places, places.vmemmap
        self.kernel, self.prog = places.kernel, places.kernel.prog
        self.flags, self.names = self.kernel.flags, word_names(self.prog)
        self.pagemaps_lost = bool(self.kernel.pagemap_damage) or not all(
            layout.complete for layout in places.layouts
        )

    def read(self, pfn: int) -> StructPage:
        """Read a ``struct page`` and take it apart."""
        vmemmap = self.vmemmap
        address = vmemmap.geometry.page_address(pfn)
        read = read_struct_pages(vmemmap, np.array([pfn], dtype=np.int64))
        if not read.readable[0]:
            return StructPage(address)
        words = read.data[0][: len(read.data[0]) // 8 * 8].view(vmemmap.word).tolist()
        found = StructPage(
            address=address,
            readable=True,
            words=tuple(
                Word(8 * i, word, self.names.get(8 * i, ())) for i, word in enumerate(words)
            ),
        )
        if not self._initialised(pfn, words[vmemmap.page.flags // 8]):
            return found
        data = read.data[0].tobytes()
        order = "little" if vmemmap.word[0] == "<" else "big"

        def counter(offset: int) -> int:
            return int.from_bytes(data[offset : offset + 4], order, signed=True)  # type: ignore[arg-type]

        flags = words[vmemmap.page.flags // 8]
        if vmemmap.page.order_in_flags and self._follows_head(pfn):
            # folio->_flags_1: the order of the compound page, not flags of its own.
            flags &= ~0xFF
        decoded = self.flags.decode(flags)
        mapcount = counter(mapcount_offset(self.prog))
        kind = page_type(self.prog, self.kernel.target.vmcoreinfo, mapcount & 0xFFFF_FFFF)
        compound = self._compound(pfn, address, words)
        return replace(
            found,
            initialised=True,
            flags=PageFlagsReport.of(decoded, node=decoded.nid),
            refcount=counter(vmemmap.page.refcount),
            mapcount=None if kind else mapcount,
            type=kind,
            compound=compound,
            poisoned=self._poisoned(pfn, decoded.names, compound),
        )

    def _initialised(self, pfn: int, flags: int) -> bool:
        """
        Return whether the kernel writes to a ``struct page`` before it uses it.

        Not where memory is not online (``mm/memory_hotplug.c: pfn_to_online_page()``), nor
        in the part of an altmap that is kept free; and with CONFIG_DEBUG_VM all bits of
        what is not initialised are set (``include/linux/page-flags.h: PagePoisoned()``).
        """
        if flags == _POISON:
            return False
        place, _ = self.places.place_of(pfn)
        if place is not None:
            return place.altmap != "reserve"
        sections = self.vmemmap.sections
        index = sections.index(pfn // sections.pages)
        if index is None:
            return bool(sections.damage)
        # A pagemap that was lost may have it, if it is no RAM.
        return bool(sections.online[index]) or (
            self.pagemaps_lost and self.places.memory_of(pfn) != "RAM"
        )

    def _poisoned(self, pfn: int, flags: tuple[str, ...], compound: Compound) -> str | None:
        """
        Find out whether memory of a page, or of its compound page, failed.

        Source: ``mm/memory-failure.c``: PG_hwpoison is set in the page, in the head of a
        HugeTLB or device-dax page; PG_has_hwpoisoned in the first tail of others.
        """
        if "PG_hwpoison" in flags:
            return "page"
        head = compound.head_pfn
        if head is None or compound.role == "none" or not compound.order:
            return None
        for at, name in ((head, "PG_hwpoison"), (head + 1, "PG_has_hwpoisoned")):
            read = read_struct_pages(self.vmemmap, np.array([at], dtype=np.int64))
            word = int(read.word(self.vmemmap.page.flags, self.vmemmap.word)[0])
            if (
                read.readable[0]
                and self._initialised(at, word)
                and any(
                    word >> bit & 1 and name in names for bit, names in self.flags.names.items()
                )
            ):
                return "head" if at == head else "compound"
        return None

    def _follows_head(self, pfn: int) -> bool:
        """Return whether the page before is the head of a compound page."""
        layout, dtype = self.vmemmap.page, self.vmemmap.word
        if not pfn:
            return False
        read = read_struct_pages(self.vmemmap, np.array([pfn - 1], dtype=np.int64))
        is_head = read.word(layout.flags, dtype) & np.uint64(layout.pg_head) != 0
        is_tail = read.word(layout.compound, dtype) & np.uint64(1) != 0
        return bool(read.readable[0] and is_head[0] and not is_tail[0])

    def _compound(self, pfn: int, address: int, words: list[int]) -> Compound:
        """Resolve a page to its head, as ``compound_head()`` does."""
        layout, geometry = self.vmemmap.page, self.vmemmap.geometry
        word = np.array([words[layout.compound // 8]], dtype=np.uint64)
        at = np.array([address], dtype=np.uint64)
        if word[0] & np.uint64(1):
            head = self._pfn_of(int(resolve_heads(word, at)[0]))
            encoding = "mask" if holds_mask(word)[0] else "pointer"
            return Compound("tail", head, encoding, self._order(head))
        if not words[layout.flags // 8] & layout.pg_head:
            return Compound("none", None, None, None)
        if tails_may_look_like_heads(self.prog) and address % geometry.page_size == 0:
            # page_fixed_fake_head(): what follows a real head is a tail of it.
            read = read_struct_pages(self.vmemmap, np.array([pfn + 1], dtype=np.int64))
            follows = read.word(layout.compound, self.vmemmap.word)
            if (
                read.readable[0]
                and follows[0] & np.uint64(1)
                and follows[0] - np.uint64(1) != at[0]
            ):
                head = self._pfn_of(int(follows[0]) - 1)
                return Compound("fake-head", head, "pointer", self._order(head))
        return Compound("head", pfn, None, self._order(pfn))

    def _pfn_of(self, address: int) -> int | None:
        """Return the page frame of the ``struct page`` at an address, ``None`` if none is there."""
        pfn, into = self.vmemmap.geometry.pfn_at(address)
        return pfn if not into and 0 <= pfn < 1 << self.kernel.physmem_bits else None

    def _order(self, head: int | None) -> int | None:
        """Read the order of a compound page, from its first tail."""
        if head is None:
            return None
        layout = self.vmemmap.page
        read = read_struct_pages(self.vmemmap, np.array([head + 1], dtype=np.int64))
        order = int(read.data[0, layout.order])
        flags = int(read.word(layout.flags, self.vmemmap.word)[0])
        if not read.readable[0]:
            self.places.unread["the order of a compound page"] += 1
            return None
        return order if self._initialised(head + 1, flags) else None
