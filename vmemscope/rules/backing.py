# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules about frames: whose they are, that they are memory, how often they are referenced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from . import CATALOGUE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..kernel.dev_pagemap import Altmap
    from ..vmemmap.frames import Frames, Runs
    from ..vmemmap.layout import Geometry
    from .findings import Collector

__all__ = ("check_altmap", "check_memory", "check_refcounts", "check_shared", "tell_shared")


def check_memory(
    frames: Frames, in_ram: NDArray[np.bool_], geometry: Geometry, findings: Collector
) -> None:
    """Check that frames, at least one, are System RAM."""
    rule = CATALOGUE["frame-not-memory"]
    findings.checked(rule)
    index = np.flatnonzero(~in_ram)
    told = index[: findings.room(rule)]
    for i in told.tolist():
        entries = int(frames.entries[i])
        findings.add(
            rule,
            f"the frame that {_entries(entries)} {'maps' if entries == 1 else 'map'}"
            " is not System RAM",
            vaddr=geometry.address(int(frames.vpage[i])),
            pfn=int(frames.pfn[i]),
            expected="a frame of System RAM",
            observed=f"pfn {int(frames.pfn[i]):#x}",
        )
    findings.add_uncounted(rule, len(index) - len(told))


def _entries(count: int) -> str:
    return "1 entry" if count == 1 else f"{count} entries"


def check_altmap(runs: Runs, altmap: Altmap, geometry: Geometry, findings: Collector) -> None:
    """Check that mapped runs of a piece that an altmap backs lie in its free part."""
    rule = CATALOGUE["altmap-frame"]
    findings.checked(rule)
    low = altmap.base_pfn + altmap.reserve
    high = low + altmap.free
    first = runs.pfn
    last = runs.pfn + np.where(runs.order == 0, 0, runs.length - 1).astype(np.uint64)
    # Damaged, they are any number; no page frame is as large as half of what fits a word.
    bounds = np.minimum(np.array([low, high], dtype=object), 1 << 63).astype(np.uint64)
    index = np.flatnonzero((first < bounds[0]) | (last >= bounds[1]))
    told = index[: findings.room(rule)]
    for i in told.tolist():
        findings.add(
            rule,
            f"frames {int(first[i]):#x} to {int(last[i]):#x} are not among those that the altmap"
            " can hand out",
            vaddr=geometry.address(int(runs.vpage[i])),
            pfn=int(first[i]),
            expected=f"pfn {low:#x} to {high - 1:#x}",
            observed=f"pfn {int(first[i]):#x}",
        )
    findings.add_uncounted(rule, len(index) - len(told))


def check_shared(
    owners_of: Mapping[int, list[tuple[int, str]]],
    entries_of: Mapping[int, int],
    geometry: Geometry,
    collector_at: Callable[[int], Collector],
) -> None:
    """
    Report frames that have several owners.

    :param owners_of: page frame number -> vpages that should own it, each with
        what it is in words
    :param entries_of: page frame number -> entries that map it
    :param collector_at: gives the findings of the pagemap that a vpage describes
    """
    rule = CATALOGUE["frame-shared"]
    for pfn, owners in sorted(owners_of.items()):
        # A head page is told rather than the tail pages whose frame it maps.
        (first_vpage, first), *others = sorted(
            owners, key=lambda owner: (owner[1].startswith("the head"), owner[0])
        )
        for vpage, what in others:
            verb = "map" if what.startswith("the tail pages") else "maps"
            collector_at(vpage).add(
                rule,
                f"{what} {verb} the frame of {first} (vmemmap {geometry.address(first_vpage):#x}),"
                f" which {_entries(entries_of[pfn])} map in all",
                vaddr=geometry.address(vpage),
                pfn=pfn,
                expected="a frame of its own",
                observed=f"pfn {pfn:#x}",
            )


def tell_shared(frames: Frames, geometry: Geometry, findings: Collector) -> None:
    """Report frames of a pagemap that have several owners, whoever they are."""
    rule = CATALOGUE["frame-shared"]
    room = findings.room(rule)
    for vpage, pfn in zip(frames.vpage[:room].tolist(), frames.pfn[:room].tolist(), strict=True):
        findings.add(
            rule,
            "the frame has several owners",
            vaddr=geometry.address(vpage),
            pfn=pfn,
            expected="a frame of its own",
            observed=f"pfn {pfn:#x}",
        )
    findings.add_uncounted(rule, max(len(frames.pfn) - room, 0))


def check_refcounts(
    frames: Frames,
    refcounts: NDArray[np.int32],
    geometry: Geometry,
    findings: Collector,
    unseen: int = 0,
) -> None:
    """
    Check reference counts against the entries that map each frame.

    :param frames: order-0 frames, and the first frames of large leaves: an
        allocation of higher order carries its count on the first
    :param refcounts: ``_refcount`` of each frame, shape ``(n,)``
    :param unseen: entries that could not be read: any of them may map any frame
    """
    for rule_id, off in (
        ("refcount-low", refcounts < frames.entries),
        ("refcount-high", refcounts > frames.entries + unseen),
    ):
        rule = CATALOGUE[rule_id]
        index = np.flatnonzero(off)
        told = index[: findings.room(rule)]
        for i in told.tolist():
            entries, refcount = int(frames.entries[i]), int(refcounts[i])
            findings.add(
                rule,
                f"{_entries(entries)} {'maps' if entries == 1 else 'map'} the frame,"
                f" its reference count is {refcount}",
                vaddr=geometry.address(int(frames.vpage[i])),
                pfn=int(frames.pfn[i]),
                expected=entries,
                observed=refcount,
            )
        findings.add_uncounted(rule, len(index) - len(told))
