# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Everything about one page, in the manner of crash's ``vtop``.

:mod:`.meaning` finds out which page a number means, :mod:`.examine` reads all there is
about it, :mod:`.state` says in words what to make of that.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from ...confirm import Key, Part, Whole, confirmed
from ...timing import phase
from ...types.names import PAGE
from .examine import Examination, examine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ...machine import Kernel
    from ...report.documents.page import PageReport

__all__ = ("DIVISION", "audit", "audit_each", "once", "reader_of")


class _Division(Whole["PageReport"]):
    def parts(self, report: PageReport) -> dict[Key, Part]:
        return {None: Part(report.findings, ())}

    def replaced(self, report: PageReport, part: Part, not_read: tuple[str, ...]) -> PageReport:
        return report.changed(findings=part.findings, not_read=not_read)


#: how the report is confirmed on a live kernel
DIVISION = _Division()


def audit(
    kernel: Kernel,
    number: int,
    meaning: str | None = None,
    *,
    reader: Examination | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> PageReport:
    """
    Read everything about one page; on a live kernel, report a violation only if it lasts.

    :param number: page frame number, physical or virtual address
    :param meaning: which of these: pfn, phys, address, or ``None`` to find out
    :param reader: has read other pages of the same kernel; on later passes it is of no use
    :param sleep: waits that many seconds between passes
    :raises VmemscopeError: if types are missing, or there is no such page
    """
    check = partial(once, number=number, meaning=meaning, reader=reader)
    return confirmed(kernel, check, DIVISION, sleep)


def once(
    kernel: Kernel, number: int, meaning: str | None = None, reader: Examination | None = None
) -> PageReport:
    """Read a page in one pass; parameters and errors are those of :func:`audit`."""
    kernel.require(PAGE)
    if reader is not None and reader.kernel is not kernel:
        reader = None
    with phase(kernel.timings, "read"):
        report = examine(kernel, number, meaning, reader)
    return report.timed(kernel.timings)


def audit_each(
    kernel: Kernel,
    pfns: Sequence[int],
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> list[PageReport]:
    """
    Read everything about several pages, as :func:`audit` does, in one walk over the vmemmap.

    :param pfns: page frame numbers
    """
    reader = reader_of(kernel, pfns)
    return [audit(kernel, pfn, "pfn", reader=reader, sleep=sleep) for pfn in pfns]


def reader_of(kernel: Kernel, pfns: Sequence[int]) -> Examination:
    """
    Return what reads several pages in one walk over the vmemmap.

    :param pfns: their page frame numbers
    :raises VmemscopeError: if types are missing
    """
    kernel.require(PAGE)
    return Examination(kernel, pfns)
