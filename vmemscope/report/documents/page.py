# SPDX-License-Identifier: LGPL-2.1-or-later
"""
All about one page: plain frozen dataclasses, for reports and for scripts.

Addresses and sizes are in bytes, ``pfn`` counts page frames; ``None`` stands for
what does not exist or could not be read, and then ``not_read`` says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...kernel.page_flags import PageFlags
    from ...kernel.resource import Resource
    from ...rules.findings import Finding
    from ...vmemmap.tables import Step
    from .pgmap import TargetInfo

__all__ = (
    "Compound",
    "Frame",
    "Meaning",
    "PageReport",
    "Place",
    "Section",
    "Sharing",
    "SharingRun",
    "StructPage",
)


@dataclass(frozen=True)
class Meaning:
    """What the number that was asked for was taken for."""

    number: int
    #: pfn, physical, struct-page or virtual
    kind: str
    #: the page that it means
    pfn: int
    #: how it was understood, in words
    words: str


@dataclass(frozen=True)
class Section:
    """The memory section that the page is in."""

    number: int
    present: bool
    #: in words: present, early, ...
    flags: tuple[str, ...]
    #: 2 MiB of the section that the page is in, counted from 0
    subsection: int
    #: whether ``pfn_valid()`` is true; ``None`` if it could not be read
    valid: bool | None


@dataclass(frozen=True)
class Place:
    """Where in a pagemap the page is."""

    #: virtual address of the ``struct dev_pagemap``
    pgmap: int
    name: str | None
    type: str
    #: physical addresses of the range that it is in, ``end`` inclusive
    start: int
    end: int
    #: how its part of the vmemmap should be populated: compound, leaf, base, early, unknown
    populated: str
    #: with an altmap: reserve (metadata), map (the memory map's own frames), data; else ``None``
    altmap: str | None
    #: by the pagemap: the compound page that it is in, counted in its range from
    #: 0, the head of that, and log2 of its pages; ``None`` where there is none
    compound: int | None
    head_pfn: int | None
    order: int


@dataclass(frozen=True)
class Compound:
    """What the ``struct page`` itself says of a compound page."""

    #: head, tail, none, or fake-head: a tail that looks like the head, its frame being
    #: the head's
    role: str
    #: page frame of the head that it resolves to; ``None`` if that is no struct page
    head_pfn: int | None
    #: pointer or mask, in a tail
    encoding: str | None
    #: log2 of the pages, from the first tail; ``None`` if there are none, or it can't be read
    order: int | None


@dataclass(frozen=True)
class StructPage:
    """A ``struct page``."""

    #: virtual address
    address: int
    #: (offset, value, members that lie there); empty if it could not be read
    words: tuple[tuple[int, int, tuple[str, ...]], ...] = ()
    flags: PageFlags | None = None
    refcount: int | None = None
    #: ``_mapcount`` as a number; ``None`` if the page has a type instead
    mapcount: int | None = None
    #: buddy, slab, hugetlb, ...
    type: str | None = None
    compound: Compound | None = None

    @property
    def readable(self) -> bool:
        """Whether it could be read."""
        return bool(self.words)


@dataclass(frozen=True)
class Frame:
    """The frame that holds the ``struct page``."""

    pfn: int
    #: bytes of the leaf that maps it
    leaf_size: int
    #: RAM, device or no memory
    memory: str
    #: its own ``struct page``
    page: StructPage


@dataclass(frozen=True)
class SharingRun:
    """Neighbouring pages of the vmemmap that map one frame."""

    #: virtual address of the first
    address: int
    pages: int
    #: page frame that the first ``struct page`` there describes
    first_pfn: int


@dataclass(frozen=True)
class Sharing:
    """Who maps the frame, as far as was looked."""

    #: part of the vmemmap that was looked through, and what that is, in words
    start: int
    end: int
    what: str
    #: pages that map the frame, in runs; at most so many are listed
    pages: int
    runs: tuple[SharingRun, ...]
    runs_left_out: int


@dataclass(frozen=True)
class PageReport:
    """All about one page."""

    target: TargetInfo
    meaning: Meaning
    pfn: int
    #: physical address
    physical: int
    #: from the outermost in, as in /proc/iomem
    resources: tuple[Resource, ...]
    section: Section
    #: by ``page->flags``, else by what zones span
    nid: int | None
    zone: str | None
    place: Place | None
    page: StructPage
    #: the way from the top table to the page of the vmemmap
    walk: tuple[Step, ...]
    frame: Frame | None
    sharing: Sharing | None
    #: what to make of all that, a line each
    state: tuple[str, ...]
    findings: tuple[Finding, ...]
    not_read: tuple[str, ...] = ()
    #: seconds per phase: attach, types, read
    timings: dict[str, float] = field(default_factory=dict)

    @property
    def partial(self) -> bool:
        """Whether something could not be read."""
        return bool(self.not_read)
