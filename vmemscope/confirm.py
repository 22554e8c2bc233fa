# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Look at a target, and on a live one confirm what was found by looking again.

A running kernel changes under the audit: a device may come or go between the
page tables and the reference counts. What is off in one look and not in the
next was on its way from one sound state to another, and is no finding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from .audit import audit
from .findings import Finding, Severity
from .needs import NEEDS
from .types import attach_types, check_needs

if TYPE_CHECKING:
    import os

    from .audit import Progress
    from .model import Report
    from .target import Target

__all__ = ("confirmed", "confirmed_audit", "look")

#: seconds between two looks: onlining or removing a device takes less per section
_PAUSE = 0.2


def look(
    target: Target,
    types: str = "auto",
    symbols: Sequence[str | os.PathLike[str]] = (),
    *,
    timings: dict[str, float] | None = None,
    progress: Progress | None = None,
) -> Report:
    """
    Attach types to a target that was just opened, and audit it.

    :param types: ``auto``, ``btf`` or ``dwarf``
    :param symbols: files with debug symbols
    :param timings: seconds per phase, added to
    :param progress: told how much of the vmemmap has been walked
    :raises VmemscopeError: if types are missing, or the target can't be looked at
    """
    timings = {} if timings is None else timings
    start = time.perf_counter()
    source = attach_types(target.prog, types, symbols)
    check_needs(target.prog, NEEDS)
    timings["types"] = time.perf_counter() - start
    return confirmed_audit(target, str(source), timings, progress=progress)


def confirmed_audit(
    target: Target,
    types: str,
    timings: dict[str, float],
    *,
    progress: Progress | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Report:
    """
    Audit a target; on a live one, report only violations that are there twice.

    :param types: where types come from, ``btf`` or ``dwarf``
    :param timings: seconds per phase, added to
    :param progress: told how much of the vmemmap has been walked
    :raises VmemscopeError: if the target can't be looked at
    """
    report = audit(target, types, timings, progress)
    if not target.live or not (report.summary.errors or report.summary.warnings):
        return report
    sleep(_PAUSE)
    return confirmed(report, audit(target, types, timings, progress))


def confirmed(earlier: Report, later: Report) -> Report:
    """Take the later report, without the violations that the earlier one does not have."""
    known = {
        (owner.address if owner else None, f.rule, f.vaddr, f.pfn)
        for owner, f in earlier.all_findings()
    }

    def keep(address: int | None, findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
        return tuple(
            f
            for f in findings
            if f.severity is Severity.NOTE or (address, f.rule, f.vaddr, f.pfn) in known
        )

    pagemaps = tuple(
        replace(one, findings=keep(one.address, one.findings)) for one in later.pagemaps
    )
    report = replace(later, pagemaps=pagemaps, findings=keep(None, later.findings))
    severities = [f.severity for _, f in report.all_findings()]
    return replace(
        report,
        summary=replace(
            report.summary,
            errors=severities.count(Severity.ERROR),
            warnings=severities.count(Severity.WARNING),
            notes=severities.count(Severity.NOTE),
        ),
    )
