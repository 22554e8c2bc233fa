# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Look at a target, and on a live one confirm what was found by looking again.

A running kernel changes under the audit: a device may come or go between the
page tables and the reference counts. So a look counts for a pagemap only if the
kernel neither was setting it up or tearing it down nor had done so by the end,
and a violation only if it is in two looks that count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from msgspec.structs import replace

from .arch import architecture_of
from .audits.pagemaps import Contents, audit
from .audits.pagemaps.needs import NEEDS
from .errors import TargetError
from .kernel.dev_pagemap import read_pagemaps
from .kernel.resource import read_resources
from .report.documents.pgmap import FrameCounts, PagemapReport, Report
from .rules.findings import Finding, Outcome, RuleOutcome, left_of
from .rules.rule import Severity
from .timing import phase
from .types import attach_types, check_needs, sensible_types
from .vmemmap.memory import PhysicalMemory
from .vmemmap.tables import Kind, translate

if TYPE_CHECKING:
    import os

    from .audits.pagemaps import Progress
    from .target import Target

__all__ = ("Look", "confirmed_audit", "is_certain", "look", "merged")

#: seconds between two looks: onlining or removing a device takes less per section
_PAUSE = 0.2
#: looks until what still changes is reported as changing
_MAX_LOOKS = 5


@sensible_types()
def look(
    target: Target,
    types: str = "auto",
    symbols: Sequence[str | os.PathLike[str]] = (),
    *,
    system_map: str | os.PathLike[str] | None = None,
    timings: dict[str, float] | None = None,
    progress: Progress | None = None,
    contents: Contents | str = Contents.SAMPLE,
) -> Report:
    """
    Attach types to a target that was just opened, and audit it.

    :param types: ``auto``, ``btf`` or ``dwarf``
    :param symbols: files with debug symbols
    :param system_map: ``System.map`` of the kernel, for those before Linux 6.0
    :param timings: seconds per phase, added to
    :param progress: told how much of the vmemmap has been walked and read
    :param contents: how many ``struct page``s are looked into: ``all``, a ``sample`` of
        each range's, or ``none``
    :raises VmemscopeError: if types are missing, or the target can't be looked at
    """
    contents = Contents(contents)
    timings = {} if timings is None else timings
    with phase(timings, "types"):
        source = attach_types(target.prog, types, symbols, system_map=system_map)
        check_needs(target.prog, NEEDS)
    return confirmed_audit(target, str(source), timings, progress=progress, contents=contents)


def confirmed_audit(
    target: Target,
    types: str,
    timings: dict[str, float],
    *,
    progress: Progress | None = None,
    contents: Contents = Contents.SAMPLE,
    sleep: Callable[[float], None] = time.sleep,
) -> Report:
    """
    Audit a target; on a live one, look again until what is found is certain.

    :param types: where types come from, ``btf`` or ``dwarf``
    :param timings: seconds per phase, added to
    :param progress: told how much of the vmemmap has been walked and read
    :param contents: how many ``struct page``s are looked into
    :param sleep: waits that many seconds between looks
    :raises VmemscopeError: if the target can't be looked at
    """
    if not target.live:
        return _stopped(audit(target, types, timings, progress, contents))
    from drgn import FaultError

    looks: list[Look] = []
    failure: Exception | None = None
    for number in range(_MAX_LOOKS):
        if number:
            sleep(_PAUSE)
        try:
            looks.append(_look(target, types, timings, progress, contents))
        except (FaultError, OSError) as e:
            failure = e
            continue
        if is_certain(looks):
            break
    if not looks:
        raise TargetError(f"the kernel could not be read in {_MAX_LOOKS} attempts: {failure}")
    return merged(looks)


def _stopped(report: Report) -> Report:
    """Tell nothing of a pagemap that looks wrong because the kernel stopped while changing it."""
    changing = [one for one in report.pagemaps if one.findings and _half_done(one)]
    if not changing:
        return report
    pagemaps = tuple(
        _not_told(one, _STOPPED) if one in changing else one for one in report.pagemaps
    )
    return _with_changing(report, changing, pagemaps=pagemaps)


def _half_done(one: PagemapReport) -> bool:
    """
    Tell whether a pagemap is partly there.

    ``mm/memremap.c: memunmap_pages()`` kills the ``percpu_ref`` and then waits for
    all references to go, with everything as it was, for as long as it takes.
    ``pageunmap_range()`` comes after that.
    """
    begun = one.vmemmap.unmapped > 0 or any(
        finding.rule in ("xarray", "subsection-map") for finding in one.findings
    )
    pagemap = one.detail.pagemap
    return pagemap.changing and (pagemap.nr_range == 0 or begun)


class Look(NamedTuple):
    """One audit of a live target."""

    report: Report
    #: addresses of the pagemaps that were the same at its end as at its start
    steady: frozenset[int]


def _look(
    target: Target,
    types: str,
    timings: dict[str, float],
    progress: Progress | None,
    contents: Contents,
) -> Look:
    report = audit(target, types, timings, progress, contents)
    now = {pagemap.address: pagemap for pagemap in read_pagemaps(target.prog)[0]}
    steady = [
        one
        for one in report.pagemaps
        if not one.detail.pagemap.changing and now.get(one.address) == one.detail.pagemap
    ]
    moved = _moved(target, [one for one in steady if one.findings])
    return Look(report, frozenset(one.address for one in steady) - moved)


def _moved(target: Target, pagemaps: Sequence[PagemapReport]) -> set[int]:
    """
    Find the pagemaps whose first pages of vmemmap no longer have the frames that were seen.

    A device that went and came back has its structures at the same addresses,
    more often than not, but not the same frames from the page allocator.
    """
    if not pagemaps:
        return set()
    table = architecture_of(target.prog.platform).page_table(target.vmcoreinfo)
    resources, _ = read_resources(target.prog)
    ram = [(one.start, one.end) for one in resources if one.is_system_ram]
    memory = PhysicalMemory(target.prog, table.page_size, ram)
    moved = set()
    for one in pagemaps:
        addresses = np.array([span.address for span in one.detail.first], dtype=np.uint64)
        pfns, kinds = translate(memory, table, addresses)
        now = [
            pfn if kind == Kind.MAPPED else None
            for pfn, kind in zip(pfns.tolist(), kinds.tolist(), strict=True)
        ]
        if now != [span.pfn for span in one.detail.first]:
            moved.add(one.address)
    return moved


def is_certain(looks: Sequence[Look]) -> bool:
    """Tell whether looks suffice: all is steady, and what is wrong was so in two of them."""
    last = looks[-1]
    if any(one.address not in last.steady for one in last.report.pagemaps):
        return False
    if _violations(last.report.findings) and len(looks) < 2:
        return False
    return all(
        sum(one.address in look.steady for look in looks) > 1
        for one in last.report.pagemaps
        if _violations(one.findings)
    )


def merged(looks: Sequence[Look]) -> Report:
    """
    Take the last look, with the violations that all looks have.

    Of a pagemap that was never steady for long enough, nothing is told but that.
    """
    last = looks[-1]
    pagemaps = []
    changed = []
    for one in last.report.pagemaps:
        others = [_of(one.address, look) for look in looks[:-1] if one.address in look.steady]
        if one.address not in last.steady or (_violations(one.findings) and not others):
            pagemaps.append(_not_told(one, _CHANGING))
            changed.append(one)
        else:
            left = _in_all(one.findings, others)
            outcomes = left_of(one.outcomes, one.findings, left, _PASSING)
            pagemaps.append(replace(one, findings=left, outcomes=outcomes))
    loose = _in_all(last.report.findings, [look.report.findings for look in looks[:-1]])
    return _with_changing(
        last.report,
        changed,
        pagemaps=tuple(pagemaps),
        findings=loose,
        outcomes=left_of(last.report.outcomes, last.report.findings, loose, _PASSING),
    )


def _violations(findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity is not Severity.NOTE]


def _of(address: int, look: Look) -> tuple[Finding, ...]:
    return next(one.findings for one in look.report.pagemaps if one.address == address)


def _in_all(
    findings: tuple[Finding, ...], others: Sequence[tuple[Finding, ...]]
) -> tuple[Finding, ...]:
    known = [{(f.rule, f.vaddr, f.pfn) for f in other} for other in others]
    return tuple(
        f
        for f in findings
        if f.severity is Severity.NOTE or all((f.rule, f.vaddr, f.pfn) in one for one in known)
    )


_CHANGING = "it was being set up or torn down while it was looked at"
_STOPPED = "it was being set up or torn down when the kernel stopped"
_PASSING = "it was otherwise from one look to the next"


def _not_told(one: PagemapReport, reason: str) -> PagemapReport:
    """Leave out of a pagemap's report what may be half of one state and half of another."""
    return replace(
        one,
        vmemmap=replace(
            one.vmemmap, mapped=0, unmapped=0, unreadable=one.vmemmap.pages, leaf_sizes={}
        ),
        frames=FrameCounts(0, None, {}),
        saved_bytes=0,
        state="unreadable",
        reason=reason,
        findings=(),
        outcomes=tuple(
            RuleOutcome(outcome.rule, Outcome.SKIPPED, reason) for outcome in one.outcomes
        ),
        detail=replace(one.detail, savable_bytes=0, not_read=(reason,), first=()),
    )


def _with_changing(report: Report, changing: Sequence[PagemapReport], **changes: Any) -> Report:
    """Return a report with other fields, which says which pagemaps were changing."""
    not_read = ""
    if changing:
        names = ", ".join(one.label for one in changing)
        not_read = f"pagemaps being set up or torn down: {len(changing)} ({names})"
    return report.changed(not_read=(not_read,) if changing else (), **changes)
