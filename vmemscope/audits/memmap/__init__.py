# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Where all the memory map's memory goes.

Reads sections, zones and pagemaps, walks all of the vmemmap once and holds it
against the rules about sections (:mod:`.gather`; :mod:`.areas` cuts the vmemmap
into what it describes, :mod:`.tally` counts what is mapped), and sums it up next
to the kernel's own counters (:mod:`.summary`, :mod:`.counters`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from drgn import FaultError

from ...arch import architecture_of
from ...errors import TargetError
from ...kernel.dev_pagemap import read_pagemaps
from ...kernel.mem_section import read_sections
from ...rules.findings import left_of
from ...rules.rule import Severity
from ...timing import phase
from ...types import attach_types, check_needs, sensible_types
from .gather import Gathered
from .needs import NEEDS
from .summary import summarise

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from ...report.documents.memmap import MemmapReport
    from ...rules.findings import Finding
    from ...target import Target
    from ..pagemaps import Progress

__all__ = ("confirmed", "look", "memmap")

#: seconds between two looks at a live target: onlining or removing a device takes
#: less per section
_PAUSE = 0.2
#: looks until what still changes is reported as changing
_MAX_LOOKS = 5

_CHANGING = "devices came or went while the memory map was looked at"
_STOPPED = "a device was being set up or torn down when the kernel stopped"
_PASSING = "it was otherwise from one look to the next"


@sensible_types()
def look(
    target: Target,
    types: str = "auto",
    symbols: Sequence[str | os.PathLike[str]] = (),
    *,
    system_map: str | os.PathLike[str] | None = None,
    timings: dict[str, float] | None = None,
    progress: Progress | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> MemmapReport:
    """
    Attach types to a target that was just opened, and look at its memory map.

    On a live target a look counts only if no device came or went meanwhile, and a
    violation only if it is in two that count.

    :param types: ``auto``, ``btf`` or ``dwarf``
    :param symbols: files with debug symbols
    :param system_map: file with symbols, where the kernel does not say where its own are
    :param timings: seconds per phase, added to
    :param progress: told how many pages have been found mapped, and how many there should be
    :raises VmemscopeError: if types are missing, or the target can't be looked at
    """
    timings = {} if timings is None else timings
    with phase(timings, "types"):
        source = str(attach_types(target.prog, types, symbols, system_map=system_map))
        check_needs(target.prog, NEEDS)
    if not target.live:
        report = memmap(target, source, timings, progress)
        if _violations(report) and _devices(target) is None:
            return _unsettled(report, _STOPPED)
        return report
    counting: list[MemmapReport] = []
    other: MemmapReport | None = None
    for number in range(_MAX_LOOKS):
        if number:
            sleep(_PAUSE)
        try:
            before = _devices(target)
            report = memmap(target, source, timings, progress)
            steady = before is not None and before == _devices(target)
        except (FaultError, OSError):
            # Tables and structures were freed under it.
            continue
        if not steady:
            other = report
            continue
        counting.append(report)
        if not _violations(report):
            return report
        if len(counting) > 1:
            return confirmed(*counting)
    last = counting[-1] if counting else other
    if last is None:
        raise TargetError(f"the memory map did not hold still in {_MAX_LOOKS} attempts to read it")
    return _unsettled(last, _CHANGING)


def _devices(target: Target) -> object:
    """Get what changes when a device comes or goes; ``None`` while one does."""
    pagemaps, _ = read_pagemaps(target.prog)
    if any(one.changing for one in pagemaps):
        return None
    arch = architecture_of(target.prog.platform)
    page_size = arch.page_table(target.vmcoreinfo).page_size
    sections = read_sections(target.prog, target.vmcoreinfo, page_size, arch.kernel_space)
    return pagemaps, sections.number.tobytes(), sections.raw.tobytes(), sections.usage.tobytes()


def _violations(report: MemmapReport) -> bool:
    return any(one.severity is not Severity.NOTE for one in report.findings)


def _unsettled(report: MemmapReport, reason: str) -> MemmapReport:
    """Leave out of a report what may be half of one state and half of another."""
    notes = tuple(one for one in report.findings if one.severity is Severity.NOTE)
    return _with_findings(report, notes, _CHANGING).changed(not_read=(_CHANGING,))


def _with_findings(
    report: MemmapReport, findings: tuple[Finding, ...], reason: str
) -> MemmapReport:
    """Leave some findings out, with the reason why their rules are to be taken for skipped."""
    return report.changed(
        findings=findings,
        outcomes=left_of(report.outcomes, report.findings, findings, reason),
    )


def confirmed(earlier: MemmapReport, later: MemmapReport) -> MemmapReport:
    """Take the later report, without the violations that the earlier one does not have."""
    known = {(one.rule, one.vaddr, one.pfn) for one in earlier.findings}
    return _with_findings(
        later,
        tuple(
            one
            for one in later.findings
            if one.severity is Severity.NOTE or (one.rule, one.vaddr, one.pfn) in known
        ),
        _PASSING,
    )


def memmap(
    target: Target,
    types: str,
    timings: dict[str, float] | None = None,
    progress: Progress | None = None,
) -> MemmapReport:
    """
    Look at the memory map of a target, once.

    :param target: an opened target with types attached
    :param types: where they come from, ``btf`` or ``dwarf``
    :param timings: seconds per phase, added to
    :param progress: told how many pages have been found mapped, and how many there should be
    :raises VmemscopeError: if the target can't be looked at
    """
    timings = {} if timings is None else timings
    gathered = Gathered(target)
    with phase(timings, "read"):
        gathered.read()
    with phase(timings, "walk"):
        gathered.walk(progress)
    with phase(timings, "sum"):
        report = summarise(gathered, types)
    return report.timed(timings)
