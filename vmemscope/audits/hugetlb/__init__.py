# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The audit of HugeTLB's vmemmap optimization (HVO): whether it is in effect, what it saves.

Reads the lists of folios, walks all of the vmemmap once
(:mod:`vmemscope.vmemmap.folio_maps`), compares what folios say of themselves with how
they are mapped (:mod:`.facts`), and sums it up (:mod:`.summary`).
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from ...confirm import Whole, confirmed
from ...kernel.hstate import has_hugetlb
from ...timing import phase
from ...types.names import HUGETLB
from .facts import HugetlbFacts
from .summary import summarise

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...machine import Kernel
    from ...progress import Progress
    from ...report.documents.hugetlb import HugetlbReport
    from ...rules.findings import Finding

__all__ = ("DIVISION", "audit", "once")


class _Division(Whole["HugetlbReport"]):
    def key(self, finding: Finding) -> tuple[object, ...]:
        # What was observed counts too: of a counter that runs ahead of its lists, and by
        # how much differs from pass to pass, nothing is known.
        return (*super().key(finding), finding.expected, finding.observed)


#: how the report is confirmed on a live kernel
DIVISION = _Division()


def audit(
    kernel: Kernel,
    *,
    folios: bool = False,
    progress: Progress | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> HugetlbReport:
    """
    Audit HugeTLB; on a live kernel, report a violation only if it lasts.

    :param folios: list each folio, too
    :param progress: called with the pages walked, and how many there are
    :param sleep: waits that many seconds between passes
    :raises VmemscopeError: if types are missing, or the kernel can't be audited
    """
    return confirmed(kernel, partial(once, folios=folios, progress=progress), DIVISION, sleep)


def once(
    kernel: Kernel, *, folios: bool = False, progress: Progress | None = None
) -> HugetlbReport:
    """Audit HugeTLB in one pass; parameters and errors are those of :func:`audit`."""
    kernel.require(HUGETLB if has_hugetlb(kernel.prog) else ())
    facts = HugetlbFacts(kernel)
    with phase(kernel.timings, "read"):
        facts.read()
    with phase(kernel.timings, "walk"):
        facts.walk(progress)
    with phase(kernel.timings, "check"):
        facts.check()
        report = summarise(facts, folios)
    return report.timed(kernel.timings)
