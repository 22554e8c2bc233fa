# SPDX-License-Identifier: LGPL-2.1-or-later
"""What was found of a pagemap, by which known bugs of the kernel are recognised."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...rules.bugs import UNINITIALISED, Symptoms
from ...vmemmap.layout import Populated
from .contents.check import picked, regions_of

if TYPE_CHECKING:
    from ...report.documents.pgmap import PagemapReport
    from ...vmemmap.vmemmap import Vmemmap
    from .audited import AuditedPagemap
    from .contents.check import Contents, ContentsChecked

__all__ = ("symptoms_of",)

#: VMEMMAP_RESERVE_NR: pages of struct pages that the kernel initialises of a compound page whose
#: tail pages share a frame
_INITIALISED = 2


def symptoms_of(
    audited: AuditedPagemap,
    report: PagemapReport,
    checked: ContentsChecked,
    vmemmap: Vmemmap,
    contents: Contents,
) -> Symptoms:
    """
    Return what was found of a pagemap.

    :param checked: how many struct pages were checked
    :param contents: which were to be checked
    """
    violations = {one.rule: one.violations for one in report.outcomes if one.violations}
    if not any(rule in violations for rule in UNINITIALISED):
        return Symptoms(violations, checked.compounds_checked)
    geometry, early, starts = vmemmap.geometry, 0, set()
    pieces = [piece for piece in audited.pieces if piece.populated is Populated.EARLY]
    for region in regions_of(audited, vmemmap):
        if not region.order:
            continue
        heads = region.start + (picked(region, contents) << region.order)
        vpages = heads * geometry.struct_page_size // geometry.page_size
        inside = np.zeros(len(heads), dtype=np.bool_)
        for piece in pieces:
            inside |= (vpages >= piece.start) & (vpages < piece.end)
        early += int(np.count_nonzero(inside))
        for finding in report.findings:
            if finding.rule in UNINITIALISED and finding.vaddr is not None:
                pfn = (finding.vaddr - geometry.vmemmap) // geometry.struct_page_size
                if region.start <= pfn < region.end:
                    starts.add((pfn - region.start) % (1 << region.order))
    return Symptoms(
        violations,
        checked.compounds_checked,
        early,
        starts == {_INITIALISED * geometry.page_size // geometry.struct_page_size},
        geometry.arch.aligns_compounds,
    )
