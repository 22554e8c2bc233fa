# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Rules about the vmemmap's backing frames: their owners, reference counts and marks.

The page allocator hands out a frame for the vmemmap with a reference count of 1, no flag
and no ``page_type``. Each further entry that maps it takes a reference. The first frame
of a large leaf has the reference count and the marks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..text import count
from .rule import Severity, Skip, Value, Violation, Violations, rule
from .words import agree

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..kernel.dev_pagemap import Pagemap, VmemAltmap
    from ..kernel.page_state import PageStates
    from ..vmemmap.frames import Frames
    from ..vmemmap.layout import Geometry
    from ..vmemmap.runs import Runs

__all__ = (
    "AltmapFacts",
    "AltmapUse",
    "MarkFacts",
    "MemoryFacts",
    "OtherNodes",
    "RefcountFacts",
    "SharedFacts",
    "Sharer",
    "altmap_alloc",
    "altmap_frame",
    "frame_foreign",
    "frame_free",
    "frame_node",
    "frame_not_memory",
    "frame_poisoned",
    "frame_shared",
    "marked",
    "refcount_high",
    "refcount_low",
)


def _entries_map(number: int) -> str:
    return f"{count(number, 'entry', 'entries')} {agree(number, 'maps', 'map')}"


def _frames(
    frames: Frames,
    where: NDArray[np.bool_] | NDArray[np.int64],
    geometry: Geometry,
    sentence: str | Callable[[int], str],
    expected: Value | NDArray[np.int64],
    observed: Value | NDArray[np.int32] | None = None,
) -> Violations:
    """
    Return violations of frames.

    :param where: mask or numbers of rows, shape ``(n,)``
    :param observed: the frame itself by default
    """
    return Violations(
        where,
        sentence,
        vaddr=lambda row: geometry.address(int(frames.vpage[row])),
        pfn=frames.pfn,
        expected=expected,
        observed=(lambda row: f"pfn {int(frames.pfn[row]):#x}") if observed is None else observed,
    )


class Sharer(NamedTuple):
    """An owner of a frame that another owner has, too."""

    vpage: int
    #: in words
    name: str
    #: the first owner: vpage, and in words
    first_vpage: int
    first: str
    pfn: int
    #: entries that map the frame in all
    entries: int
    #: whether the owner is several tail pages
    tails: bool


class SharedFacts(NamedTuple):
    """Frames of one pagemap that have several owners."""

    sharers: Sequence[Sharer]
    #: frames whose owners were not searched for
    rest: Frames | None
    geometry: Geometry


@rule(
    "frame-shared",
    Severity.ERROR,
    holds="a frame backs one head page, or the tail pages of one compound page, or one plain page",
    source="mm/sparse-vmemmap.c: vmemmap_populate_compound_pages()",
    since="5.19",
    meaning="Two owners write their struct pages to the same frame: the later one overwrote"
    " the earlier. Heads lose PG_head, their pagemap and their reference count; a fault on one"
    " device changes the state of the other. When one is removed, the frame is freed under the"
    " other. Where the devices of a node share tail pages, all of that order may map one frame,"
    " and a head there shows in all of them, until the next boot.",
    look_at="Whether the owners are of one pagemap (a layout that the kernel gets wrong, rule"
    " section-alignment) or of several (a corrupted entry, or a frame that was freed and used"
    " again, rule refcount-low).",
)
def frame_shared(facts: SharedFacts) -> Iterator[Violation | Violations]:
    for one in facts.sharers:
        yield Violation(
            f"{one.name} {'map' if one.tails else 'maps'} the frame of {one.first} (vmemmap"
            f" {facts.geometry.address(one.first_vpage):#x}), which {_entries_map(one.entries)} in"
            " all",
            vaddr=facts.geometry.address(one.vpage),
            pfn=one.pfn,
            expected="a frame of its own",
            observed=f"pfn {one.pfn:#x}",
        )
    if facts.rest is not None:
        yield _frames(
            facts.rest,
            np.arange(len(facts.rest.pfn)),
            facts.geometry,
            "the frame has several owners",
            expected="a frame of its own",
        )


class MemoryFacts(NamedTuple):
    """Frames that should be System RAM."""

    frames: Frames
    #: whether each is (bool), shape ``(n,)``
    in_ram: NDArray[np.bool_]
    geometry: Geometry


@rule(
    "frame-not-memory",
    Severity.ERROR,
    holds="the vmemmap is backed by System RAM, or by the device that an altmap lies on",
    source="mm/sparse-vmemmap.c: vmemmap_alloc_block_buf()",
    meaning="An entry of the vmemmap maps a frame that the kernel could never have allocated:"
    " page frame 0, a hole in physical memory, or device memory. Struct pages written there"
    " are lost, or worse, reach a device's registers. Thousands of entries that map one frame of"
    " that kind are a known bug (rule section-alignment).",
    look_at="The frame number: 0 is a page table entry read from the wrong place; a number"
    " with a single wrong bit is a flip; one within a device is an altmap's where none should"
    " be.",
)
def frame_not_memory(facts: MemoryFacts) -> Violations:
    return _frames(
        facts.frames,
        ~facts.in_ram,
        facts.geometry,
        lambda row: (
            f"the frame that {_entries_map(int(facts.frames.entries[row]))} is not System RAM"
        ),
        expected="a frame of System RAM",
    )


class AltmapFacts(NamedTuple):
    """Mapped runs of a piece that an altmap backs."""

    runs: Runs
    altmap: VmemAltmap
    geometry: Geometry


@rule(
    "altmap-frame",
    Severity.ERROR,
    holds="an altmap hands out frames from behind its reserve, as many as it has",
    source="mm/sparse-vmemmap.c: altmap_alloc_block_buf()",
    meaning="The memory map of the device lies on it, but outside of what the altmap may hand"
    " out: it overwrites the namespace's metadata in front of it, or its data behind it. That"
    " is data loss.",
    look_at="The altmap's arithmetic (base_pfn + reserve + alloc + align) against the"
    " boundaries of the namespace; on powerpc, whether the kernel has the altmap boundary"
    " fixes (6.1.39, 6.1.45).",
)
def altmap_frame(facts: AltmapFacts) -> Violations:
    runs, altmap = facts.runs, facts.altmap
    low, high = altmap.bounds
    last = runs.pfn + np.where(runs.order == 0, 0, runs.length - 1).astype(np.uint64)
    # Damaged, they are any number; no page frame is as large as half of what fits a word.
    bounds = np.minimum(np.array([low, high], dtype=object), 1 << 63).astype(np.uint64)
    return Violations(
        (runs.pfn < bounds[0]) | (last >= bounds[1]),
        lambda row: (
            f"frames {int(runs.pfn[row]):#x} to {int(last[row]):#x} are not among those that the"
            " altmap can hand out"
        ),
        vaddr=lambda row: facts.geometry.address(int(runs.vpage[row])),
        pfn=runs.pfn,
        expected=f"pfn {low:#x} to {high - 1:#x}",
        observed=lambda row: f"pfn {int(runs.pfn[row]):#x}",
    )


class AltmapUse(NamedTuple):
    """How many frames an altmap has handed out, and how many of them are mapped."""

    pagemap: Pagemap
    #: frames on the device that the vmemmap maps
    mapped: int
    #: why ``mapped`` is not known, ``None`` if it is
    reason: str | None


@rule(
    "altmap-alloc",
    Severity.WARNING,
    holds="an altmap counts as many frames handed out as the vmemmap maps",
    source="mm/sparse-vmemmap.c: vmem_altmap_alloc(), vmem_altmap_free()",
    meaning="The altmap's count of frames handed out (alloc) is not the number of its frames"
    " that back the memory map. With more counted, frames were lost when a part of the memory map"
    " was taken down, and memunmap_pages() warns 'failed to free all reserved pages' when the"
    " device is removed. With fewer, the altmap hands out frames again that are still mapped.",
    look_at="Whether the difference is a multiple of the large leaf (512 frames on x86-64): then"
    " one section's vmemmap_free() or its error path is wrong. Any other number means that the"
    " struct vmem_altmap was overwritten.",
)
def altmap_alloc(facts: AltmapUse) -> Iterator[Violation | Skip]:
    altmap = facts.pagemap.altmap
    if altmap is None or facts.reason is not None:
        yield Skip(facts.reason or "no altmap")
    elif altmap.alloc != facts.mapped:
        yield Violation(
            f"the altmap has handed out {count(altmap.alloc, 'frame')},"
            f" the vmemmap maps {facts.mapped}",
            vaddr=facts.pagemap.address,
            expected=facts.mapped,
            observed=altmap.alloc,
        )


class RefcountFacts(NamedTuple):
    """Order-0 frames and the first frames of large leaves, with their reference counts."""

    frames: Frames
    #: ``_refcount`` (int32), shape ``(n,)``
    refcounts: NDArray[np.int32]
    #: how many there must be (int64), shape ``(n,)``
    references: NDArray[np.int64]
    #: whether anybody may map the frame who could not be read (bool), shape ``(n,)``
    open: NDArray[np.bool_]
    #: entries that could not be read: any of them may map any frame
    unseen: int
    geometry: Geometry

    def violations(self, where: NDArray[np.bool_]) -> Violations:
        """Return violations of frames whose reference count is wrong."""
        entries = self.frames.entries

        def sentence(row: int) -> str:
            own = int(self.references[row] - entries[row])
            return (
                f"{_entries_map(int(entries[row]))} the frame,"
                + (" which its zone holds, too," if own else "")
                + f" its reference count is {int(self.refcounts[row])}"
            )

        return _frames(
            self.frames,
            where,
            self.geometry,
            sentence,
            expected=self.references,
            observed=self.refcounts,
        )


@rule(
    "refcount-low",
    Severity.ERROR,
    holds="a frame's reference count is no less than the number of entries that map it,"
    " or it is freed while still mapped",
    source="mm/sparse-vmemmap.c: vmemmap_pte_populate(), get_page()",
    meaning="More entries map the frame than hold a reference to it. When the device is"
    " removed, each entry drops one, and the frame goes back to the page allocator while"
    " others still map it: struct pages and another user's data then share it. With a count"
    " of 0 it is free already. A frame of tail pages that the devices of a node share has one"
    " more, which is its zone's: all devices lose it at once.",
    look_at="What the frame is now: on a free list or in use by another owner means that the"
    " damage is done. How many entries are missing a reference, and whether they are of one"
    " section: a missing get_page() in population, or a double free in an error path.",
)
def refcount_low(facts: RefcountFacts) -> Violations:
    return facts.violations(facts.refcounts < facts.references)


@rule(
    "refcount-high",
    Severity.ERROR,
    holds="a frame's reference count is no more than the number of entries that map it,"
    " or it is never freed",
    source="mm/sparse-vmemmap.c: vmemmap_pte_populate(), get_page()",
    meaning="The frame is referenced more often than it is mapped. Removing the device will not"
    " free it: memory is lost until the next boot. Page walkers and memory failure handling"
    " take a reference for a moment, so on a running kernel one too many may be no fault. What"
    " the devices of a node share has one more, which is its zone's.",
    look_at="Whether it is still so in a moment; whether entries elsewhere in the vmemmap map"
    " the frame too; how much too high the count is: by the entries of a section or a compound"
    " page points to a teardown that did not finish.",
)
def refcount_high(facts: RefcountFacts) -> Iterator[Violations | Skip]:
    high = facts.refcounts > facts.references + facts.unseen
    if facts.open.any():
        yield Skip("not all sharers could be read: not checked", partly=True)
        high &= ~facts.open
    yield facts.violations(high)


#: ``_mapcount`` of a page that no process maps; of one that has a type it is negative, too
_NOT_MAPPED = 0xFFFF_FFFF
_NEGATIVE = np.uint32(1 << 31)
#: marks of frames that no other owner uses
_FREE = ("buddy", "guard")
_LOST = ("offline", "poisoned")


class MarkFacts(NamedTuple):
    """Frames and what their struct pages are marked for."""

    frames: Frames
    #: ``page->flags`` (uint64), shape ``(n,)``
    flags: NDArray[np.uint64]
    #: ``_mapcount``, unsigned (uint32), shape ``(n,)``
    mapcount: NDArray[np.uint32]
    states: PageStates
    geometry: Geometry

    def marks(self) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """Yield each mark that a struct page can have, and the frames that have it."""
        kind = self.mapcount & np.uint32(self.states.type_mask)
        negative = self.mapcount >= _NEGATIVE
        for value, name in self.states.types.items():
            yield name, negative & (kind == np.uint32(value))
        yield "mapped by a process", ~negative
        for name, mask in self.states.flags.items():
            yield name, (self.flags & np.uint64(mask)) != 0

    def violations(self, name: str, where: NDArray[np.bool_], sentence: str) -> Violations:
        """Return violations of the frames that have a mark."""
        return _frames(
            self.frames,
            where,
            self.geometry,
            sentence,
            expected="allocated, and marked for no use",
            observed=name,
        )


def marked(
    flags: NDArray[np.uint64],
    mapcount: NDArray[np.uint32],
    states: PageStates,
    node: int | None = None,
) -> NDArray[np.bool_]:
    """
    Find the frames that are marked for a use, or are of another node.

    :param flags: ``page->flags``, shape ``(n,)``
    :param mapcount: ``_mapcount``, unsigned, shape ``(n,)``
    :param node: the node that they should be of, ``None`` for any
    :return: mask (bool), shape ``(n,)``
    """
    asked, unused = (np.uint64(word) for word in states.unused(node))
    found: NDArray[np.bool_] = (flags & asked) != unused
    found |= mapcount != np.uint32(_NOT_MAPPED)
    return found


@rule(
    "frame-free",
    Severity.ERROR,
    holds="a frame that backs the vmemmap is not in the buddy allocator",
    source="mm/page_alloc.c: prep_new_page(), __free_one_page()",
    meaning="The frame is on a free list of the page allocator while the vmemmap maps it: the"
    " next allocation gets it, and then struct pages and another owner's data are the same"
    " memory. The second to write destroys what the first wrote.",
    look_at="Its reference count: 0 is a put_page() too many (rule refcount-low), and the frame"
    " went back when it dropped; otherwise the marks in its struct page were overwritten, or"
    " it was freed without regard to the count (free_pages() of a neighbour's block).",
)
def frame_free(facts: MarkFacts) -> Iterator[Violations]:
    for name, where in facts.marks():
        if name in _FREE:
            yield facts.violations(name, where, f"the frame is free ({name})")


@rule(
    "frame-foreign",
    Severity.ERROR,
    holds="a frame that backs the vmemmap is not marked as in use for anything else",
    source="mm/sparse-vmemmap.c: vmemmap_alloc_block()",
    meaning="The struct page of the frame says that it is part of a slab, a page table, a huge"
    " page or a page cache, or that a process maps it. It was freed under the vmemmap and"
    " given out again: both owners write to it.",
    look_at="Whose it is now (vmemscope page with its number), and what is in it: struct pages"
    " mean that the new owner has not written yet. Then how it came to be freed: rule"
    " refcount-low for the same frame, or for others of the same device.",
)
def frame_foreign(facts: MarkFacts) -> Iterator[Violations]:
    for name, where in facts.marks():
        if name not in (*_FREE, *_LOST):
            yield facts.violations(name, where, f"the frame is in use for something else: {name}")


@rule(
    "frame-poisoned",
    Severity.ERROR,
    holds="a frame that backs the vmemmap is neither poisoned nor offline",
    source="mm/memory-failure.c: memory_failure()",
    meaning="The memory behind these struct pages had an uncorrectable error (PG_hwpoison), or"
    " was taken from the kernel (PageOffline: a balloon, virtio-mem). Reading struct pages in"
    " it may raise a machine check, in the kernel, for which there is no recovery.",
    look_at="The kernel log for 'Memory failure' and the frame's number: memory_failure() can't"
    " handle a frame of the vmemmap, so the device has to be taken down. HardwareCorrupted in"
    " /proc/meminfo counts these frames.",
)
def frame_poisoned(facts: MarkFacts) -> Iterator[Violations]:
    for name, where in facts.marks():
        if name in _LOST:
            yield facts.violations(name, where, f"the frame is {name}")


class OtherNodes:
    """The sum of a pagemap's frames on other nodes than the device's."""

    def __init__(self, node: int, geometry: Geometry) -> None:
        self.node = node
        self.geometry = geometry
        self.count = 0
        self.nodes: set[int] = set()
        #: vpage and pfn of the first
        self.first: tuple[int, int] | None = None

    def add(self, frames: Frames, nodes: NDArray[np.uint64]) -> None:
        """
        Add frames, at least one.

        :param nodes: the node of each (uint64), shape ``(n,)``
        """
        self.count += frames.total
        self.nodes.update(np.flatnonzero(np.bincount(nodes.astype(np.int64))).tolist())
        first = int(frames.vpage.argmin())
        here = (int(frames.vpage[first]), int(frames.pfn[first]))
        self.first = here if self.first is None else min(self.first, here)


@rule(
    "frame-node",
    Severity.NOTE,
    holds="the vmemmap is on the device's own node, if that has memory",
    source="mm/sparse-vmemmap.c: vmemmap_alloc_block()",
    meaning="The memory map of the device is on another node, as the device's own had no memory"
    " left when it came up. Nothing is wrong, but each access to one of these struct pages"
    " crosses the interconnect: faults, pinning and migration are slower.",
    look_at="Free memory of the node (/sys/devices/system/node/nodeN/meminfo), and the kernel"
    " log for 'memory hotplug' and 'vmemmap alloc failure'. Taking the device down and up"
    " again when there is room moves it.",
)
def frame_node(facts: OtherNodes) -> Iterator[Violation]:
    if facts.first is not None:
        vpage, pfn = facts.first
        yield Violation(
            f"{facts.count} of its frames are on another node than the device",
            vaddr=facts.geometry.address(vpage),
            pfn=pfn,
            expected=f"node {facts.node}",
            observed="node " + ", ".join(str(one) for one in sorted(facts.nodes)[:4]),
        )
