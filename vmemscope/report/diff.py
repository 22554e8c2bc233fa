# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What changed from one look to another, and what of it is worse.

Two looks may be at one boot of a kernel, at two boots or at two machines.
Addresses of structures and of the vmemmap, and the frames behind it, then
differ for no reason, so nothing is compared by them: pagemaps are known by their
name and ranges, findings by their rule and their place within the pagemap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..rules.findings import Finding, Outcome
from ..rules.rule import Severity
from .snapshot import PagemapState

if TYPE_CHECKING:
    from .snapshot import Snapshot

__all__ = ("Change", "Diff", "FindingsDiff", "PagemapDiff", "compare")

#: states from best to worst; a pagemap that can't be read may be in any
_STATES = ("deduplicated", "partial", "not-optimized", "unreadable")

#: what is compared of a pagemap, by the name that it has in the document
_FIELDS: dict[str, Callable[[PagemapState], str | int | None]] = {
    "name": lambda one: one.name,
    "type": lambda one: one.type,
    "vmemmap_shift": lambda one: one.vmemmap_shift,
    "ranges": lambda one: ", ".join(f"{start:#x}-{end:#x}" for start, end in one.ranges),
    "state": lambda one: one.state,
    "mapped": lambda one: one.mapped,
    "unmapped": lambda one: one.unmapped,
    "unreadable": lambda one: one.unreadable,
    "frames": lambda one: one.frames,
    "saved_bytes": lambda one: one.saved_bytes,
}

#: what is compared of all pagemaps together
_TOTALS: dict[str, Callable[[Snapshot], int]] = {
    "pagemaps": lambda one: len(one.pagemaps),
    "frames": lambda one: sum(p.frames for p in one.pagemaps),
    "saved_bytes": lambda one: sum(p.saved_bytes for p in one.pagemaps),
    "errors": lambda one: _count(one, Severity.ERROR),
    "warnings": lambda one: _count(one, Severity.WARNING),
    "notes": lambda one: _count(one, Severity.NOTE),
}


@dataclass(frozen=True)
class Change:
    """A value that is another than it was."""

    field: str
    before: str | int | None
    after: str | int | None
    #: whether the change is for the worse
    worse: bool = False


@dataclass(frozen=True)
class FindingsDiff:
    """Findings that there are and were not, and that there were and are not."""

    new: tuple[Finding, ...] = ()
    gone: tuple[Finding, ...] = ()
    #: rule -> violations, where there are more or fewer than are told one by one
    violations: tuple[Change, ...] = ()
    #: rules that did not hold and now are not evaluated, each with the reason: what
    #: is gone of them may only not be seen
    skipped: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.new or self.gone or self.violations or self.skipped)


@dataclass(frozen=True)
class PagemapDiff:
    """A pagemap in two looks."""

    before: PagemapState
    after: PagemapState
    changes: tuple[Change, ...]
    findings: FindingsDiff

    def __bool__(self) -> bool:
        return bool(self.changes or self.findings)


@dataclass(frozen=True)
class Diff:
    """All that changed."""

    before: Snapshot
    after: Snapshot
    #: pagemaps that there are and were not, and that there were and are not
    came: tuple[PagemapState, ...]
    gone: tuple[PagemapState, ...]
    #: those in both looks of which something changed
    changed: tuple[PagemapDiff, ...]
    #: findings of no single pagemap
    findings: FindingsDiff
    #: what could not be read now and could before, in words
    unread: tuple[str, ...]
    totals: tuple[Change, ...]
    #: what got worse, in words; nothing if nothing did
    worse: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.came or self.gone or self.changed or self.findings or self.unread)


def compare(before: Snapshot, after: Snapshot) -> Diff:
    """
    Compare two looks.

    A pagemap in both is one with the same name and ranges; of the rest, one at
    the same address that has the name or part of the ranges in common.
    """
    pairs, gone, came = _matched(before.pagemaps, after.pagemaps)
    diffs = [_compare_pagemaps(old, new) for old, new in pairs]
    changed = tuple(diff for diff in diffs if diff)
    findings = _compare_findings(before, after)
    # How many of each may differ from look to look.
    known = {what.rpartition(": ")[0] for what in before.not_read}
    unread = tuple(what for what in after.not_read if what.rpartition(": ")[0] not in known)
    totals = tuple(Change(name, get(before), get(after)) for name, get in _TOTALS.items())
    worse = list(_worse_findings("target", findings))
    for diff in changed:
        worse += _worse_pagemap(diff)
    for one in came:
        worse += _worse_findings(one.label, FindingsDiff(new=one.findings))
    if after.not_read and not before.not_read:
        worse.append("something could not be read, and all could before")
    return Diff(
        before, after, tuple(came), tuple(gone), changed, findings, unread, totals, tuple(worse)
    )


def _count(snapshot: Snapshot, severity: Severity) -> int:
    groups = (snapshot.findings, *(one.findings for one in snapshot.pagemaps))
    return sum(finding.severity is severity for group in groups for finding in group)


def _matched(
    before: Sequence[PagemapState], after: Sequence[PagemapState]
) -> tuple[list[tuple[PagemapState, PagemapState]], list[PagemapState], list[PagemapState]]:
    """
    Find the pagemaps that are in both looks.

    :return: those, each before and after; what is left of both
    """
    pairs, gone, came = _paired(before, after, lambda one: (one.name, one.ranges))
    at_address, gone, came = _paired(gone, came, lambda one: one.address)
    for old, new in at_address:
        # An address is soon used again, for something else.
        if old.name == new.name is not None or _overlap(old, new):
            pairs.append((old, new))
        else:
            gone.append(old)
            came.append(new)
    order = {id(one): i for group in (before, after) for i, one in enumerate(group)}
    pairs.sort(key=lambda pair: order[id(pair[1])])
    return pairs, sorted(gone, key=lambda p: order[id(p)]), sorted(came, key=lambda p: order[id(p)])


def _paired(
    before: Sequence[PagemapState],
    after: Sequence[PagemapState],
    key: Callable[[PagemapState], object],
) -> tuple[list[tuple[PagemapState, PagemapState]], list[PagemapState], list[PagemapState]]:
    waiting: dict[object, list[PagemapState]] = {}
    for one in after:
        waiting.setdefault(key(one), []).append(one)
    pairs, gone = [], []
    for one in before:
        several = waiting.get(key(one))
        if several:
            # In order: nothing else tells those of one key apart.
            pairs.append((one, several.pop(0)))
        else:
            gone.append(one)
    left = {id(one) for several in waiting.values() for one in several}
    return pairs, gone, [one for one in after if id(one) in left]


def _overlap(old: PagemapState, new: PagemapState) -> bool:
    return any(
        start <= last and first <= end for start, end in old.ranges for first, last in new.ranges
    )


def _compare_pagemaps(old: PagemapState, new: PagemapState) -> PagemapDiff:
    changes = []
    for field, get in _FIELDS.items():
        before, after = get(old), get(new)
        if before != after:
            changes.append(Change(field, before, after, _is_worse(field, old, new)))
    return PagemapDiff(old, new, tuple(changes), _compare_findings(old, new))


def _is_worse(field: str, old: PagemapState, new: PagemapState) -> bool:
    if field == "state":
        return _STATES.index(new.state) > _STATES.index(old.state)
    if field == "saved_bytes":
        # Of less memory less can be saved.
        return new.saved_bytes < old.saved_bytes and new.ranges == old.ranges
    return field == "unreadable" and new.unreadable > old.unreadable


def _compare_findings(old: PagemapState | Snapshot, new: PagemapState | Snapshot) -> FindingsDiff:
    appeared = _without(new, Counter(_key(one, old) for one in old.findings))
    gone = _without(old, Counter(_key(one, new) for one in new.findings))
    before = {one.rule: one for one in old.outcomes}
    told = Counter(one.rule for one in appeared)
    told.subtract(one.rule for one in gone)
    violations, skipped = [], []
    for now in new.outcomes:
        was = before.get(now.rule)
        if was is None:
            continue
        if was.outcome is Outcome.FAILED and now.outcome is Outcome.SKIPPED:
            skipped.append((now.rule, now.reason or "for no reason that it gives"))
        elif now.violations - was.violations != told[now.rule]:
            errors = any(
                one.rule == now.rule and one.severity is Severity.ERROR for one in new.findings
            )
            worse = errors and now.violations > was.violations
            violations.append(Change(now.rule, was.violations, now.violations, worse))
    return FindingsDiff(appeared, gone, tuple(violations), tuple(skipped))


def _without(
    owner: PagemapState | Snapshot, others: Counter[tuple[str, Severity, str, int]]
) -> tuple[Finding, ...]:
    """Get the findings that are not among others; of several alike the last ones."""
    left = []
    for finding in owner.findings:
        key = _key(finding, owner)
        if others[key]:
            others[key] -= 1
        else:
            left.append(finding)
    return tuple(left)


def _key(finding: Finding, owner: PagemapState | Snapshot) -> tuple[str, Severity, str, int]:
    """
    Get what a finding is known by from one look to another.

    The messages, and what was expected and observed, may hold frames, which
    are others after a boot.
    """
    place, offset = "elsewhere", 0
    if finding.vaddr is not None and isinstance(owner, PagemapState):
        if owner.start <= finding.vaddr < owner.end:
            place, offset = "vmemmap", finding.vaddr - owner.start
        elif finding.vaddr == owner.address:
            place = "pagemap"
    return finding.rule, finding.severity, place, offset


def _worse_pagemap(diff: PagemapDiff) -> Iterator[str]:
    for change in diff.changes:
        if change.worse:
            yield f"{diff.after.label}: {change.field} from {change.before} to {change.after}"
    yield from _worse_findings(diff.after.label, diff.findings)


def _worse_findings(label: str, diff: FindingsDiff) -> Iterator[str]:
    errors = Counter(one.rule for one in diff.new if one.severity is Severity.ERROR)
    for rule, number in errors.items():
        yield f"{label}: {number} new {'error' if number == 1 else 'errors'} of {rule}"
    for change in diff.violations:
        if change.worse:
            yield f"{label}: violations of {change.field} from {change.before} to {change.after}"
