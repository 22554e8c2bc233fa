# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The audit: reads the pagemaps, walks their vmemmap, holds it against the rules.

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

from ...confirm import confirmed
from ...kernel.dev_pagemap import MAX_RANGES
from ...kernel.percpu_ref import read_references
from ...report.documents.common import TargetInfo
from ...report.documents.pgmap import Report, Summary
from ...rules import rules_of
from ...rules.alignment import section_alignment
from ...rules.findings import Collector
from ...rules.pagemap import (
    ReferenceFacts,
    nr_range,
    overlaps_of,
    pagemap_ref_high,
    pagemap_ref_low,
    range_invalid,
    range_overlap,
    vmemmap_shift,
)
from ...rules.rule import Scope
from ...rules.target import resource_tree, xarray
from ...timing import phase
from ...vmemmap.tables import Kind
from .backing import BackingChecked, check_backing
from .contents import Contents, ContentsChecked, check_contents, frames_to_read
from .entries import check_entries_of_processes
from .mapping import map_subject
from .needs import NEEDS
from .parts import Pagemaps
from .subject import Subject
from .validity import check_validity
from .verdict import report_on

if TYPE_CHECKING:
    from ...machine import Kernel

__all__ = ("Contents", "Progress", "audit", "once")

#: is called with the pages of vmemmap walked and read so far, and how many there are
Progress = Callable[[int, int], None]


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
    kernel.require(NEEDS)
    timings = kernel.timings
    unread: Counter[str] = Counter()
    findings = Collector()
    with phase(timings, "pagemaps"):
        subjects, vmemmap = _read_subjects(kernel, findings, unread), kernel.vmemmap
        states = kernel.page_states if subjects else None
    with phase(timings, "audit"):
        check_entries_of_processes(
            kernel.prog,
            vmemmap,
            kernel.max_frames,
            any(subject.pagemap.changing for subject in subjects),
            findings,
        )
    with phase(timings, "walk"):
        total = sum(
            vmemmap.geometry.vpage(one.size // vmemmap.geometry.page_size)
            for subject in subjects
            for one in subject.ranges
        )
        total += sum(frames_to_read(subject, vmemmap, contents) for subject in subjects)
        walked = 0

        def step(vpages: int) -> None:
            nonlocal walked
            walked += vpages
            if progress is not None:
                progress(walked, total)

        for subject in subjects:
            map_subject(subject, vmemmap, step)
            subject.not_read["pages of vmemmap whose page tables are missing"] += subject.by_kind[
                Kind.UNREADABLE
            ]
    with phase(timings, "frames"):
        backing = check_backing(subjects, vmemmap, states) if states else BackingChecked(0)
    with phase(timings, "contents"):
        flags = states.layout if states else None
        looked = []
        for subject in subjects:
            looked.append(check_contents(subject, vmemmap, flags, contents, step))
            where = ", which lie on the device" if subject.pagemap.altmap else ""
            subject.not_read[f"compound pages{where}"] += looked[-1].compounds_unreadable
            subject.not_read[f"base pages{where}"] += looked[-1].base_pages_unreadable
    with phase(timings, "audit"):
        reports = tuple(
            report_on(subject, frames, vmemmap.geometry)
            for subject, frames in zip(subjects, backing.frames, strict=True)
        )
        for subject in subjects:
            for what, count in subject.not_read.items():
                unread[f"{what}, of {subject.label}"] += count
    report = Report(
        target=TargetInfo.about(kernel),
        pagemaps=reports,
        findings=findings.finish(),
        outcomes=findings.outcomes(rules_of(Scope.TARGET)),
        summary=_summary(backing, contents, looked, unread),
    )
    return report.changed().timed(timings)


def _read_subjects(kernel: Kernel, findings: Collector, unread: Counter[str]) -> list[Subject]:
    """Check the kernel's structures, in order of the pagemaps' first page frames."""
    geometry, layouts = kernel.geometry, kernel.layouts
    findings.check(xarray, kernel.pagemap_damage)
    findings.check(resource_tree, kernel.resource_damage)
    unread += kernel.unread
    overlaps = overlaps_of((one, layout.pagemap) for layout in layouts for one in layout.valid)
    subjects = [Subject(layout) for layout in layouts]
    for subject in subjects:
        layout, pagemap, findings = subject.layout, subject.pagemap, subject.findings
        subject.not_read.update(b.message for b in pagemap.damage if b.unreadable)
        findings.check(nr_range, pagemap, MAX_RANGES)
        findings.check(range_invalid, pagemap, kernel.physmem_bits)
        findings.check(range_overlap, pagemap, layout.valid, overlaps.get(pagemap.address, ()))
        findings.check(xarray, layout.entries)
        findings.check(vmemmap_shift, pagemap, layout.ranges, geometry.page_size)
        if layout.dedup.expected:
            findings.check(section_alignment, pagemap, layout.ranges, kernel.sections, geometry)
        else:
            reason = subject.no_compounds or layout.dedup.reason or "it is not deduplicated"
            findings.skipped(reason, section_alignment)
        references = read_references(kernel.prog, pagemap.address)
        subject.not_read["reference counts of the pagemap itself"] += references.unreadable
        facts = ReferenceFacts(
            pagemap,
            layout.ranges,
            subject.order if subject.shift_sound else None,
            references,
            geometry.page_size,
        )
        findings.check(pagemap_ref_low, facts)
        findings.check(pagemap_ref_high, facts)
    check_validity(kernel.prog, subjects, kernel.sections, geometry, unread)
    return subjects


def _summary(
    backing: BackingChecked,
    contents: Contents,
    looked: list[ContentsChecked],
    unread: Counter[str],
) -> Summary:
    return Summary(
        refcounts_checked=backing.refcounts_checked,
        refcounts_unreadable=backing.refcounts_unreadable,
        contents=contents.value,
        **{name: sum(getattr(one, name) for one in looked) for name in ContentsChecked._fields},
        not_read=tuple(f"{what}: {count}" for what, count in sorted(unread.items()) if count),
    )
