# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The layout of ``struct page``, from the target's types.

Members that were renamed are tried newest first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from drgn import offsetof, sizeof
from msgspec import Struct

from . import word_of

if TYPE_CHECKING:
    from drgn import Program, Type

__all__ = ("PageLayout", "read_page_layout")


class PageLayout(Struct, frozen=True):
    """Offsets in bytes into a ``struct page``, bits as masks."""

    #: sizeof(struct page)
    size: int
    flags: int
    refcount: int
    #: ``compound_head`` or ``compound_info``: bit 0 set in a tail
    compound: int
    #: ``pgmap`` of a head or an order-0 page
    pgmap: int
    #: flag of a compound page's head
    pg_head: int
    #: the byte of page[1] of a compound page that has its order, and whether it is of flags
    order: int
    order_in_flags: bool
    #: flag of pages that the page allocator does not own
    pg_reserved: int
    #: flag of frames that hold the memory map of their own memory block, 0 if there is none
    pg_self_hosted: int
    #: flag of pages whose memory failed, 0 if there is none
    pg_hwpoison: int
    #: whether ``pgmap`` is a member of ``struct folio`` (6.15+)
    folio_pgmap: bool
    #: ``struct page``s that a ``struct folio`` covers. The tail pages after them are equal
    folio_pages: int
    #: numpy dtype of a word, with the target's byte order
    word: str

    def shift(self, offset: int, size: int) -> int:
        """Return the number of the lowest bit of a member in its word, both sizes in bytes."""
        into = offset % 8
        return (into if self.word[0] == "<" else 8 - size - into) * 8


def read_page_layout(prog: Program) -> PageLayout:
    """
    Read the layout from the target's types.

    :raises LookupError: if a member is missing
    """
    page = prog.type("struct page")
    folio_pgmap, word = _folio_pgmap(prog), word_of(prog)
    flags, order = offsetof(page, "flags"), _first(page, "compound_order", "flags")
    # Since "mm: move the order to the first tail's flags" (folio->_flags_1, in v6.6) the low
    # byte of page[1].flags; a member of its own before.
    in_flags = order == flags
    return PageLayout(
        size=sizeof(page),
        flags=flags,
        refcount=offsetof(page, "_refcount"),
        # "mm: rework compound_head() for power-of-2 sizeof(struct page)" renamed
        # the member (in v7.1).
        compound=_first(page, "compound_info", "compound_head"),
        # page->pgmap moved to folio->pgmap in v6.15; the word is the same.
        pgmap=offsetof(page, "pgmap") if folio_pgmap is None else folio_pgmap,
        pg_head=1 << int(prog.constant("PG_head").value_()),
        order=order + 7 if in_flags and word[0] == ">" else order,
        order_in_flags=in_flags,
        pg_reserved=1 << int(prog.constant("PG_reserved").value_()),
        # "mm: hugetlb_vmemmap: disable hugetlb_optimize_vmemmap when struct page crosses page
        # boundaries" and its neighbours (in v6.0); with CONFIG_MEMORY_HOTPLUG.
        pg_self_hosted=_flag(prog, "PG_vmemmap_self_hosted"),
        # With CONFIG_MEMORY_FAILURE.
        pg_hwpoison=_flag(prog, "PG_hwpoison"),
        folio_pgmap=folio_pgmap is not None,
        folio_pages=_folio_pages(prog, sizeof(page)),
        word=word,
    )


def _flag(prog: Program, name: str) -> int:
    try:
        return 1 << int(prog.constant(name).value_())
    except LookupError:
        return 0


def _first(struct: Type, *names: str) -> int:
    for name in names[:-1]:
        try:
            return int(offsetof(struct, name))
        except LookupError:
            continue
    return int(offsetof(struct, names[-1]))


def _folio_pgmap(prog: Program) -> int | None:
    """Return the offset of ``folio->pgmap``, ``None`` before 6.15."""
    try:
        return int(offsetof(prog.type("struct folio"), "pgmap"))
    except LookupError:
        return None


def _folio_pages(prog: Program, size: int) -> int:
    """Return the ``struct page``s that a ``struct folio`` covers, 3 at least (before 5.18)."""
    try:
        return max(-(-int(sizeof(prog.type("struct folio"))) // size), 3)
    except LookupError:
        return 3
