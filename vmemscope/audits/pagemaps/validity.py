# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether the sections say of a pagemap's page frames that they are valid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...kernel.mem_section_usage import read_subsections
from ...rules.sections import UNREAD_SECTIONS, ValidFacts, subsection_map
from ...spans import Spans, union

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Sequence

    from drgn import Program

    from ...kernel.dev_pagemap import PhysicalRange
    from ...kernel.mem_section import Sections
    from ...vmemmap.layout import Geometry
    from .subject import Subject

__all__ = ("check_validity", "frames_of")


def frames_of(ranges: Iterable[PhysicalRange], page_size: int) -> Spans:
    """Get the page frames of physical ranges, which consist of whole ones."""
    pairs = [(one.start // page_size, (one.end + 1) // page_size) for one in ranges]
    return Spans.of([start for start, _ in pairs], [end for _, end in pairs])


def check_validity(
    prog: Program,
    subjects: Sequence[Subject],
    sections: Sections,
    geometry: Geometry,
    unread: Counter[str],
) -> None:
    """Check the subsections of all pagemaps."""
    if sections.damage:
        for subject in subjects:
            subject.findings.skipped(UNREAD_SECTIONS, subsection_map)
        return
    ranges = [frames_of(subject.ranges, geometry.page_size) for subject in subjects]
    first = sections.number * sections.pages
    described = union(ranges).touches(first, first + sections.pages)
    found = read_subsections(prog, sections, geometry.page_size, described)
    for one in found.damage:
        unread[one.message] += 1
    for subject, frames in zip(subjects, ranges, strict=True):
        facts = ValidFacts(frames, found.valid, found.unknown, geometry)
        subject.findings.check(subsection_map, facts)
