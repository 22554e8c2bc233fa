# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Where the memory map's memory goes: plain frozen dataclasses, for reports and for scripts.

Sizes and addresses are in bytes, ``pages`` are base pages of the vmemmap, frames
base pages of physical memory; ``None`` stands for what is not known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...rules.findings import Finding, RuleOutcome
    from .pgmap import TargetInfo

__all__ = ("Area", "Counter", "Leak", "MemmapReport", "Totals")


@dataclass(frozen=True)
class Area:
    """The part of the vmemmap that describes one zone of a node, or one pagemap."""

    #: zone (System RAM), pagemap, unknown (of no zone that can be told) or nothing
    #: (mapped though it describes nothing)
    kind: str
    #: what a pagemap's device is called
    name: str | None
    #: virtual address of the ``struct dev_pagemap``
    pgmap: int | None
    nid: int | None
    #: DMA, DMA32, Normal, Movable, Device
    zone: str | None
    #: physical memory that it describes
    described_bytes: int
    pages: int
    mapped: int
    unmapped: int
    unreadable: int
    #: bytes of a leaf -> pages that such leaves map
    leaf_pages: Mapping[int, int]
    #: of the mapped pages, those that can't be written through (HugeTLB's optimization)
    read_only: int
    #: different frames behind it
    frames: int
    #: of these, those on a device (altmap), and those that are no memory at all
    frames_on_device: int
    frames_elsewhere: int
    #: memory saved by pages that share a frame
    saved_bytes: int
    #: what the kernel's counters should have for it; ``None`` where it can't be told
    counted: int | None
    #: why that is not ``frames``
    note: str | None

    @property
    def label(self) -> str:
        """What to call it."""
        if self.kind == "zone":
            return f"node {self.nid} {self.zone}"
        if self.kind == "pagemap":
            return self.name or f"the pagemap at {self.pgmap:#x}"
        return {"unknown": "no zone that can be told", "nothing": "nothing"}[self.kind]

    @property
    def deduplicated(self) -> bool:
        """Whether some of its pages share a frame."""
        return self.frames < self.mapped


@dataclass(frozen=True)
class Totals:
    """Sums over all areas; a frame that several of them map counts once."""

    pages: int
    mapped: int
    unmapped: int
    unreadable: int
    frames: int
    frames_on_device: int
    frames_elsewhere: int
    #: page-table memory is not in it
    frame_bytes: int
    saved_bytes: int


@dataclass(frozen=True)
class Counter:
    """One of the kernel's counters against what is there, in frames."""

    name: str
    #: ``None`` where the kernel has none, or it could not be read
    value: int | None
    #: what the kernel's arithmetic makes of what is there, ``None`` if not known
    expected: int | None
    #: in words, whether they agree and why not
    reason: str


@dataclass(frozen=True)
class Leak:
    """A part of the vmemmap that is mapped in vain."""

    #: virtual address
    start: int
    pages: int


@dataclass(frozen=True)
class MemmapReport:
    """What ``vmemscope memmap`` found."""

    target: TargetInfo
    #: virtual address of the vmemmap, and of the first byte after what was walked
    start: int
    end: int
    #: present sections
    sections: int
    areas: tuple[Area, ...]
    totals: Totals
    leaks: tuple[Leak, ...]
    counters: tuple[Counter, ...]
    #: how frames and counters go together, in words, a line each
    explanation: tuple[str, ...]
    findings: tuple[Finding, ...]
    #: what came of each rule about all of the memory map
    outcomes: tuple[RuleOutcome, ...]
    #: what could not be read, in words
    not_read: tuple[str, ...] = ()
    #: seconds per phase: attach, types, read, walk, sum
    timings: dict[str, float] = field(default_factory=dict)

    @property
    def partial(self) -> bool:
        """Whether something could not be read."""
        return bool(self.not_read)
