# SPDX-License-Identifier: LGPL-2.1-or-later
"""
All audits of one kernel in one report, with what the kernel said itself.

:mod:`.subjects` finds the pages that the log and the registers of a crash name,
:mod:`.pages` has each explained, :mod:`.verdict` draws the conclusion.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ..errors import TypesError
from ..kernel.printk import read_log
from ..report.documents.common import LeftOut, TargetInfo, TargetReport
from ..report.documents.full import FullReport, FullSummary, Verdict
from ..timing import phase
from .pages import explain
from .subjects import cpu_report, find_subjects, log_report
from .verdict import conclude

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from typing import Protocol, TypeVar

    from ..machine import Kernel
    from ..progress import Progress

    R = TypeVar("R", bound=TargetReport)

    class Selected(Protocol):
        """Leaves findings out of a report of any audit."""

        def __call__(self, report: R, /) -> R: ...

    #: shows the progress of one audit
    Shown = Callable[[], AbstractContextManager[Progress | None]]

__all__ = ("collect",)


def collect(
    kernel: Kernel,
    *,
    contents: str = "sample",
    shown: Shown = nullcontext,
    selected: Selected = lambda report: report,
) -> FullReport:
    """
    Audit everything about a kernel, and explain the pages that its log names.

    :param contents: how many ``struct page``s are checked: ``all``, a ``sample`` of
        each range's, or ``none``
    :param shown: shows the progress of one audit
    :param selected: leaves findings out of a report
    :raises VmemscopeError: if types are missing for all audits, or the kernel can't be audited
    """
    from ..audits import hugetlb, memmap, pagemaps

    kernel.require()
    failed: list[str] = []
    with phase(kernel.timings, "audits"):
        with shown() as progress:
            check = partial(pagemaps.audit, kernel, contents=contents, progress=progress)
            pgmap = _tried(failed, "pgmap", check, selected)
        folios = _tried(failed, "hugetlb", partial(hugetlb.audit, kernel), selected)
        with shown() as progress:
            check_all = partial(memmap.audit, kernel, progress=progress)
            whole = _tried(failed, "memmap", check_all, selected)
    with phase(kernel.timings, "log"):
        log = read_log(kernel.prog)
        found = find_subjects(kernel, log)
    with phase(kernel.timings, "pages"):
        pages, left_out = explain(kernel, found, pgmap, folios, whole, selected)
    pfns = {one.pfn for one in pages}
    reports: list[TargetReport] = [one for one in (pgmap, folios, whole) if one is not None]
    unread = [what for one in reports for what in one.not_read]
    report = FullReport(
        target=TargetInfo.about(kernel),
        verdict=Verdict(state="sound", lines=()),
        section_size=kernel.sections.pages * kernel.page_size,
        log=log_report(log, found, pfns),
        cpu=cpu_report(found, pfns),
        pages=pages,
        pages_left_out=left_out,
        pgmap=pgmap,
        hugetlb=folios,
        memmap=whole,
        summary=FullSummary(
            not_read=tuple(dict.fromkeys((*failed, *unread, *log.missed))),
            left_out=_left_out(reports),
        ),
    ).changed()
    return replace(report, verdict=conclude(report)).timed(kernel.timings)


def _tried(failed: list[str], name: str, audit: Callable[[], R], selected: Selected) -> R | None:
    """Audit, or note why not: a kernel may lack what one audit needs."""
    try:
        return selected(audit())
    except TypesError as e:
        failed.append(f"vmemscope {name}: {e.message}")
        return None


def _left_out(reports: Sequence[TargetReport]) -> LeftOut:
    """Sum up the findings that were left out of several reports."""
    found = [one.summary.left_out for one in reports]
    return LeftOut(
        findings=sum(one.findings for one in found),
        reasons=tuple(dict.fromkeys(reason for one in found for reason in one.reasons)),
        expired=tuple(dict.fromkeys(entry for one in found for entry in one.expired)),
    )
