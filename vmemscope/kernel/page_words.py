# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A ``struct page`` word by word, for people: what the words are called, what type a page has.

Sources: ``include/linux/mm_types.h`` (``struct page``), ``include/linux/page-flags.h``
(page types).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from drgn import offsetof

if TYPE_CHECKING:
    from drgn import Program

__all__ = ("mapcount_offset", "page_type", "page_types", "tails_may_look_like_heads", "word_names")

#: members that are shown, those that share a word in this order
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
    """Get the members that lie in each word of a ``struct page``, by offset in bytes."""
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
    """Get where ``_mapcount`` is, which ``page_type`` shares, in bytes."""
    return int(offsetof(prog.type("struct page"), "_mapcount"))


def page_type(prog: Program, vmcoreinfo: Mapping[str, str], value: int) -> str | None:
    """
    Tell the type of a page (buddy, slab, hugetlb, ...).

    :param value: ``_mapcount`` or ``page_type``, unsigned
    :return: ``None`` if it has none, and the value is a count
    """
    if value == _NO_TYPE:
        return None
    mask, types = page_types(prog, vmcoreinfo)
    return types.get(value & mask)


def page_types(prog: Program, vmcoreinfo: Mapping[str, str]) -> tuple[int, dict[int, str]]:
    """
    Get the types of pages.

    :return: which bits of ``page_type`` tell it, and the types by their value there
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
    # 6.11+: the type is in the top byte, and enum pagetype has what it can be.
    for name, number in types:
        if not name.endswith("_underflow"):
            found.setdefault(int(number) << _TYPE_SHIFT & _NO_TYPE, str(name).removeprefix("PGTY_"))
    return _NO_TYPE >> _TYPE_SHIFT << _TYPE_SHIFT, found


def tails_may_look_like_heads(prog: Program) -> bool:
    """
    Tell whether HugeTLB's optimization makes tail pages look like heads (5.18 to 7.0).

    Its tail pages are mapped to the frame of the head; since 7.1 there are
    frames of tail pages, and ``compound_info`` instead of ``compound_head``.
    """
    try:
        offsetof(prog.type("struct page"), "compound_head")
    except LookupError:
        return False
    return True
