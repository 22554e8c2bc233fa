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
from ...kernel.dev_pagemap import PhysicalRange, read_pagemaps
from ...kernel.device import name_pagemaps
from ...kernel.mem_section import Sections, read_sections
from ...kernel.page import read_page_layout
from ...kernel.page_state import PageStates, read_page_states
from ...kernel.percpu_ref import read_references
from ...kernel.pglist_data import DEVICE, read_zones
from ...kernel.resource import read_resources
from ...report.documents.common import TargetInfo
from ...report.documents.pgmap import Report, Summary
from ...rules import RULES, rules_of
from ...rules.findings import Collector
from ...rules.ranges import (
    check_entries,
    check_overlaps,
    check_section_alignment,
    check_shift,
    valid_ranges,
)
from ...rules.references import check_references
from ...rules.rule import Scope
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
    report = Report(
        target=TargetInfo.about(target, vmemmap.geometry, types),
        pagemaps=reports,
        findings=findings.finish(),
        outcomes=findings.outcomes(rules_of(Scope.TARGET)),
        summary=_summary(backing, contents, looked, unread),
    )
    return report.changed().timed(timings)


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
    for rule, several in (("xarray", damage), ("resource-tree", resource_damage)):
        findings.checked(RULES[rule])
        for one in several:
            if one.unreadable:
                findings.skipped(one.message, RULES[rule])
            else:
                findings.add(RULES[rule], one.message, vaddr=one.address)
    for one in (*damage, *resource_damage, *sections.damage):
        if one.unreadable:
            unread[one.message] += 1
    subjects = [Subject(pagemap, names.get(pagemap.address)) for pagemap in pagemaps]
    subjects.sort(key=lambda s: s.pagemap.entries[0].first)
    ranges = {s.pagemap.address: valid_ranges(s.pagemap, bits, s.findings) for s in subjects}
    check_overlaps(
        [(one, s.pagemap) for s in subjects for one in ranges[s.pagemap.address]],
        {s.pagemap.address: s.findings for s in subjects},
    )
    for subject in subjects:
        subject.not_read.update(b.message for b in subject.pagemap.damage if b.unreadable)
        _check_pagemap(
            subject, ranges[subject.pagemap.address], geometry, sections, target.osrelease, damage
        )
        references = read_references(prog, subject.pagemap.address)
        subject.not_read["reference counts of the pagemap itself"] += references.unreadable
        check_references(
            subject.pagemap,
            subject.ranges,
            subject.order if subject.shift_sound else None,
            references,
            geometry,
            subject.findings,
        )
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
    Check a pagemap itself, and find out what can be gone by for the rest.

    :param damage: what of ``pgmap_array`` could not be followed: its entries
        then tell nothing
    """
    pagemap = subject.pagemap
    if damage:
        subject.findings.skipped("pgmap_array could not be followed", RULES["xarray"])
    elif any(one.unreadable for one in pagemap.damage):
        # It has entries and, as far as is known, no ranges: that tells nothing.
        subject.findings.skipped("the pagemap could not be read", RULES["xarray"])
    elif len(ranges) != pagemap.nr_range:
        subject.findings.skipped("not all of its ranges are valid", RULES["xarray"])
    else:
        ranges = check_entries(pagemap, ranges, geometry, subject.findings)
    subject.ranges = tuple(ranges)
    subject.shift_sound = check_shift(pagemap, ranges, geometry, subject.findings)
    if subject.shift_sound:
        subject.dedup = dedup_of(pagemap, geometry, osrelease)
    if subject.dedup.expected:
        check_section_alignment(pagemap, ranges, sections, geometry, subject.findings)
    else:
        reason = subject.no_compounds or subject.dedup.reason or "it is not deduplicated"
        subject.findings.skipped(reason, RULES["section-alignment"])


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
