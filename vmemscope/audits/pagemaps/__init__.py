# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The audit: reads the pagemaps, walks their vmemmap, holds it against the rules.

One pass over the page tables of each pagemap (:mod:`.mapping`), then the frames
of all of them together (:mod:`.backing`), then the ``struct page``s themselves
(:mod:`.contents`), then a verdict on each (:mod:`.verdict`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...arch import architecture_of
from ...kernel import Damage
from ...kernel.dev_pagemap import MAX_RANGES, PhysicalRange, read_pagemaps
from ...kernel.device import name_pagemaps
from ...kernel.mem_section import Sections, read_sections
from ...kernel.page import read_page_layout
from ...kernel.page_state import PageStates, read_page_states
from ...kernel.percpu_ref import read_references
from ...kernel.pglist_data import DEVICE, read_zones
from ...kernel.resource import read_resources
from ...report.documents.pgmap import PagemapReport, Report, Summary, TargetInfo
from ...rules import rules_of
from ...rules.alignment import section_alignment
from ...rules.findings import Collector, Finding
from ...rules.pagemap import (
    ReferenceFacts,
    nr_range,
    overlaps_of,
    pagemap_ref_high,
    pagemap_ref_low,
    range_invalid,
    range_overlap,
    shift_fits,
    valid_ranges,
    vmemmap_shift,
)
from ...rules.rule import Scope, Severity
from ...rules.target import EntryFacts, resource_tree, xarray
from ...target.vmcoreinfo import physmem_bits, physmem_frames
from ...timing import phase
from ...vmemmap.layout import Geometry, dedup_of
from ...vmemmap.memory import PhysicalMemory
from ...vmemmap.struct_pages import flag_layout
from ...vmemmap.tables import Kind
from ...vmemmap.vmemmap import Vmemmap
from .backing import BackingChecked, check_backing
from .contents import Contents, ContentsChecked, check_contents, frames_to_read
from .entries import check_entries_of_processes
from .mapping import map_subject
from .subject import Subject
from .validity import check_validity
from .verdict import report_on

if TYPE_CHECKING:
    from ...kernel.page_flags import FlagLayout
    from ...target import Target

__all__ = ("Contents", "Progress", "audit", "read_subjects")

#: is called with the pages of vmemmap walked and read so far, and how many there are
Progress = Callable[[int, int], None]


def audit(
    target: Target,
    types: str,
    timings: dict[str, float] | None = None,
    progress: Progress | None = None,
    contents: Contents = Contents.SAMPLE,
) -> Report:
    """
    Audit all pagemaps of a target, once.

    :param target: an opened target with types attached
    :param types: where they come from, ``btf`` or ``dwarf``
    :param timings: seconds per phase, added to
    :param progress: told how much of the vmemmap has been walked and read
    :param contents: how many ``struct page``s are looked into
    :raises VmemscopeError: if the target can't be looked at
    """
    timings = {} if timings is None else timings
    unread: Counter[str] = Counter()
    findings = Collector()
    with phase(timings, "pagemaps"):
        subjects, vmemmap = read_subjects(target, findings, unread)
        words = _page_words(target, vmemmap) if subjects else None
    with phase(timings, "audit"):
        check_entries_of_processes(
            target.prog,
            vmemmap,
            physmem_frames(target.vmcoreinfo, vmemmap.geometry.page_size),
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
        flags, states = words or (None, None)
        backing = check_backing(subjects, vmemmap, states) if states else BackingChecked(0)
    with phase(timings, "contents"):
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
    loose = findings.finish()
    return Report(
        target=TargetInfo.of(target, vmemmap.geometry, types),
        geometry=vmemmap.geometry,
        pagemaps=reports,
        findings=loose,
        outcomes=findings.outcomes(rules_of(Scope.TARGET)),
        summary=_summary(reports, loose, backing, contents, looked, unread),
        timings=timings,
    )


def _page_words(target: Target, vmemmap: Vmemmap) -> tuple[FlagLayout | None, PageStates]:
    """Look up how struct pages say of which node and zone they are, and what they are used for."""
    prog = target.prog
    try:
        zones = tuple(one for one in read_zones(prog)[0] if one.name != DEVICE)
        flags = flag_layout(prog, vmemmap, zones)
    except LookupError:
        # The types lack zones or flags: node and zone are then not asked.
        return None, read_page_states(prog, target.vmcoreinfo)
    return flags, read_page_states(prog, target.vmcoreinfo, flags, zones)


def read_subjects(
    target: Target, findings: Collector, unread: Counter[str]
) -> tuple[list[Subject], Vmemmap]:
    """Read the kernel's structures: pagemaps in order of address, and the vmemmap."""
    prog = target.prog
    arch = architecture_of(prog.platform)
    table = arch.page_table(target.vmcoreinfo)
    sections = read_sections(prog, target.vmcoreinfo, table.page_size, arch.kernel_space)
    page = read_page_layout(prog)
    geometry = Geometry(arch, table.page_size, page.size, sections.vmemmap)
    bits = physmem_bits(target.vmcoreinfo)

    pagemaps, damage = read_pagemaps(prog)
    resources, resource_damage = read_resources(prog)
    names = name_pagemaps(prog, pagemaps, resources)
    findings.check(xarray, damage)
    findings.check(resource_tree, resource_damage)
    for one in (*damage, *resource_damage, *sections.damage):
        if one.unreadable:
            unread[one.message] += 1
    subjects = [Subject(pagemap, names.get(pagemap.address)) for pagemap in pagemaps]
    subjects.sort(key=lambda s: s.pagemap.entries[0].first)
    ranges = {s.pagemap.address: valid_ranges(s.pagemap, bits) for s in subjects}
    overlaps = overlaps_of((one, s.pagemap) for s in subjects for one in ranges[s.pagemap.address])
    for subject in subjects:
        pagemap, valid = subject.pagemap, ranges[subject.pagemap.address]
        subject.not_read.update(b.message for b in pagemap.damage if b.unreadable)
        subject.findings.check(nr_range, pagemap, MAX_RANGES)
        subject.findings.check(range_invalid, pagemap, bits)
        subject.findings.check(range_overlap, pagemap, valid, overlaps.get(pagemap.address, ()))
        _check_pagemap(subject, valid, geometry, sections, target.osrelease, damage)
        references = read_references(prog, pagemap.address)
        subject.not_read["reference counts of the pagemap itself"] += references.unreadable
        facts = ReferenceFacts(
            pagemap,
            subject.ranges,
            subject.order if subject.shift_sound else None,
            references,
            geometry.page_size,
        )
        subject.findings.check(pagemap_ref_low, facts)
        subject.findings.check(pagemap_ref_high, facts)
    check_validity(prog, subjects, sections, geometry, unread)
    ram = [(one.start, one.end) for one in resources if one.is_system_ram]
    device = [(one.start, one.end) for subject in subjects for one in subject.ranges]
    return subjects, Vmemmap(
        geometry=geometry,
        table=table,
        sections=sections,
        page=page,
        ram=PhysicalMemory(prog, table.page_size, ram),
        memory=PhysicalMemory(prog, table.page_size, ram + device),
    )


def _check_pagemap(
    subject: Subject,
    ranges: list[PhysicalRange],
    geometry: Geometry,
    sections: Sections,
    osrelease: str,
    damage: list[Damage],
) -> None:
    """
    Check a pagemap itself, and find out what of it may be used for the rest.

    :param damage: what of ``pgmap_array`` could not be followed: its entries
        then tell nothing
    """
    pagemap = subject.pagemap
    entries = EntryFacts.of(pagemap, ranges, damage, geometry.page_size)
    subject.findings.check(xarray, entries)
    ranges = entries.usable
    subject.ranges = tuple(ranges)
    subject.findings.check(vmemmap_shift, pagemap, ranges, geometry.page_size)
    subject.shift_sound = shift_fits(pagemap.vmemmap_shift, ranges, geometry.page_size)
    if subject.shift_sound:
        subject.dedup = dedup_of(pagemap, geometry, osrelease)
    if subject.dedup.expected:
        subject.findings.check(section_alignment, pagemap, ranges, sections, geometry)
    else:
        reason = subject.no_compounds or subject.dedup.reason or "it is not deduplicated"
        subject.findings.skipped(reason, section_alignment)


def _summary(
    reports: tuple[PagemapReport, ...],
    findings: tuple[Finding, ...],
    backing: BackingChecked,
    contents: Contents,
    looked: list[ContentsChecked],
    unread: Counter[str],
) -> Summary:
    severities = Counter(
        one.severity for group in (findings, *(r.findings for r in reports)) for one in group
    )
    return Summary(
        pagemaps=len(reports),
        vmemmap_pages=sum(r.vmemmap.pages for r in reports),
        backing_frames=sum(r.frames.backing for r in reports),
        saved_bytes=sum(r.saved_bytes for r in reports),
        savable_bytes=sum(r.savable_bytes for r in reports),
        errors=severities[Severity.ERROR],
        warnings=severities[Severity.WARNING],
        notes=severities[Severity.NOTE],
        refcounts_checked=backing.refcounts_checked,
        refcounts_unreadable=backing.refcounts_unreadable,
        contents=contents.value,
        **{name: sum(getattr(one, name) for one in looked) for name in ContentsChecked._fields},
        not_read=tuple(f"{what}: {count}" for what, count in sorted(unread.items()) if count),
    )
