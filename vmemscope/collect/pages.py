# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``vmemscope page`` says of the pages that are named, and the findings about each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..audits.page import audit_each
from ..errors import VmemscopeError
from ..report.documents.full import Covering, ExplainedPage, each_once

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..machine import Kernel
    from ..report.documents.hugetlb import HugetlbReport
    from ..report.documents.memmap import MemmapReport
    from ..report.documents.page import PageReport
    from ..report.documents.pgmap import PagemapReport, Report
    from ..rules.findings import Finding
    from . import Selected
    from .subjects import Found

__all__ = ("explain",)

#: pages that are explained
_MAX_PAGES = 32
#: findings that are listed for one page
_MAX_FINDINGS = 8


def explain(
    kernel: Kernel,
    found: Found,
    pgmap: Report | None,
    hugetlb: HugetlbReport | None,
    memmap: MemmapReport | None,
    selected: Selected,
) -> tuple[tuple[ExplainedPage, ...], int]:
    """
    Explain the pages that the log and registers name.

    :param selected: leaves findings out of a report
    :return: the pages by time, and how many more there are
    """
    pfns = list(found.pages)[:_MAX_PAGES]
    error: str | None = None
    reports: list[PageReport | None]
    try:
        reports = [selected(one) for one in audit_each(kernel, pfns)] if pfns else []
    except (LookupError, VmemscopeError) as e:
        # The kernel's types have all that the other audits need, but not this one.
        reports, error = [None] * len(pfns), str(e)
    explained = []
    for pfn, page in zip(pfns, reports, strict=True):
        covering = _covering(page, pgmap, hugetlb, memmap) if page is not None else ()
        findings = each_once(covering)
        explained.append(
            ExplainedPage(
                pfn=pfn,
                seen=tuple(found.pages[pfn]),
                page=page,
                error=error,
                findings=tuple(findings[:_MAX_FINDINGS]),
                bugs=_bugs(page, pgmap),
            )
        )
    return tuple(explained), len(found.pages) - len(pfns)


def _covering(
    page: PageReport,
    pgmap: Report | None,
    hugetlb: HugetlbReport | None,
    memmap: MemmapReport | None,
) -> Iterator[Covering]:
    """Yield the findings about a page: at its ``struct page``, or at a frame of it."""
    for owner, finding in pgmap.all_findings() if pgmap is not None else ():
        if _covers(finding, page, owner):
            yield Covering(command="pgmap", owner=owner.label if owner else None, finding=finding)
    for command, report in (("hugetlb", hugetlb), ("memmap", memmap)):
        for finding in report.findings if report is not None else ():
            if _covers(finding, page, None):
                yield Covering(command=command, owner=None, finding=finding)


def _covers(finding: Finding, page: PageReport, owner: PagemapReport | None) -> bool:
    """
    Return whether a finding is about a page.

    It is if it is at a struct page of the page's compound page, or in the page of the vmemmap
    that has its struct page; or if it is about the page itself or the frame with its struct
    page. A pagemap's finding about where compound pages start is about all of its pages.
    """
    size, page_size = page.target.struct_page_size, page.target.page_size
    at = page.page.address
    first, pages = at, 1
    place = page.place
    if place is not None and place.head_pfn is not None:
        first, pages = at - (page.pfn - place.head_pfn) * size, 1 << place.order
    ranges = ((first, first + pages * size), (at // page_size * page_size, at + size))
    if finding.vaddr is not None and any(low <= finding.vaddr < high for low, high in ranges):
        return True
    frames = {page.pfn, page.frame.pfn if page.frame is not None else None}
    if finding.pfn is not None and finding.pfn in frames:
        return True
    alignment = finding.rule.endswith("-alignment")
    return alignment and owner is not None and place is not None and owner.address == place.address


def _bugs(page: PageReport | None, pgmap: Report | None) -> tuple[str, ...]:
    if page is None or page.place is None or pgmap is None:
        return ()
    return tuple(bug.bug for bug in pgmap.bugs if bug.pgmap == page.place.address)
