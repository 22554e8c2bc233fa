# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The changes between two reports, and which of them are worse.

Two reports may be of one boot of a kernel, of two boots or of two machines. Addresses of
structures and of the vmemmap, and its backing frames, then differ, so they are not
compared: pagemaps are matched by name and ranges, findings by rule and place within the
pagemap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import get_args

from ..rules.findings import Finding, Outcome
from ..rules.rule import Severity
from ..text import binary_size, count
from .documents.common import PagemapName
from .documents.diff import (
    Change,
    Diff,
    FindingsDiff,
    NotEvaluated,
    PagemapBrief,
    PagemapDiff,
    PagemapsDiff,
    Source,
)
from .documents.pgmap import PagemapReport, Report, State

__all__ = ("compare", "values_of", "words_of")

#: from best to worst
_STATES = get_args(State)

#: names of fields in sentences, where they are not those of the document
_WORDS = {
    "mapped": "mapped pages",
    "unmapped": "unmapped pages",
    "unreadable": "unreadable pages",
    "saved_bytes": "saved memory",
}

#: what is compared of a pagemap, by the name that it has in the document
_FIELDS: dict[str, Callable[[PagemapReport], str | int | None]] = {
    "name": lambda one: one.name,
    "type": lambda one: one.type,
    "vmemmap_shift": lambda one: one.vmemmap_shift,
    "ranges": lambda one: ", ".join(f"{r.start:#x}-{r.end:#x}" for r in one.ranges),
    "state": lambda one: one.state,
    "mapped": lambda one: one.vmemmap.mapped,
    "unmapped": lambda one: one.vmemmap.unmapped,
    "unreadable": lambda one: one.vmemmap.unreadable,
    "frames": lambda one: one.frames.backing,
    "saved_bytes": lambda one: one.saved_bytes,
}

#: what is compared of all pagemaps together
_TOTALS: dict[str, Callable[[Report], int]] = {
    "pagemaps": lambda one: len(one.pagemaps),
    "frames": lambda one: sum(p.frames.backing for p in one.pagemaps),
    "saved_bytes": lambda one: sum(p.saved_bytes for p in one.pagemaps),
    "errors": lambda one: _count(one, Severity.ERROR),
    "warnings": lambda one: _count(one, Severity.WARNING),
    "notes": lambda one: _count(one, Severity.NOTE),
}


def compare(before: Report, after: Report, sources: Sequence[str] | None = None) -> Diff:
    """
    Return the changes between two reports.

    Two pagemaps match if they have the same name and ranges; of the rest, if they have the
    same address, and the name or part of the ranges in common.

    :param sources: the user's names of the two, the paths of the targets by default
    """
    if sources is None:
        sources = before.target.path, after.target.path
    pairs, gone, came = _matched(before.pagemaps, after.pagemaps)
    diffs = [_compare_pagemaps(old, new) for old, new in pairs]
    changed = tuple(diff for diff in diffs if diff)
    findings = _compare_findings(before, after)
    # The number at the end may differ between reports of one target.
    known = {what.rpartition(": ")[0] for what in before.not_read}
    unread = tuple(what for what in after.not_read if what.rpartition(": ")[0] not in known)
    totals = tuple(Change(name, get(before), get(after)) for name, get in _TOTALS.items())
    worse = list(_worse_findings("target", findings))
    for diff in changed:
        worse += _worse_pagemap(diff)
    for one in came:
        worse += _worse_findings(one.label, FindingsDiff(new=one.findings))
    if after.not_read and not before.not_read:
        worse.append("part of the target could not be read, and before all of it could")
    return Diff(
        before=Source.of(before.target, source=sources[0]),
        after=Source.of(after.target, source=sources[1]),
        worse=tuple(worse),
        pagemaps=PagemapsDiff(_briefs(came), _briefs(gone), changed),
        findings=findings,
        not_read=unread,
        totals=totals,
    )


def words_of(change: Change) -> str:
    """Return the name of a changed field, for sentences."""
    return _WORDS.get(change.field, change.field)


def values_of(change: Change) -> tuple[str, str]:
    """
    Return a changed value before and after, for sentences.

    Bytes are rounded, unless the two then look equal: 6144 KiB and 6140 KiB, not 6 and 6.0 MiB.
    """
    values = change.before, change.after
    if change.field.endswith("_bytes"):
        sizes = [value for value in values if isinstance(value, int)]
        shown = [binary_size(size) for size in sizes]
        if len({text.replace(".0 ", " ") for text in shown}) < len(set(sizes)):
            unit, name = (1, "bytes") if any(size % 1024 for size in sizes) else (1024, "KiB")
            shown = [f"{size // unit} {name}" for size in sizes]
        return shown[0], shown[1]
    before, after = ("none" if value is None else str(value) for value in values)
    return before, after


def _briefs(pagemaps: Sequence[PagemapReport]) -> tuple[PagemapBrief, ...]:
    return tuple(PagemapBrief.of(one, frames=one.frames.backing) for one in pagemaps)


def _count(report: Report, severity: Severity) -> int:
    return sum(finding.severity is severity for finding in report.every_finding())


def _matched(
    before: Sequence[PagemapReport], after: Sequence[PagemapReport]
) -> tuple[list[tuple[PagemapReport, PagemapReport]], list[PagemapReport], list[PagemapReport]]:
    """
    Match the pagemaps of two reports.

    :return: pairs of before and after; those only before; those only after
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
    before: Sequence[PagemapReport],
    after: Sequence[PagemapReport],
    key: Callable[[PagemapReport], object],
) -> tuple[list[tuple[PagemapReport, PagemapReport]], list[PagemapReport], list[PagemapReport]]:
    waiting: dict[object, list[PagemapReport]] = {}
    for one in after:
        waiting.setdefault(key(one), []).append(one)
    pairs, gone = [], []
    for one in before:
        several = waiting.get(key(one))
        if several:
            # In order: nothing else distinguishes those of one key.
            pairs.append((one, several.pop(0)))
        else:
            gone.append(one)
    left = {id(one) for several in waiting.values() for one in several}
    return pairs, gone, [one for one in after if id(one) in left]


def _overlap(old: PagemapReport, new: PagemapReport) -> bool:
    return any(
        one.start <= other.end and other.start <= one.end
        for one in old.ranges
        for other in new.ranges
    )


def _compare_pagemaps(old: PagemapReport, new: PagemapReport) -> PagemapDiff:
    changes = []
    for field, get in _FIELDS.items():
        before, after = get(old), get(new)
        if before != after:
            changes.append(Change(field, before, after, _is_worse(field, old, new)))
    return PagemapDiff(
        before=PagemapName.of(old),
        after=PagemapName.of(new),
        changes=tuple(changes),
        findings=_compare_findings(old, new),
        reason=new.reason,
    )


def _is_worse(field: str, old: PagemapReport, new: PagemapReport) -> bool:
    if field == "state":
        return _STATES.index(new.state) > _STATES.index(old.state)
    if field == "saved_bytes":
        # Of less memory less can be saved.
        return new.saved_bytes < old.saved_bytes and new.ranges == old.ranges
    return field == "unreadable" and new.vmemmap.unreadable > old.vmemmap.unreadable


def _compare_findings(old: PagemapReport | Report, new: PagemapReport | Report) -> FindingsDiff:
    appeared = _without(new, Counter(_key(one, old) for one in old.findings))
    gone = _without(old, Counter(_key(one, new) for one in new.findings))
    before = {one.rule: one for one in old.outcomes}
    reported = Counter(one.rule for one in appeared)
    reported.subtract(one.rule for one in gone)
    violations, skipped = [], []
    for now in new.outcomes:
        was = before.get(now.rule)
        if was is None:
            continue
        if was.outcome is Outcome.FAILED and now.outcome is Outcome.SKIPPED:
            reason = now.reason or "for no reason that it gives"
            skipped.append(NotEvaluated(now.rule, reason))
        elif now.violations - was.violations != reported[now.rule]:
            errors = any(
                one.rule == now.rule and one.severity is Severity.ERROR for one in new.findings
            )
            worse = errors and now.violations > was.violations
            violations.append(Change(now.rule, was.violations, now.violations, worse))
    return FindingsDiff(appeared, gone, tuple(violations), tuple(skipped))


def _without(
    owner: PagemapReport | Report, others: Counter[tuple[str, Severity, str, int]]
) -> tuple[Finding, ...]:
    """Return the findings that are not among others; of equal ones the last."""
    left = []
    for finding in owner.findings:
        key = _key(finding, owner)
        if others[key]:
            others[key] -= 1
        else:
            left.append(finding)
    return tuple(left)


def _key(finding: Finding, owner: PagemapReport | Report) -> tuple[str, Severity, str, int]:
    """
    Return the key of a finding that two reports share.

    Messages, expected and observed values may hold frames, which differ after a boot.
    """
    place, offset = "elsewhere", 0
    if finding.vaddr is not None and isinstance(owner, PagemapReport):
        start, end = owner.vmemmap.start, owner.vmemmap.end
        if start is not None and end is not None and start <= finding.vaddr < end:
            place, offset = "vmemmap", finding.vaddr - start
        elif finding.vaddr == owner.address:
            place = "pagemap"
    return finding.rule, finding.severity, place, offset


def _worse_pagemap(diff: PagemapDiff) -> Iterator[str]:
    for change in diff.changes:
        if change.worse:
            before, after = values_of(change)
            yield f"{diff.after.label}: {words_of(change)} from {before} to {after}"
    yield from _worse_findings(diff.after.label, diff.findings)


def _worse_findings(label: str, diff: FindingsDiff) -> Iterator[str]:
    errors = Counter(one.rule for one in diff.new if one.severity is Severity.ERROR)
    for rule, number in errors.items():
        yield f"{label}: {count(number, 'new error')} of rule {rule}"
    for change in diff.violations:
        if change.worse:
            before, after = values_of(change)
            yield f"{label}: violations of rule {change.field} from {before} to {after}"
