# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A ``struct page`` word by word, for people: names of its words, and the page type.

Sources: ``include/linux/mm_types.h`` (``struct page``), ``include/linux/page-flags.h``
(page types).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from drgn import offsetof

from ..types.needs import has_member

if TYPE_CHECKING:
    from drgn import Program

__all__ = ("mapcount_offset", "page_type", "page_types", "tails_may_look_like_heads", "word_names")

#: members that reports show, in this order where they share a word
_MEMBERS = (
    "flags",
    "compound_info",
    "compound_head",
    "lru",
    "mapping",
    "index",
    "private",
    "_mapcount",
    "_refcount",
    "memcg_data",
)
#: type in lower case -> key of VMCOREINFO with the value of ``_mapcount`` before 6.11
_VALUES = {
    "buddy": "PAGE_BUDDY_MAPCOUNT_VALUE",
    "offline": "PAGE_OFFLINE_MAPCOUNT_VALUE",
}
_NO_TYPE = 0xFFFF_FFFF
_TYPE_SHIFT = 24


def word_names(prog: Program) -> dict[int, tuple[str, ...]]:
    """Return the members in each word of a ``struct page``, by offset in bytes."""
    page = prog.type("struct page")
    names: dict[int, tuple[str, ...]] = {}
    for member in _MEMBERS:
        try:
            offset = offsetof(page, member)
        except LookupError:
            continue
        names[offset // 8 * 8] = (*names.get(offset // 8 * 8, ()), member)
    return names


def mapcount_offset(prog: Program) -> int:
    """Return the offset in bytes of ``_mapcount``, which is also that of ``page_type``."""
    return int(offsetof(prog.type("struct page"), "_mapcount"))


def page_type(prog: Program, vmcoreinfo: Mapping[str, str], value: int) -> str | None:
    """
    Return the type of a page (buddy, slab, hugetlb, ...).

    :param value: ``_mapcount`` or ``page_type``, unsigned
    :return: ``None`` if the page has no type: the value is a map count
    """
    if value == _NO_TYPE:
        return None
    mask, types = page_types(prog, vmcoreinfo)
    return types.get(value & mask)


def page_types(prog: Program, vmcoreinfo: Mapping[str, str]) -> tuple[int, dict[int, str]]:
    """
    Return the page types of the kernel.

    :return: mask of the type in ``page_type``; value under the mask -> type
    """
    found = {}
    try:
        types = prog.type("enum pagetype").enumerators or ()
    except LookupError:
        for name, key in _VALUES.items():
            try:
                found[int(vmcoreinfo[f"NUMBER({key})"]) & _NO_TYPE] = name
            except (KeyError, ValueError):
                continue
        return _NO_TYPE, found
    # 6.11+: the type is in the top byte.
    for name, number in types:
        if not name.endswith("_underflow"):
            found.setdefault(int(number) << _TYPE_SHIFT & _NO_TYPE, str(name).removeprefix("PGTY_"))
    return _NO_TYPE >> _TYPE_SHIFT << _TYPE_SHIFT, found


def tails_may_look_like_heads(prog: Program) -> bool:
    """
    Return whether HVO makes tail pages look like head pages (5.18 to 7.0).

    These kernels map tail pages to the frame of the head page. 7.1 has frames of tail
    pages, and ``compound_info`` instead of ``compound_head``.
    """
    return has_member(prog, "struct page.compound_head")
