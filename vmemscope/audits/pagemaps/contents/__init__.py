# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The checks of the ``struct page``s of device memory.

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
from .base_pages import check_base_pages
from .check import (
    Contents,
    ContentsCheck,
    ContentsChecked,
    checked_apart,
    counted,
    picked,
    regions_of,
    why_not,
)
from .compounds import check_compounds
from .straddling import check_straddling
from .zone_frame import check_zone_frame

if TYPE_CHECKING:
    from ....kernel.page_flags import FlagLayout
    from ....vmemmap.vmemmap import Vmemmap
    from ..audited import AuditedPagemap

__all__ = ("Contents", "ContentsChecked", "check_contents", "frames_to_read")

#: the rules that are evaluated here
_RULES = (*COMPOUND_RULES, *HEAD_ALIGNMENT)
_OF_COMPOUNDS = tuple(rule for rule in _RULES if rule not in BASE_RULES)


def frames_to_read(audited: AuditedPagemap, vmemmap: Vmemmap, contents: Contents) -> int:
    """Return about how many frames will be read, for the progress bar."""
    if why_not(audited, vmemmap, contents) is not None:
        return 0
    frames = 0
    for region in regions_of(audited, vmemmap):
        each = 1
        if region.order:
            each = min(max(vmemmap.geometry.compound_vpages(region.order), 1), 4)
            if audited.dedup.expected:
                each = 2
            elif contents is Contents.ALL:
                each = vmemmap.geometry.compound_vpages(region.order)
        frames += len(picked(region, contents)) * each
    return frames


def check_contents(
    audited: AuditedPagemap,
    vmemmap: Vmemmap,
    flags: FlagLayout | None,
    contents: Contents,
    step: Callable[[int], None],
) -> ContentsChecked:
    """
    Check the ``struct page``s of a pagemap.

    :param flags: where things are in ``page->flags``
    :param step: called with the frames of each batch that was read
    """
    findings = audited.findings
    reason = why_not(audited, vmemmap, contents)
    regions = [] if reason is not None else regions_of(audited, vmemmap)
    if reason is None and not regions:
        reason = "no page behind the altmap" if audited.ranges else NO_RANGE
    if reason is not None:
        findings.skipped(reason, *_RULES)
        return (
            counted(regions_of(audited, vmemmap), vmemmap)
            if contents is Contents.NONE
            else ContentsChecked()
        )
    if not audited.order:
        findings.skipped(audited.no_compounds or "no compound pages", *_OF_COMPOUNDS)
    if audited.foreign:
        findings.skipped("compound pages in a frame that is another's", *_RULES)
    per_zone = audited.shared is not None
    expected = Expected(audited.pagemap, vmemmap.page, vmemmap.geometry, flags, per_zone=per_zone)
    if audited.shared is not None and flags is not None:
        # The heads say so; the frame that their tail pages map may be another node's.
        expected.nid = audited.shared.nid
    check = ContentsCheck(audited, vmemmap, expected, contents, step)
    for rule in RULES_BY_KIND[check.kind]:
        if (why_not_it := rule.why_not(expected, check.kind)) is not None:
            findings.skipped(why_not_it, rule)
    check.zone_usual = check_zone_frame(check)
    for region in regions:
        if checked_apart(audited, vmemmap):
            check_straddling(check, region)
        elif region.order:
            check_compounds(check, region)
        else:
            check_base_pages(check, region)
    if check.heads_usual is not None:
        check_zone_frame(check, check.heads_usual)
    return check.finish(regions)
