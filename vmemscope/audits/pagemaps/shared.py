# SPDX-License-Identifier: LGPL-2.1-or-later
"""Frames of tail pages that devices share: their slots, and how their references count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from ...report.documents.pgmap import SharedTails
from ...rules.frames import refcount_high, refcount_low
from ...rules.shared_tails import (
    OrderFacts,
    SlotFacts,
    section_order,
    shared_references,
    shared_tail,
)
from ...vmemmap.schemes import DEVICE_ZONE, References

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...machine import Kernel
    from ...vmemmap.frames import Frames
    from ...vmemmap.shared_tails import SharedTail
    from ...vmemmap.vmemmap import Vmemmap
    from .audited import AuditedPagemap

__all__ = ("SharedFrames", "take_shared")

#: why nothing is checked of a frame that devices share
_NOT_SHARED = "its tail pages share no frame with others'"

#: why references to shared frames are not compared
_UNCOUNTED = "each frame that devices share has one reference, whatever maps it"


def take_shared(pagemaps: Sequence[AuditedPagemap], kernel: Kernel) -> None:
    """Give each pagemap the frame that it shares with others, and check the slot it is in."""
    for audited in pagemaps:
        audited.shared = kernel.shared_tails.get(audited.pagemap.address)
        _check_orders(audited, kernel)
        if audited.shared is None:
            audited.findings.skipped(_NOT_SHARED, shared_tail)
        elif not audited.shared.is_first(audited.pagemap.address):
            audited.findings.skipped(_checked_with(audited.shared), shared_tail)
        else:
            facts = SlotFacts(audited.shared, kernel.geometry)
            audited.findings.check(shared_tail, facts)


def _checked_with(shared: SharedTail) -> str:
    return f"checked with {next(iter(shared.pagemaps.values()))}"


def _check_orders(audited: AuditedPagemap, kernel: Kernel) -> None:
    """Check the orders of the sections that a pagemap has as a whole."""
    layout = audited.layout
    if not audited.shift_sound or kernel.sections.orders is None:
        audited.findings.skipped("its order is not known", section_order)
        return
    order = layout.order if layout.dedup.expected else 0
    facts = OrderFacts(order, layout.pfns, kernel.sections, kernel.geometry)
    audited.findings.check(section_order, facts)
    if kernel.sections.damage:
        audited.findings.skipped("sections that could not be read", section_order)


class SharedFrames:
    """
    The frames that devices share, and how many references each must have.

    Whether the kernel counts entries, no type says. It does if any frame has more than one
    reference, and if entries are writable: in the posted series they are, and teardown drops a
    reference for each (``arch/x86/mm/init_64.c: free_pagetable()``). One that makes them
    read-only may count as HugeTLB does.
    """

    def __init__(self, pagemaps: Sequence[AuditedPagemap], vmemmap: Vmemmap) -> None:
        shared = {
            audited.shared.pfn: audited.shared
            for audited in pagemaps
            if audited.shared is not None and audited.shared.pfn is not None
        }
        #: in order (uint64), shape ``(n,)``
        self.pfns: NDArray[np.uint64] = np.array(sorted(shared), dtype=np.uint64)
        self.by_pfn: dict[int, SharedTail] = shared
        self._open = np.array(
            sorted(pfn for pfn, one in shared.items() if not one.complete), dtype=np.uint64
        )
        #: how references count
        self._scheme = DEVICE_ZONE
        #: reference count of each frame that could be read
        self.counts: dict[int, int] = {}
        if len(self.pfns):
            counts, readable = vmemmap.refcounts(self.pfns)
            self.counts = dict(
                zip(self.pfns[readable].tolist(), counts[readable].tolist(), strict=True)
            )
            told = vmemmap.geometry.arch.read_only and not all(
                shared[pfn].protected for pfn in self.counts
            )
            if set(self.counts.values()) == {1} and not told:
                self._scheme = replace(DEVICE_ZONE, references=References.ALLOCATION)

    @property
    def counted(self) -> bool:
        """Whether each entry must have a reference, as far as that is known."""
        return self._scheme.references is not References.ALLOCATION

    def take_outcome(self, audited: AuditedPagemap) -> None:
        """Record what of a pagemap's references to its shared frame is checked."""
        shared, findings = audited.shared, audited.findings
        if shared is None:
            findings.skipped(_NOT_SHARED, shared_references)
            return
        if not self.counted:
            findings.skipped(_UNCOUNTED, refcount_low, refcount_high)
        if not shared.is_first(audited.pagemap.address):
            findings.skipped(_checked_with(shared), shared_references)
        elif shared.pfn in self.counts:
            findings.checked(shared_references)
        else:
            reason = "the reference count of the shared frame could not be read"
            findings.skipped(reason, shared_references)

    def reports(self, pagemaps: Sequence[AuditedPagemap]) -> tuple[SharedTails, ...]:
        """Return what is reported of them, in the order of the pagemaps that map them."""
        found: dict[int, list[AuditedPagemap]] = {}
        for audited in pagemaps:
            if audited.shared is not None and (audited.zone_entries or audited.shared.pfn is None):
                found.setdefault(id(audited.shared), []).append(audited)
        reports = []
        for several in found.values():
            shared = several[0].shared
            assert shared is not None
            reports.append(
                SharedTails(
                    node=shared.nid,
                    order=shared.order,
                    pfn=shared.pfn,
                    entries=sum(one.zone_entries for one in several),
                    refcount=None if shared.pfn is None else self.counts.get(shared.pfn),
                    pagemaps=tuple(one.name or f"{one.pagemap.address:#x}" for one in several),
                )
            )
        return tuple(reports)

    def references(self, frames: Frames) -> NDArray[np.int64]:
        """Return how many references frames must have (int64), shape ``(n,)``."""
        if not len(self.pfns):
            return frames.entries
        zone = np.isin(frames.pfn, self.pfns)
        return np.where(zone, self._scheme.references_of(frames.entries), frames.entries)

    def open(self, frames: Frames) -> NDArray[np.bool_]:
        """Return which frames somebody may map who could not be read (bool), shape ``(n,)``."""
        if not len(self._open):
            return np.zeros(len(frames.pfn), dtype=np.bool_)
        found: NDArray[np.bool_] = np.isin(frames.pfn, self._open)
        return found
