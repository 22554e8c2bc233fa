# SPDX-License-Identifier: LGPL-2.1-or-later
"""The frames of all pagemaps together: what they are, who shares them, how they are counted."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

import numpy as np

from ..columns import select
from ..frames import join_frames
from ..layout import Populated
from ..rules import CATALOGUE
from ..rules.backing import check_memory, check_refcounts, check_shared
from ..walk import Kind
from .mapping import judged_compounds, runs_of_piece

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ..findings import Collector
    from ..frames import Frames
    from ..vmemmap import Vmemmap
    from .subject import Subject

__all__ = ("BackingChecked", "check_backing")

_MEMORY, _SHARED = CATALOGUE["frame-not-memory"], CATALOGUE["frame-shared"]
_REFCOUNTS = (CATALOGUE["refcount-low"], CATALOGUE["refcount-high"])

#: frames whose reference counts are read at a time
_REFCOUNT_BATCH = 1 << 16
#: frames with several owners that are looked up one by one
_MAX_SHARED = 64


class BackingChecked:
    """What was checked."""

    def __init__(self) -> None:
        self.refcounts_checked = 0
        self.refcounts_unreadable = 0
        #: frames of each subject, in its order
        self.frames: list[Frames] = []


def check_backing(subjects: Sequence[Subject], vmemmap: Vmemmap) -> BackingChecked:
    """Check the frames of all pagemaps."""
    checked = BackingChecked()
    parts: list[Frames] = []
    #: pagemaps with frames whose reference counts should say something, by address
    uncounted: dict[int, Subject] = {}
    for subject in subjects:
        ram, device, boot = subject.ram.finish(), subject.device.finish(), subject.boot.finish()
        in_ram = vmemmap.ram.contains(ram.pfn)
        if len(ram.pfn):
            check_memory(ram, in_ram, vmemmap.geometry, subject.findings)
        if in_ram.any():
            subject.findings.checked(_SHARED)
            uncounted[subject.pagemap.address] = subject
        _skip_others(subject.findings, ram, in_ram, device, boot)
        checked.frames.append(join_frames([ram, device, boot]))
        parts += [ram, device]
    frames = join_frames(parts)
    if not (in_ram := vmemmap.ram.contains(frames.pfn)).all():
        frames = select(frames, in_ram)
    owners = _Owners(subjects)

    shared = select(frames, frames.owners > 1)
    if len(shared.pfn):
        told = shared.pfn[:_MAX_SHARED]
        several = _find_owners(subjects, vmemmap, told)
        entries = dict(zip(told.tolist(), shared.entries.tolist(), strict=False))
        check_shared(several, entries, vmemmap.geometry, lambda vpage: owners.of(vpage).findings)
        for vpage in (vpage for found in several.values() for vpage, _ in found):
            owners.of(vpage).foreign.add(vpage)
        for vpage, pfn in zip(
            shared.vpage[_MAX_SHARED:].tolist(), shared.pfn[_MAX_SHARED:].tolist(), strict=True
        ):
            findings = owners.of(vpage).findings
            if not findings.room(_SHARED):
                findings.add_uncounted(_SHARED, 1)
                continue
            findings.add(
                _SHARED,
                "the frame has several owners",
                vaddr=vmemmap.geometry.address(vpage),
                pfn=pfn,
                expected="a frame of its own",
                observed=f"pfn {pfn:#x}",
            )

    # An allocation of higher order carries its count on its first frame alone.
    counted = select(frames, ~frames.inner)
    unseen = sum(subject.by_kind[Kind.UNREADABLE] for subject in subjects)
    for start in range(0, len(counted.pfn), _REFCOUNT_BATCH):
        part = select(counted, slice(start, start + _REFCOUNT_BATCH))
        refcounts, readable = vmemmap.refcounts(part.pfn)
        check_refcounts(
            part,
            refcounts,
            readable,
            vmemmap.geometry,
            lambda vpage: owners.of(vpage).findings,
            unseen,
        )
        checked.refcounts_checked += int(np.count_nonzero(readable))
        checked.refcounts_unreadable += int(np.count_nonzero(~readable))
        for subject, count in owners.counts(part.vpage[~readable]):
            subject.not_read["reference counts of frames"] += count
            if count:
                subject.findings.skipped("reference counts that could not be read", *_REFCOUNTS)
        for subject, count in owners.counts(part.vpage[readable]):
            if count:
                subject.findings.checked(*_REFCOUNTS)
                uncounted.pop(subject.pagemap.address, None)
    if unseen:
        for subject in subjects:
            subject.findings.skipped(
                f"page tables that could not be read may have {unseen} more entries for a frame",
                CATALOGUE["refcount-high"],
            )
    for subject in uncounted.values():
        # What several pagemaps map is counted with the first; so is a large leaf with its start.
        subject.findings.skipped("no frame of which it has the reference count", *_REFCOUNTS)
    return checked


def _skip_others(
    findings: Collector, ram: Frames, in_ram: NDArray[np.bool_], device: Frames, boot: Frames
) -> None:
    """Record of which frames nothing is asked, and why."""
    if len(device.pfn):
        findings.skipped(
            "altmap: frames on the device, which the page allocator does not count",
            _MEMORY,
            _SHARED,
            *_REFCOUNTS,
        )
    if len(boot.pfn):
        findings.skipped(
            "frames that the memory map of RAM owns, or of which nothing is known",
            _MEMORY,
            _SHARED,
            *_REFCOUNTS,
        )
    if not in_ram.all():
        findings.skipped("frames that are no memory", _SHARED, *_REFCOUNTS)
    if not len(ram.pfn) + len(device.pfn) + len(boot.pfn):
        findings.skipped(
            "nothing of its vmemmap is known to be mapped", _MEMORY, _SHARED, *_REFCOUNTS
        )


class _Owners:
    """Find the pagemap that a vpage describes."""

    def __init__(self, subjects: Sequence[Subject]) -> None:
        pieces = [(piece.start, subject) for subject in subjects for piece in subject.pieces]
        self._pieces = sorted(pieces, key=lambda piece: piece[0])
        self._starts = [start for start, _ in self._pieces]

    def counts(self, vpages: NDArray[np.int64]) -> Iterator[tuple[Subject, int]]:
        """Count vpages by the pagemap that they describe; one may come several times."""
        index = np.searchsorted(np.array(self._starts), vpages, side="right") - 1
        for (_, subject), count in zip(
            self._pieces, np.bincount(index, minlength=len(self._pieces)).tolist(), strict=True
        ):
            yield subject, count

    def of(self, vpage: int) -> Subject:
        """Get the pagemap with the last piece that starts no later; one has been walked there."""
        return self._pieces[max(bisect_right(self._starts, vpage) - 1, 0)][1]


def _find_owners(
    subjects: Sequence[Subject], vmemmap: Vmemmap, pfns: NDArray[np.uint64]
) -> dict[int, list[tuple[int, str]]]:
    """
    Walk once more to find who should own some frames.

    :return: pfn -> vpages that map it where they should be its only owner,
        each with what it is in words
    """
    found: dict[int, list[tuple[int, str]]] = {}
    for subject in subjects:
        for piece in subject.pieces:
            batches = runs_of_piece(piece, vmemmap)
            if piece.populated in (Populated.EARLY, Populated.UNKNOWN):
                continue
            if piece.populated is not Populated.COMPOUND:
                for runs in batches:
                    here = select(runs, (runs.kind == Kind.MAPPED) & np.isin(runs.pfn, pfns))
                    for vpage, length, pfn in zip(
                        here.vpage.tolist(), here.length.tolist(), here.pfn.tolist(), strict=True
                    ):
                        found.setdefault(pfn, []).extend(
                            (vpage + i, f"a page of {subject.label}")
                            for i in range(min(length, _MAX_SHARED))
                        )
                continue
            for judged in judged_compounds(batches, piece, subject, vmemmap):
                own = np.isin(judged.runs.pfn, pfns) & (judged.owner > 0)
                for i in np.flatnonzero(own).tolist():
                    role = "the head" if judged.head[i] else "the tail pages"
                    found.setdefault(int(judged.runs.pfn[i]), []).append(
                        (
                            int(judged.runs.vpage[i]),
                            f"{role} of compound page {judged.compound[i]} of {subject.label}",
                        )
                    )
    return found
