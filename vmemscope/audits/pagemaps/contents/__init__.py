# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The ``struct page``s of device memory: which are looked into, and the looking.

All of them, a sample of each range's, or none (:class:`Contents`). They are
streamed: some thousand compound pages at a time, whose frames are read in order of
address, a few megabytes at a time, and each frame that tail pages share once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ....rules.alignment import HEAD_ALIGNMENT
from ....rules.page_rows import Expected
from ....rules.pagemap import NO_RANGE
from ....rules.struct_pages import BASE_RULES, COMPOUND_RULES, RULES_BY_KIND
from .areas import Contents, areas_of, picked, why_not
from .base_pages import look_at_base_pages
from .compounds import look_at_compounds
from .look import ContentsChecked, Look, counted

if TYPE_CHECKING:
    from ....kernel.page_flags import FlagLayout
    from ....vmemmap.vmemmap import Vmemmap
    from ..subject import Subject

__all__ = ("Contents", "ContentsChecked", "check_contents", "frames_to_read")

#: the rules that are evaluated here
_RULES = (*COMPOUND_RULES, *HEAD_ALIGNMENT)
_OF_COMPOUNDS = tuple(rule for rule in _RULES if rule not in BASE_RULES)


def frames_to_read(subject: Subject, vmemmap: Vmemmap, contents: Contents) -> int:
    """Tell about how many frames will be read, for progress to be shown."""
    if why_not(subject, vmemmap, contents) is not None:
        return 0
    frames = 0
    for area in areas_of(subject, vmemmap):
        each = 1
        if area.order:
            each = min(vmemmap.geometry.compound_vpages(area.order), 4)
            if subject.dedup.expected:
                each = 2
            elif contents is Contents.ALL:
                each = vmemmap.geometry.compound_vpages(area.order)
        frames += len(picked(area, contents)) * each
    return frames


def check_contents(
    subject: Subject,
    vmemmap: Vmemmap,
    flags: FlagLayout | None,
    contents: Contents,
    step: Callable[[int], None],
) -> ContentsChecked:
    """
    Look into the ``struct page``s of a pagemap.

    :param flags: where things are in ``page->flags``
    :param step: called with the frames of each batch that was read
    """
    findings = subject.findings
    reason = why_not(subject, vmemmap, contents)
    areas = [] if reason is not None else areas_of(subject, vmemmap)
    if reason is None and not areas:
        reason = "no page behind the altmap" if subject.ranges else NO_RANGE
    if reason is not None:
        findings.skipped(reason, *_RULES)
        return (
            counted(areas_of(subject, vmemmap), vmemmap)
            if contents is Contents.NONE
            else ContentsChecked()
        )
    if not subject.order:
        findings.skipped(subject.no_compounds or "no compound pages", *_OF_COMPOUNDS)
    if subject.foreign:
        findings.skipped("compound pages in a frame that is another's", *_RULES)
    expected = Expected(subject.pagemap, vmemmap.page, vmemmap.geometry, flags)
    look = Look(subject, vmemmap, expected, contents, step)
    for rule in RULES_BY_KIND[look.kind]:
        if (why_not_it := rule.why_not(expected, look.kind)) is not None:
            findings.skipped(why_not_it, rule)
    for area in areas:
        if area.order:
            look_at_compounds(look, area)
        else:
            look_at_base_pages(look, area)
    return look.finish(areas)
