# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Where all the memory map's memory goes.

Reads sections, zones and pagemaps, walks all of the vmemmap once and compares it with
the rules about sections (:mod:`.facts`; :mod:`.areas` cuts the vmemmap
into what it describes, :mod:`.walk` counts what is mapped), and sums it up next
to the kernel's own counters (:mod:`.summary`, :mod:`.counters`).
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from ...confirm import Key, Whole, confirmed, violations_of
from ...timing import phase
from .facts import MemmapFacts
from .summary import summarise

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...machine import Kernel
    from ...progress import Progress
    from ...report.documents.memmap import MemmapReport

__all__ = ("DIVISION", "audit", "once")


class _Division(Whole["MemmapReport"]):
    def changed(self, report: MemmapReport, before: Kernel, after: Kernel) -> set[Key]:
        first = _devices(before)
        return set() if first is not None and first == _devices(after) else {None}

    def half_done(self, report: MemmapReport, kernel: Kernel) -> set[Key]:
        return {None} if violations_of(report.findings) and _devices(kernel) is None else set()


def _devices(kernel: Kernel) -> object:
    """Return what changes when a device comes or goes; ``None`` while one does."""
    if any(one.changing for one in kernel.pagemaps):
        return None
    sections = kernel.sections
    columns = (sections.number, sections.raw, sections.usage)
    return kernel.pagemaps, [column.tobytes() for column in columns]


#: how the report is confirmed on a live kernel
DIVISION = _Division()


def audit(
    kernel: Kernel,
    *,
    progress: Progress | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> MemmapReport:
    """
    Audit the whole memory map.

    On a live kernel a pass counts only if no device came or went meanwhile, and a
    violation only if it lasts.

    :param progress: called with the pages found mapped, and how many there should be
    :param sleep: waits that many seconds between passes
    :raises VmemscopeError: if types are missing, or the kernel can't be audited
    """
    return confirmed(kernel, partial(once, progress=progress), DIVISION, sleep)


def once(kernel: Kernel, *, progress: Progress | None = None) -> MemmapReport:
    """Audit the memory map in one pass; parameters and errors are those of :func:`audit`."""
    kernel.require()
    facts = MemmapFacts(kernel)
    with phase(kernel.timings, "read"):
        facts.read()
    with phase(kernel.timings, "walk"):
        facts.walk(progress)
    with phase(kernel.timings, "sum"):
        report = summarise(facts)
    return report.timed(kernel.timings)
