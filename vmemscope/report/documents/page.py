# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The report of ``vmemscope page``, written as ``vmemscope.page/1`` (``docs/page.md``).

Addresses and sizes are in bytes; ``None`` stands for values that do not exist, or that
could not be read, which ``not_read`` reports.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import field

from ...fields import Address, Bytes, Count, Facts, Name, Seconds, Text, one_of
from ...rules.findings import Finding
from .common import LeftOut, PagemapName, PagemapType, Summed, TargetReport, Timings

__all__ = (
    "Backed",
    "Backing",
    "Compound",
    "Frame",
    "Meaning",
    "PageFlagsReport",
    "PageReport",
    "PageSummary",
    "PageTimings",
    "Place",
    "ResourceReport",
    "Section",
    "Sharing",
    "SharingRun",
    "StepReport",
    "StructPage",
    "Word",
)


class Meaning(Facts, frozen=True):
    """The meaning of the number that the user gave."""

    number: Address
    kind: Literal["pfn", "physical", "struct-page", "virtual"]
    words: Text


class ResourceReport(Facts, frozen=True):
    """A part of ``/proc/iomem`` that holds the page: physical addresses, ``end`` inclusive."""

    start: Address
    end: Address
    name: Text


class Section(Facts, frozen=True):
    """The memory section that the page is in."""

    number: Count
    present: bool
    #: whether its memory is online: struct pages of RAM are initialised only then
    online: bool
    #: in words: present, early, ...
    flags: tuple[Name, ...]
    #: 2 MiB of the section that the page is in, counted from 0
    subsection: Count
    #: whether that subsection is valid; ``None`` if it could not be read
    valid: bool | None
    #: log2 of the pages in the compound pages that the section's memory map was populated for,
    #: 0 for none; ``None`` if it is not present, or sections of this kernel have no order
    order: Count | None


class Place(PagemapName, frozen=True, kw_only=True):
    """Where in a pagemap the page is."""

    type: PagemapType
    #: physical addresses of the range that it is in, ``end`` inclusive
    start: Address
    end: Address
    #: how its part of the vmemmap should be populated
    populated: Annotated[str, one_of("early", "compound", "leaf", "base", "neighbour", "unknown")]
    #: with an altmap: reserve (metadata), map (the memory map's own frames), data; else ``None``
    altmap: Annotated[str, one_of("reserve", "map", "data")] | None
    #: by the pagemap: the compound page that it is in, counted in its range from
    #: 0, the head of that, and log2 of its pages; ``None`` where there is none
    compound: Count | None
    head_pfn: Count | None
    order: Count


class Word(Facts, frozen=True):
    """A word of a ``struct page``."""

    offset: Count
    value: Address
    #: members that lie there
    members: tuple[Name, ...]


class PageFlagsReport(Facts, frozen=True):
    """``page->flags`` taken apart."""

    #: names of flags; one bit may have several, by what the page is used for
    names: tuple[Name, ...]
    #: ``None`` where the layout is not known, as for ``zone``
    node: Count | None
    #: number in ``enum zone_type``, and its name
    zone: Count | None
    zone_name: Name | None
    #: what else there is between flags and zone, as it stands
    other: Address


class Compound(Facts, frozen=True):
    """The ``struct page``'s own state in a compound page."""

    #: fake-head: a tail that looks like the head, its frame being the head's
    role: Literal["head", "tail", "none", "fake-head"]
    #: page frame of the head that it resolves to; ``None`` if that is no struct page
    head_pfn: Count | None
    #: in a tail
    encoding: Annotated[str, one_of("pointer", "mask")] | None
    #: log2 of the pages, from the first tail; ``None`` if there are none, or it can't be read
    order: Count | None


class StructPage(Facts, frozen=True):
    """A ``struct page``."""

    #: virtual address
    address: Address
    readable: bool = False
    #: empty if it could not be read
    words: tuple[Word, ...] = ()
    #: whether the kernel has initialised it; else only its words are given
    initialised: bool = False
    flags: PageFlagsReport | None = None
    refcount: int | None = None
    #: ``_mapcount`` as a number; ``None`` if the page has a type instead
    mapcount: int | None = None
    #: buddy, slab, hugetlb, ...
    type: Name | None = None
    compound: Compound | None = None
    #: where PG_hwpoison says that memory failed: in the page itself, in the head of its
    #: compound page, or somewhere in the compound page
    poisoned: Annotated[str, one_of("page", "head", "compound")] | None = None


class StepReport(Facts, frozen=True):
    """An entry on the way through the page tables (:class:`vmemscope.vmemmap.tables.Step`)."""

    level: Literal["pgd", "p4d", "pud", "pmd", "pte"]
    table: Address
    index: Count
    entry_address: Address
    entry: Address | None
    flags: tuple[Name, ...]
    kind: Literal["table", "leaf", "hole", "unreadable"]
    pfn: Count | None
    size: Bytes


class Frame(Facts, frozen=True):
    """The frame that holds the ``struct page``."""

    pfn: Count
    #: bytes of the leaf that maps it
    leaf_size: Bytes
    memory: Annotated[str, one_of("RAM", "device", "no memory")]
    #: its own ``struct page``
    page: StructPage


class SharingRun(Facts, frozen=True):
    """Neighbouring pages of the vmemmap that map one frame."""

    #: virtual address of the first
    address: Address
    pages: Bytes
    #: page frame that the first ``struct page`` there describes
    first_pfn: Count


class Sharing(Facts, frozen=True, kw_only=True):
    """The pages of a part of the vmemmap that map the frame."""

    #: that part, ``end`` the first byte after it
    start: Address
    end: Address
    #: what it describes
    what: Annotated[str, one_of("compound page", "section")]
    #: pages that map the frame, in runs, of which some are listed
    pages: Count
    runs: tuple[SharingRun, ...]
    runs_left_out: Count


class Backed(Facts, frozen=True):
    """Neighbouring pages of the vmemmap that the page itself backs."""

    #: virtual address of the first
    address: Address
    pages: Count
    #: page frames of the first and the last ``struct page`` in them
    first_pfn: Count
    last_pfn: Count
    #: what the first describes
    memory: Annotated[str, one_of("RAM", "device", "no memory")]
    #: the pagemap that the first is in, its address and the name of its device
    pgmap: Address | None
    name: Text | None
    #: page frame of the head of the compound page that the first is in
    head_pfn: Count | None


class Backing(Facts, frozen=True):
    """The part of the memory map that lies in the page itself."""

    #: pages of the vmemmap that map it, in runs, of which some are listed
    pages: Count
    runs: tuple[Backed, ...]
    runs_left_out: Count
    #: of all runs: compound pages of pagemaps, and pages in no pagemap
    compounds: Count
    elsewhere: Count


class PageSummary(Summed, frozen=True, kw_only=True):
    """Findings of each severity, and what could not be read, in words."""

    errors: Count = 0
    warnings: Count = 0
    notes: Count = 0
    not_read: tuple[Text, ...] = ()
    left_out: LeftOut = LeftOut()


class PageTimings(Timings, frozen=True, kw_only=True):
    """Seconds per phase."""

    attach: Seconds = 0.0
    types: Seconds = 0.0
    read: Seconds = 0.0


class PageReport(TargetReport, frozen=True, kw_only=True, tag="vmemscope.page/1"):
    """All about one page."""

    meaning: Meaning
    pfn: Count
    physical: Address
    #: by ``page->flags``, else by what zones span
    node: Count | None
    zone: Name | None
    #: from the outermost in, as in /proc/iomem
    resources: tuple[ResourceReport, ...]
    section: Section
    place: Place | None = field(name="pgmap")
    page: StructPage
    #: the way from the top table to the page of the vmemmap
    walk: tuple[StepReport, ...]
    frame: Frame | None
    sharing: Sharing | None
    #: what of the memory map lies in the page; ``None`` if nothing that was found
    backs: Backing | None
    #: conclusions, a line each
    state: tuple[Text, ...]
    findings: tuple[Finding, ...]
    summary: PageSummary
    timings: PageTimings = PageTimings()
