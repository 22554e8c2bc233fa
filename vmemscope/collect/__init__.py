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
from ..report.documents.common import TargetInfo
from ..report.documents.full import FullReport, FullSummary, Verdict
from ..timing import phase
from .pages import explain
from .subjects import cpu_report, find_subjects, log_report
from .verdict import conclude

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import TypeVar

    from ..machine import Kernel
    from ..progress import Progress

    R = TypeVar("R")

    #: shows the progress of one audit
    Shown = Callable[[], AbstractContextManager[Progress | None]]

__all__ = ("collect",)


def collect(kernel: Kernel, *, contents: str = "sample", shown: Shown = nullcontext) -> FullReport:
    """
    Audit everything about a kernel, and explain the pages that its log names.

    :param contents: how many ``struct page``s are checked: ``all``, a ``sample`` of
        each range's, or ``none``
    :param shown: shows the progress of one audit
    :raises VmemscopeError: if types are missing for all audits, or the kernel can't be audited
    """
    from ..audits import hugetlb, memmap, pagemaps

    kernel.require()
    failed: list[str] = []
    with phase(kernel.timings, "audits"):
        with shown() as progress:
            check = partial(pagemaps.audit, kernel, contents=contents, progress=progress)
            pgmap = _tried(failed, "pgmap", check)
        folios = _tried(failed, "hugetlb", partial(hugetlb.audit, kernel))
        with shown() as progress:
            whole = _tried(failed, "memmap", partial(memmap.audit, kernel, progress=progress))
    with phase(kernel.timings, "log"):
        log = read_log(kernel.prog)
        found = find_subjects(kernel, log)
    with phase(kernel.timings, "pages"):
        pages, left_out = explain(kernel, found, pgmap, folios, whole)
    pfns = {one.pfn for one in pages}
    reports = [one for one in (pgmap, folios, whole) if one is not None]
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
        summary=FullSummary(not_read=tuple(dict.fromkeys((*failed, *unread, *log.missed)))),
    ).changed()
    return replace(report, verdict=conclude(report)).timed(kernel.timings)


def _tried(failed: list[str], name: str, audit: Callable[[], R]) -> R | None:
    """Audit, or note why not: a kernel may lack what one audit needs."""
    try:
        return audit()
    except TypesError as e:
        failed.append(f"vmemscope {name}: {e.message}")
        return None
