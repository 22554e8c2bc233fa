# SPDX-License-Identifier: LGPL-2.1-or-later
"""The state of a page in sentences, each from what was read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...text import binary_size, count

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...report.documents.page import (
        Backing,
        Compound,
        Frame,
        PageReport,
        Place,
        Section,
        Sharing,
        StructPage,
    )
    from ...vmemmap.shared_tails import SharedTail

__all__ = ("describe",)


def describe(
    report: PageReport, in_ram: bool, page_size: int, shared: Mapping[int, SharedTail]
) -> Iterator[str]:
    """
    Yield sentences: owner of the page, its use, the frame behind its ``struct page``.

    :param report: all that was read of it
    :param in_ram: whether a resource says that it is System RAM
    :param page_size: bytes in a base page
    :param shared: the frames of tail pages that devices share, by pfn
    """
    pfn, section, place, page = report.pfn, report.section, report.place, report.page
    mapped = report.walk[-1].kind != "hole" if report.walk else True
    yield _whose(report, in_ram)
    if not section.present:
        yield "there is no struct page for it: its section is not present"
    elif section.valid is False:
        yield "its subsection is not valid: pfn_valid() returns " + (
            "true all the same, since its section was there at boot"
            if "early" in section.flags
            else "false"
        )
    if page.initialised:
        yield from _use(pfn, place, page)
    elif page.readable:
        yield _not_initialised(section, place)
    elif mapped:
        yield "its struct page could not be read, so nothing is said of its use"
    elif section.present:
        yield "its struct page is not mapped: an access to it crashes"
    if report.backs is not None:
        yield from _backs(report.backs, page.poisoned == "page")
    if pfn in shared:
        devices = ", ".join(shared[pfn].pagemaps.values())
        yield (
            f"it holds {shared[pfn].name}, now those of {devices}: it stays until the next boot,"
            " also without them"
        )
    if report.frame is not None and report.sharing is not None:
        zone_frame = shared.get(report.frame.pfn)
        yield from _behind(report.frame, report.sharing, place, page_size, zone_frame)


def _whose(report: PageReport, in_ram: bool) -> str:
    section, place, zone, nid = report.section, report.place, report.zone, report.node
    node = f"node {nid}" if nid is not None else "an unknown node"
    if place is not None:
        what = (
            f"device memory of {place.name or f'the pagemap at {place.address:#x}'} ({place.type})"
        )
        if place.altmap == "reserve":
            what += ", in what its altmap leaves alone (metadata)"
        elif place.altmap == "map":
            what += ", in what its altmap takes for the memory map"
        return f"{what}, {node}"
    if section.present and not section.online:
        if in_ram:
            return "System RAM that is not online: it is in no zone"
        if zone is not None:
            return f"memory of no pagemap that could be read, {node}, {_zone(zone)}"
        return "memory of no pagemap, in a section that is not online: it is in no zone"
    if in_ram:
        return f"System RAM, {node}, {_zone(zone)}"
    if section.present:
        return f"no memory: a hole in a section, {node}, {_zone(zone)}"
    return "no memory that the kernel has struct pages for"


def _zone(zone: str | None) -> str:
    return f"zone {zone}" if zone else "an unknown zone"


def _not_initialised(section: Section, place: Place | None) -> str:
    if place is not None and place.altmap == "reserve":
        return "the kernel never writes to struct pages there: what they say means nothing"
    if section.present and not section.online and place is None:
        return (
            "its struct page is not initialised, since its section is not online: what it says"
            " means nothing"
        )
    return "its struct page is not initialised: it says nothing of the page's use"


def _use(pfn: int, place: Place | None, page: StructPage) -> Iterator[str]:
    flags = page.flags.names if page.flags is not None else ()
    compound = page.compound
    if compound is not None and compound.role != "none":
        yield _compound(pfn, compound)
    if place is not None and place.head_pfn is not None:
        yield from _by_pagemap(pfn, place, compound)
    if page.poisoned is not None:
        yield _POISONED[page.poisoned]
    if page.type == "buddy":
        yield "free, in the buddy allocator"
    elif page.type is not None:
        yield f"used as {page.type}"
    elif "PG_reserved" in flags and place is None:
        yield "reserved: the page allocator has nothing to do with it"
    if page.refcount is not None and (compound is None or compound.role in ("none", "head")):
        if page.refcount == 0 and page.type is None and place is None:
            yield "reference count 0: free on a per-CPU list, part of a larger block, or frozen"
        elif page.refcount > 0:
            yield f"reference count {page.refcount}" + (
                f", mapped {page.mapcount + 1} times"
                if page.mapcount is not None and page.mapcount >= 0
                else ""
            )


#: by where PG_hwpoison or PG_has_hwpoisoned is set
_POISONED = {
    "page": "poisoned: its memory failed (PG_hwpoison)",
    "head": "its compound page is poisoned: memory of it failed (PG_hwpoison is set in the head)",
    "compound": "memory of its compound page failed (PG_has_hwpoisoned)",
}


#: by :attr:`.Backed.memory`
_MEMORY = {"RAM": "System RAM", "device": "device memory"}


def _backs(backs: Backing, poisoned: bool) -> Iterator[str]:
    """Yield what of the memory map lies in the page."""
    whose = []
    names = dict.fromkeys(
        one.name or f"the pagemap at {one.pgmap:#x}" for one in backs.runs if one.pgmap is not None
    )
    if names:
        whose.append(f"of {', '.join(names)}")
    memory = dict.fromkeys(one.memory for one in backs.runs if one.pgmap is None)
    whose += [f"of {_MEMORY.get(one, 'no memory that is known')}" for one in memory]
    heads = list(dict.fromkeys(one.head_pfn for one in backs.runs if one.head_pfn is not None))
    compounds = ""
    if heads:
        compounds = f" in the compound page with head pfn {heads[0]:#x}"
        if (more := max(backs.compounds, len(heads)) - 1) > 0:
            compounds += f" and {more} more"
    shown, others = backs.runs[0], len(backs.runs) + backs.runs_left_out - 1
    pfns = f"pfn {shown.first_pfn:#x} to {shown.last_pfn:#x}"
    if others:
        pfns += f" and of {count(others, 'other run')}"
    yield (
        f"it backs {count(backs.pages, 'page')} of the memory map {' and '.join(whose)}:"
        f" the struct pages of {pfns}{compounds}"
    )
    if poisoned:
        yield "these struct pages are lost: the kernel can't use the memory that they describe"
    else:
        yield "if this page fails, these struct pages are lost"


def _compound(pfn: int, compound: Compound) -> str:
    size = f" of order {compound.order}" if compound.order is not None else ""
    if compound.role == "head":
        return f"head of a compound page{size}"
    if compound.head_pfn is None:
        return "tail of a compound page, whose head is no struct page"
    number = f"tail {pfn - compound.head_pfn}" if pfn > compound.head_pfn else "tail"
    text = f"{number} of the compound page{size} with head pfn {compound.head_pfn:#x}"
    if compound.role == "fake-head":
        text += ", a fake head: its frame is the head's"
    return text


def _by_pagemap(pfn: int, place: Place, compound: Compound | None) -> Iterator[str]:
    """Yield the head that the pagemap expects, if the page has another."""
    role = "head" if pfn == place.head_pfn else f"tail {pfn - (place.head_pfn or 0)}"
    said = None if compound is None or compound.role == "none" else compound.head_pfn
    if said != place.head_pfn:
        yield (
            f"by the pagemap it is {role} of compound page {place.compound}, with head pfn"
            f" {place.head_pfn:#x}: its struct page does not say so"
        )
    elif compound is not None and compound.order not in (None, place.order):
        yield f"by the pagemap the compound page is of order {place.order}"


def _behind(
    frame: Frame,
    sharing: Sharing,
    place: Place | None,
    page_size: int,
    shared: SharedTail | None,
) -> Iterator[str]:
    others = sharing.pages - 1
    where = {"RAM": "RAM", "device": "the device"}.get(frame.memory, "no memory that is known")
    leaf = (
        f", part of a leaf of {binary_size(frame.leaf_size)}" if frame.leaf_size > page_size else ""
    )
    if others > 0:
        yield (
            f"its struct page lies in pfn {frame.pfn:#x} of {where}{leaf}, which"
            f" {sharing.pages} pages of the {sharing.what}'s memory map share"
        )
    else:
        yield (
            f"its struct page lies in pfn {frame.pfn:#x} of {where}{leaf}, which no other page of"
            f" the {sharing.what}'s memory map has"
        )
    if shared is not None:
        others_named = [] if place is None else shared.others(place.address)
        yield f"that frame holds {shared.name}" + (
            f", with those of {', '.join(others_named)}" if others_named else ""
        )
    if frame.memory == "no memory":
        yield "that is no memory: what is read there means nothing"
    page = frame.page
    if page.poisoned is not None:
        yield "that frame is poisoned, its memory failed: the struct page is lost"
    if page.type == "buddy":
        yield "that frame is free in the buddy allocator: it will be overwritten"
    elif page.refcount is not None and place is not None and frame.memory == "RAM":
        # For the memory map of RAM the count proves nothing: HugeTLB's optimization does
        # not count entries, and boot memory has counts of its own.
        counted = place.populated in ("compound", "base") and frame.leaf_size == page_size
        # Of what devices share, entries elsewhere count, too.
        if counted and shared is None and page.refcount != sharing.pages:
            yield (
                f"that frame has reference count {page.refcount}, not {sharing.pages}: others map"
                " it, or a count is wrong (vmemscope pgmap checks it)"
            )
