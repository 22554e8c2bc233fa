# SPDX-License-Identifier: LGPL-2.1-or-later
"""How a report of pagemaps is confirmed: each pagemap by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from ...confirm import Key, Part, notes_of
from ...report.documents.pgmap import FrameCounts, PagemapReport, Report
from ...rules.findings import Outcome, RuleOutcome
from ...vmemmap.tables import Kind

if TYPE_CHECKING:
    from ...machine import Kernel
    from ...rules.findings import Finding

__all__ = ("Pagemaps",)


class Pagemaps:
    """The :class:`~vmemscope.confirm.Division` of a report into its pagemaps."""

    def parts(self, report: Report) -> dict[Key, Part]:
        parts: dict[Key, Part] = {None: Part(report.findings, report.outcomes)}
        for one in report.pagemaps:
            parts[one.address] = Part(one.findings, one.outcomes)
        return parts

    def key(self, finding: Finding) -> tuple[object, ...]:
        return finding.rule, finding.vaddr, finding.pfn

    def changed(self, report: Report, before: Kernel, after: Kernel) -> set[Key]:
        now = {pagemap.address: pagemap for pagemap in after.pagemaps}
        changed: set[Key] = {
            one.address
            for one in report.pagemaps
            if one.detail.pagemap.changing
            or now.get(one.address) != one.detail.pagemap
            or (one.findings and _moved(one, after))
        }
        if changed or len(now) != len(report.pagemaps):
            # What devices share counts the entries of all of them.
            changed |= {
                one.address for one in report.pagemaps if one.findings and one.detail.per_zone
            }
        return changed

    def half_done(self, report: Report, kernel: Kernel) -> set[Key]:
        return {one.address for one in report.pagemaps if one.findings and _half_done(one)}

    def put_together(
        self, report: Report, parts: Mapping[Key, Part], unsettled: Iterable[Key], reason: str
    ) -> Report:
        unsettled = set(unsettled)
        left = parts.get(None) or Part(report.findings, report.outcomes)
        not_read = report.summary.not_read
        if None in unsettled:
            left, not_read = notes_of(left, reason), (*not_read, reason)
        pagemaps = []
        for one in report.pagemaps:
            if one.address in unsettled:
                one = _unsettled(one, reason)
            elif part := parts.get(one.address):
                one = replace(one, findings=part.findings, outcomes=part.outcomes)
            pagemaps.append(one)
        names = [one.label for one in pagemaps if one.address in unsettled]
        if names:
            not_read = (
                *not_read,
                f"pagemaps being set up or torn down: {len(names)} ({', '.join(names)})",
            )
        return report.changed(
            pagemaps=tuple(pagemaps),
            findings=left.findings,
            outcomes=left.outcomes,
            not_read=not_read,
        )


def _moved(one: PagemapReport, after: Kernel) -> bool:
    """
    Return whether the first pages of a pagemap's vmemmap have other frames than were seen.

    A device that went and came back has its structures at the same addresses,
    more often than not, but not the same frames from the page allocator.
    """
    geometry = after.geometry
    vpages = np.array(
        [geometry.vpage_at(span.address) for span in one.detail.first], dtype=np.int64
    )
    pfns, kinds = after.vmemmap.frames_of(vpages)
    now = np.where(kinds == Kind.MAPPED, pfns.astype(np.int64), -1).tolist()
    seen = [-1 if span.pfn is None else span.pfn for span in one.detail.first]
    return bool(now != seen)


def _half_done(one: PagemapReport) -> bool:
    """
    Return whether a pagemap is partly there.

    ``mm/memremap.c: memunmap_pages()`` kills the ``percpu_ref`` and then waits for
    all references to go, with everything as it was, for as long as it takes.
    ``pageunmap_range()`` comes after that.
    """
    begun = one.vmemmap.unmapped > 0 or any(
        finding.rule in ("xarray", "subsection-map") for finding in one.findings
    )
    pagemap = one.detail.pagemap
    return pagemap.changing and (pagemap.nr_range == 0 or begun)


def _unsettled(one: PagemapReport, reason: str) -> PagemapReport:
    """Leave out of a pagemap's report what may be half of one state and half of another."""
    return replace(
        one,
        vmemmap=replace(
            one.vmemmap, mapped=0, unmapped=0, unreadable=one.vmemmap.pages, leaf_sizes={}
        ),
        frames=FrameCounts(0, None, {}, 0, 0),
        saved_bytes=0,
        state="unreadable",
        reason=reason,
        findings=(),
        outcomes=tuple(
            RuleOutcome(outcome.rule, Outcome.SKIPPED, reason) for outcome in one.outcomes
        ),
        detail=replace(
            one.detail,
            savable_bytes=0,
            not_read=(reason,),
            first=(),
            cells=one.detail.cells and one.detail.cells.unread(),
            frames_elsewhere=0,
            saved_elsewhere=0,
            frames_again=0,
        ),
    )
