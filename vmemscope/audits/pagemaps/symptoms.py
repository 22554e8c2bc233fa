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
    # What kernels initialise of a compound page whose tail pages share a frame.
    initialised = audited.dedup.scheme.initialised * geometry.row
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
                pfn, _ = geometry.pfn_at(finding.vaddr)
                if region.start <= pfn < region.end:
                    starts.add((pfn - region.start) % (1 << region.order))
    return Symptoms(
        violations,
        checked.compounds_checked,
        early,
        starts == {initialised},
        geometry.arch.aligns_compounds,
    )
