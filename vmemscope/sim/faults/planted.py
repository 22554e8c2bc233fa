# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a fault is planted in, and what it left: changed bytes, findings that it must give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from .planter import Planter

__all__ = ("Change", "Finding", "Place", "Planted", "Record", "Struct")


class Finding(NamedTuple):
    """A finding that a command must give for a fault."""

    command: str
    rule: str
    #: name of the pagemap that it is of; ``None``: of none
    pagemap: str | None
    vaddr: int


class Change(NamedTuple):
    """Bytes that a fault changed, in the order of the changes."""

    #: virtual address of the bytes, or that an entry of a page table maps
    vaddr: int
    #: bytes; of an entry: log2 of the bytes that it maps
    size: int
    is_entry: bool
    before: int
    after: int


@dataclass(frozen=True)
class Planted:
    """A fault where it was put."""

    kind: str
    #: name of the pagemap
    pagemap: str
    #: virtual address that is wrong: of a page of the vmemmap, of a struct page
    #: in it, or of the structure
    vaddr: int
    #: the frame that is wrong: the one that is mapped now, if an entry was
    #: changed (``None``: none is); the one whose struct page is wrong
    pfn: int | None = None
    #: what else there is to know, by kind
    details: Mapping[str, Any] = field(default_factory=dict)
    #: all findings that it must give
    findings: frozenset[Finding] = frozenset()
    changes: tuple[Change, ...] = ()


class Record(Protocol):
    """What a planter knows of a pagemap; page frames, ends are exclusive."""

    @property
    def name(self) -> str: ...
    @property
    def nid(self) -> int: ...
    @property
    def altmap(self) -> bool: ...
    @property
    def per_compound(self) -> int:
        """Pages in a compound page."""

    ranges: list[tuple[int, int]]
    #: first page frame of the data: after an altmap
    data_pfn: int
    vmemmap_shift: int

    @property
    def va(self) -> int:
        """Address of the ``struct dev_pagemap``."""


class Struct:
    """A structure at a virtual address; members are items: ``node["slots[3]"]``."""

    def __init__(self, planter: Planter, name: str, va: int) -> None:
        self.planter = planter
        self.name = name
        self.va = va

    def addr(self, path: str) -> int:
        """Return the virtual address of a member."""
        return self.va + self.planter.member(self.name, path).offset

    def __getitem__(self, path: str) -> int:
        member = self.planter.member(self.name, path)
        value = self.planter.read(self.va + member.offset, member.size)
        if member.bits is not None:
            shift, bits = member.shift(self.planter.units.order), member.bits[1]
            value = value >> shift & ((1 << bits) - 1)
        return value

    def __setitem__(self, path: str, value: int) -> None:
        member = self.planter.member(self.name, path)
        va = self.va + member.offset
        if member.bits is not None:
            shift, bits = member.shift(self.planter.units.order), member.bits[1]
            mask = ((1 << bits) - 1) << shift
            value = self.planter.read(va, member.size) & ~mask | value << shift & mask
        self.planter.write(va, value, member.size)


class Place(NamedTuple):
    """A page of the vmemmap, or a struct page in it."""

    #: first pfn of the compound page, or of the range
    head_pfn: int
    #: pfn whose struct page is at the address
    pfn: int
    #: virtual address, and that of the page of the vmemmap
    va: int
    page_va: int
