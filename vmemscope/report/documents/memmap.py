# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The report of ``vmemscope memmap``, written as ``vmemscope.memmap/1`` (``docs/memmap.md``).

Sizes and addresses are in bytes, ``pages`` are base pages of the vmemmap, frames
base pages of physical memory; ``None`` stands for unknown values.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, UnsetType, field

from ...fields import Address, Bytes, Count, Counts, Facts, Name, Seconds, Text, one_of
from ...rules.findings import Finding, RuleOutcome
from .common import DeviceTails, LeftOut, SharedPages, Summed, TargetReport, Timings

__all__ = (
    "Area",
    "Counter",
    "Leak",
    "MemmapReport",
    "MemmapSummary",
    "MemmapTimings",
    "WalkedVmemmap",
)


class WalkedVmemmap(Facts, frozen=True, kw_only=True):
    """The vmemmap that was walked."""

    #: virtual address of the first byte, and of the first byte after it
    start: Address
    end: Address
    #: present sections
    sections: Count


class Area(Facts, frozen=True, kw_only=True):
    """The part of the vmemmap that describes one zone of a node, or one pagemap."""

    #: zone (System RAM), pagemap, offline (RAM that is not online, in no zone), unknown (in
    #: no known zone) or nothing (mapped though it describes nothing)
    kind: Literal["zone", "pagemap", "offline", "unknown", "nothing"]
    #: the name of a pagemap's device
    name: Text | None
    #: virtual address of the ``struct dev_pagemap``
    pgmap: Address | None
    node: Count | None
    #: DMA, DMA32, Normal, Movable, Device
    zone: Name | None
    #: physical memory that it describes
    described_bytes: Count
    pages: Count
    mapped: Count
    unmapped: Count
    unreadable: Count
    #: bytes of a leaf -> pages that leaves of that size map
    leaf_pages: Counts
    #: of the mapped pages, those that can't be written through (HugeTLB's optimization)
    read_only: Count
    #: different frames behind it
    frames: Count
    #: of these, those on a device (altmap), and those that are no memory at all
    frames_on_device: Count
    frames_elsewhere: Count
    #: of those in RAM, those in the memory block that they describe (memmap_on_memory)
    frames_self_hosted: Count
    #: memory saved by pages that share a frame
    saved_bytes: Count
    #: whether some of its pages share a frame
    deduplicated: bool
    #: what the kernel's counters should have for it; ``None`` where that is not known
    counted: Count | None
    #: why that is not ``frames``
    note: Text | None
    #: of a pagemap; unset if none of its pages describes other memory
    shared_pages: SharedPages | UnsetType = UNSET

    @property
    def label(self) -> str:
        """Return its name."""
        if self.kind == "zone":
            return f"node {self.node} {self.zone}"
        if self.kind == "pagemap":
            return self.name or f"the pagemap at {self.pgmap:#x}"
        labels = {"offline": "offline", "unknown": "no known zone", "nothing": "nothing"}
        return labels[self.kind]


class Leak(Facts, frozen=True):
    """A part of the vmemmap that is mapped but not needed."""

    #: virtual address
    start: Address
    pages: Bytes


class Counter(Facts, frozen=True):
    """One of the kernel's counters, compared with the memory map, in frames."""

    name: Annotated[str, one_of("nr_memmap_pages", "nr_memmap_boot_pages")]
    #: ``None`` where the kernel has none, or it could not be read
    value: int | None
    #: by the kernel's own arithmetic, ``None`` if not known
    expected: Count | None
    #: in words, whether they agree and why not
    reason: Text


class MemmapSummary(Summed, frozen=True, kw_only=True):
    """Sums over all areas; a frame that several of them map counts once."""

    pages: Count
    mapped: Count
    unmapped: Count
    unreadable: Count
    frames: Count
    #: of these, those behind the memory map of devices; unset if no two devices have the same
    device_frames: Count | UnsetType = UNSET
    frames_on_device: Count
    frames_elsewhere: Count
    #: page-table memory is not in it
    frame_bytes: Count
    saved_bytes: Count
    errors: Count = 0
    warnings: Count = 0
    notes: Count = 0
    #: what could not be read, in words
    not_read: tuple[Text, ...] = ()
    left_out: LeftOut = LeftOut()


class MemmapTimings(Timings, frozen=True, kw_only=True):
    """Seconds per phase."""

    attach: Seconds = 0.0
    types: Seconds = 0.0
    read: Seconds = 0.0
    walk: Seconds = 0.0
    sum: Seconds = 0.0


class MemmapReport(TargetReport, frozen=True, kw_only=True, tag="vmemscope.memmap/1"):
    """The use of memory by the whole memory map."""

    vmemmap: WalkedVmemmap
    areas: tuple[Area, ...]
    #: frames that are among those of several pagemaps; unset on kernels whose devices share none
    device_tails: tuple[DeviceTails, ...] | UnsetType = UNSET
    leaks: tuple[Leak, ...]
    counters: tuple[Counter, ...]
    #: how frames and counters go together, in words, a line each
    explanation: tuple[Text, ...]
    findings: tuple[Finding, ...]
    #: outcome of each rule about all of the memory map
    outcomes: tuple[RuleOutcome, ...] = field(name="rules")
    summary: MemmapSummary
    timings: MemmapTimings = MemmapTimings()
