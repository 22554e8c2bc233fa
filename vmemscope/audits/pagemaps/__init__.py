# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The audit of pagemaps.

One pass over the page tables of each pagemap (:mod:`.mapping`), then the frames
of all of them together (:mod:`.backing`), then the ``struct page``s themselves
(:mod:`.contents`), then a verdict on each (:mod:`.verdict`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from msgspec import UNSET

from ...confirm import confirmed
from ...progress import Progress, counter
from ...report.documents.common import TargetInfo
from ...report.documents.finding import BugReport
from ...report.documents.pgmap import Report, Summary
from ...rules import rules_of
from ...rules.findings import Collector
from ...rules.rule import Scope
from ...timing import phase
from ...vmemmap.shared_pages import by_pagemap
from ...vmemmap.tables import Kind
from .backing import BackingChecked, check_backing
from .contents import Contents, ContentsChecked, check_contents, frames_to_read
from .mapping import map_pagemap
from .parts import Pagemaps
from .places import settle_cells
from .shared import take_shared
from .structures import NO_ZONE_DEVICE, check_entries_of_processes, read_pagemaps
from .symptoms import symptoms_of
from .verdict import report_on

if TYPE_CHECKING:
    from ...machine import Kernel

__all__ = ("Contents", "audit", "once")


def audit(
    kernel: Kernel,
    *,
    contents: Contents | str = Contents.SAMPLE,
    progress: Progress | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Report:
    """
    Audit all pagemaps of a kernel; on a live one, report a violation only if it lasts.

    :param contents: how many ``struct page``s are checked: ``all``, a ``sample`` of
        each range's, or ``none``
    :param progress: called with the pages of vmemmap walked and read so far, and how many
        there are
    :param sleep: waits that many seconds between passes
    :raises VmemscopeError: if types are missing, or the kernel can't be audited
    """
    check = partial(once, contents=Contents(contents), progress=progress)
    return confirmed(kernel, check, Pagemaps(), sleep)


def once(
    kernel: Kernel,
    *,
    contents: Contents = Contents.SAMPLE,
    progress: Progress | None = None,
) -> Report:
    """Audit all pagemaps in one pass; parameters and errors are those of :func:`audit`."""
    kernel.require()
    timings = kernel.timings
    unread: Counter[str] = Counter()
    findings = Collector()
    with phase(timings, "pagemaps"):
        pagemaps, vmemmap = read_pagemaps(kernel, findings, unread), kernel.vmemmap
        states = kernel.page_states if pagemaps else None
        if pagemaps:
            unread += Counter(one.message for one in kernel.zone_damage if one.unreadable)
        take_shared(pagemaps, kernel)
        shared = by_pagemap(kernel.shared_pages)
        for audited in pagemaps:
            audited.shared_pages = shared.get(audited.pagemap.address, {})
            audited.ram_leaves = kernel.ram_leaves
        unread += Counter(one.message for one in kernel.device_slot_damage)
    with phase(timings, "audit"):
        check_entries_of_processes(
            kernel.prog,
            vmemmap,
            kernel.max_frames,
            any(audited.pagemap.changing for audited in pagemaps),
            findings,
        )
    with phase(timings, "walk"):
        total = sum(
            vmemmap.geometry.vpage(one.size // vmemmap.geometry.page_size)
            for audited in pagemaps
            for one in audited.ranges
        )
        total += sum(frames_to_read(audited, vmemmap, contents) for audited in pagemaps)
        step = counter(progress, total)
        for audited in pagemaps:
            map_pagemap(audited, vmemmap, step)
            audited.not_read["pages of vmemmap whose page tables are missing"] += audited.by_kind[
                Kind.UNREADABLE
            ]
    with phase(timings, "frames"):
        backing = check_backing(pagemaps, vmemmap, states) if states else BackingChecked(0)
        for audited, frames in zip(pagemaps, backing.frames, strict=True):
            settle_cells(audited, frames.sharing, vmemmap)
    with phase(timings, "contents"):
        flags = states.layout if states else None
        checked = []
        for audited, frames in zip(pagemaps, backing.frames, strict=True):
            checked.append(check_contents(audited, vmemmap, flags, contents, step))
            # An altmap holds the memory map of whole sections only.
            moved = frames.backing and frames.on_device == frames.backing
            where = ", which lie on the device" if moved else ""
            audited.not_read[f"compound pages{where}"] += checked[-1].compounds_unreadable
            audited.not_read[f"base pages{where}"] += checked[-1].base_pages_unreadable
    with phase(timings, "audit"):
        reports = tuple(
            report_on(audited, frames, vmemmap.geometry, elsewhere, again)
            for audited, frames, elsewhere, again in zip(
                pagemaps, backing.frames, backing.elsewhere, backing.again, strict=True
            )
        )
        for audited in pagemaps:
            for what, count in audited.not_read.items():
                unread[f"{what}, of {audited.label}"] += count
    report = Report(
        target=TargetInfo.about(kernel),
        pagemaps=reports,
        bugs=tuple(
            bug
            for audited, one, contents_checked in zip(pagemaps, reports, checked, strict=True)
            for bug in BugReport.found_by(
                symptoms_of(audited, one, contents_checked, vmemmap, contents),
                one.address,
                one.name,
            )
        ),
        device_tails=backing.shared or UNSET,
        no_pagemaps=None if kernel.zone_device else NO_ZONE_DEVICE,
        findings=findings.finish(),
        outcomes=findings.outcomes(rules_of(Scope.TARGET, kernel.arch.name)),
        summary=_summary(backing, contents, checked, unread),
    )
    return report.changed().timed(timings)


def _summary(
    backing: BackingChecked,
    contents: Contents,
    checked: list[ContentsChecked],
    unread: Counter[str],
) -> Summary:
    return Summary(
        refcounts_checked=backing.refcounts_checked,
        refcounts_unreadable=backing.refcounts_unreadable,
        contents=contents.value,
        **{name: sum(getattr(one, name) for one in checked) for name in ContentsChecked._fields},
        not_read=tuple(f"{what}: {count}" for what, count in sorted(unread.items()) if count),
    )
