# SPDX-License-Identifier: LGPL-2.1-or-later
"""
HugeTLB's vmemmap optimization (HVO): is it really so, and what does it save?

Reads the lists of folios, walks all of the vmemmap once (:mod:`.survey`), holds
what folios say of themselves against how they are mapped (:mod:`.gather`), and
sums it up (:mod:`.summary`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ...rules.findings import Finding, Outcome, RuleOutcome
from ...rules.rule import Severity
from ...timing import phase
from ...types import attach_types, check_needs, sensible_types
from .gather import Gathered
from .needs import HUGETLB, NEEDS
from .summary import summarise

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from ...report.documents.hugetlb import HugetlbReport
    from ...target import Target
    from ..pagemaps import Progress

__all__ = ("confirmed", "hugetlb", "look")

#: seconds between two looks at a live target: to allocate or free a folio takes less
_PAUSE = 0.2


@sensible_types()
def look(
    target: Target,
    types: str = "auto",
    symbols: Sequence[str | os.PathLike[str]] = (),
    *,
    system_map: str | os.PathLike[str] | None = None,
    folios: bool = False,
    timings: dict[str, float] | None = None,
    progress: Progress | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> HugetlbReport:
    """
    Attach types to a target that was just opened, and look at HugeTLB.

    On a live target a violation counts only if it is in two looks.

    :param types: ``auto``, ``btf`` or ``dwarf``
    :param symbols: files with debug symbols
    :param system_map: ``System.map`` of the kernel, for those before Linux 6.0
    :param folios: list each folio, too
    :param timings: seconds per phase, added to
    :param progress: told how many pages have been walked, and of how many
    :raises VmemscopeError: if types are missing, or the target can't be looked at
    """
    timings = {} if timings is None else timings
    with phase(timings, "types"):
        source = str(attach_types(target.prog, types, symbols, system_map=system_map))
        absent = check_needs(target.prog, NEEDS)
        if not any(need.name == "hstates" for need in absent):
            check_needs(target.prog, HUGETLB)
    report = hugetlb(target, source, folios, timings, progress)
    if not target.live or all(one.severity is Severity.NOTE for one in report.findings):
        return report
    sleep(_PAUSE)
    return confirmed(report, hugetlb(target, source, folios, timings, progress))


def confirmed(earlier: HugetlbReport, later: HugetlbReport) -> HugetlbReport:
    """Take the later report, without the violations that the earlier one does not have."""
    known = {_key(one) for one in earlier.findings}
    findings = tuple(
        one for one in later.findings if one.severity is Severity.NOTE or _key(one) in known
    )
    left = {one.rule for one in findings}
    return later.changed(
        findings=findings,
        outcomes=tuple(
            one
            if one.rule in left or one.outcome is not Outcome.FAILED
            else RuleOutcome(one.rule, Outcome.CHECKED, "what was off changed while it was read")
            for one in later.outcomes
        ),
    )


def _key(one: Finding) -> tuple[object, ...]:
    # What was seen counts too: of a counter that runs ahead of its lists, and by how
    # much differs from look to look, nothing is known.
    return one.rule, one.vaddr, one.pfn, one.expected, one.observed


def hugetlb(
    target: Target,
    types: str,
    folios: bool = False,
    timings: dict[str, float] | None = None,
    progress: Progress | None = None,
) -> HugetlbReport:
    """
    Look at HugeTLB, once.

    :param target: an opened target with types attached
    :param types: where they come from, ``btf`` or ``dwarf``
    :param folios: list each folio, too
    :param timings: seconds per phase, added to
    :param progress: told how many pages have been walked, and of how many
    :raises VmemscopeError: if the target can't be looked at
    """
    timings = {} if timings is None else timings
    gathered = Gathered(target)
    with phase(timings, "read"):
        gathered.read()
    with phase(timings, "walk"):
        gathered.walk(progress)
    with phase(timings, "check"):
        gathered.check()
        report = summarise(gathered, types, folios)
    return report.timed(timings)
