# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The changes between two reports, and which of them are worse.

Two reports may be of one boot of a kernel, of two boots or of two machines. Addresses of
structures and of the vmemmap, and its backing frames, then differ, so they are not
compared, nor are the names of devices, which are numbered anew: pagemaps are matched by
the memory that they describe, findings by rule and place within the pagemap.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import get_args

from ..rules.findings import Finding, Outcome
from ..rules.rule import Severity
from ..text import binary_size, count
from .documents.common import PagemapName, TargetInfo
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

#: pairs of ranges of which it is found out whether they overlap; no machine has so many
_MAX_COMPARED = 1 << 22

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
    "ranges": lambda one: ", ".join(f"{start:#x}-{end:#x}" for start, end in _ranges(one)),
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
    "frames": lambda one: one.summary.backing_frames,
    "saved_bytes": lambda one: one.summary.saved_bytes,
    "errors": lambda one: _count(one, Severity.ERROR),
    "warnings": lambda one: _count(one, Severity.WARNING),
    "notes": lambda one: _count(one, Severity.NOTE),
}


def compare(before: Report, after: Report, sources: Sequence[str] | None = None) -> Diff:
    """
    Return the changes between two reports.

    Two pagemaps match if they have the same ranges and the same type; of the rest, if they
    have the same ranges, or some memory in common. ``docs/diff.md`` has the whole order.

    :param sources: the user's names of the two, the paths of the targets by default
    """
    if sources is None:
        sources = before.target.path, after.target.path
    pairs, gone, came = _matched(before.pagemaps, after.pagemaps)
    targets = before.target, after.target
    diffs = [_compare_pagemaps(old, new, targets) for old, new in pairs]
    changed = tuple(diff for diff in diffs if diff)
    findings = _compare_findings(before, after, targets)
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
        went=tuple(_went(gone, after)),
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

    What a pagemap is follows from the memory that it describes. Names and addresses may be
    others after each boot, so they only decide where ranges leave it open.

    :return: pairs of before and after; those only before; those only after
    """
    pairs: list[tuple[PagemapReport, PagemapReport]] = []
    gone, came = list(before), list(after)

    def match(key: Callable[[PagemapReport], object]) -> None:
        nonlocal gone, came
        found, gone, came = _paired(gone, came, key)
        pairs.extend(found)

    match(lambda one: (_ranges(one), one.type, one.name) if one.ranges else None)
    match(lambda one: (_ranges(one), one.type) if one.ranges else None)
    match(lambda one: _ranges(one) or None)
    found, gone, came = _overlapping(gone, came)
    pairs += found
    # A driver gets free addresses for private memory, others each time.
    private = "private"
    match(lambda one: (_size(one), one.name) if one.type == private and one.ranges else None)
    match(lambda one: _size(one) if one.type == private and one.ranges else None)
    # Without ranges that could be read on either side.
    for key in (_address_and_name, _name):
        found, left, rest = _paired(gone, came, key)
        for old, new in found:
            if old.ranges and new.ranges:
                left.append(old)
                rest.append(new)
            else:
                pairs.append((old, new))
        gone, came = left, rest
    order = {id(one): i for group in (before, after) for i, one in enumerate(group)}
    pairs.sort(key=lambda pair: order[id(pair[1])])
    return pairs, sorted(gone, key=lambda p: order[id(p)]), sorted(came, key=lambda p: order[id(p)])


def _ranges(one: PagemapReport) -> tuple[tuple[int, int], ...]:
    return tuple(sorted((r.start, r.end) for r in one.ranges))


def _size(one: PagemapReport) -> int:
    return sum(r.end - r.start + 1 for r in one.ranges)


def _address_and_name(one: PagemapReport) -> object:
    return one.address, one.name


def _name(one: PagemapReport) -> object:
    return one.name


def _paired(
    before: Sequence[PagemapReport],
    after: Sequence[PagemapReport],
    key: Callable[[PagemapReport], object],
) -> tuple[list[tuple[PagemapReport, PagemapReport]], list[PagemapReport], list[PagemapReport]]:
    """Pair those of one key; ``None`` is the key of none."""
    waiting: dict[object, list[PagemapReport]] = {}
    for one in after:
        waiting.setdefault(key(one), []).append(one)
    pairs, gone = [], []
    for one in before:
        several = waiting.get(key(one))
        if several and key(one) is not None:
            # In order: nothing else distinguishes those of one key.
            pairs.append((one, several.pop(0)))
        else:
            gone.append(one)
    left = {id(one) for several in waiting.values() for one in several}
    return pairs, gone, [one for one in after if id(one) in left]


def _overlapping(
    before: Sequence[PagemapReport], after: Sequence[PagemapReport]
) -> tuple[list[tuple[PagemapReport, PagemapReport]], list[PagemapReport], list[PagemapReport]]:
    """Pair those that have memory in common: of one type first, then by how much it is."""
    if _number_of_ranges(before) * _number_of_ranges(after) > _MAX_COMPARED:
        return [], list(before), list(after)
    candidates = [
        (old.type != new.type, -common, i, j)
        for i, old in enumerate(before)
        for j, new in enumerate(after)
        if (common := _common(old, new))
    ]
    olds, news = set(range(len(before))), set(range(len(after)))
    pairs = []
    for _, _, i, j in sorted(candidates):
        if i in olds and j in news:
            olds.remove(i)
            news.remove(j)
            pairs.append((before[i], after[j]))
    return pairs, [before[i] for i in sorted(olds)], [after[j] for j in sorted(news)]


def _number_of_ranges(pagemaps: Sequence[PagemapReport]) -> int:
    return sum(len(one.ranges) for one in pagemaps)


def _common(old: PagemapReport, new: PagemapReport) -> int:
    """Return the bytes of memory that two pagemaps have in common."""
    return sum(
        max(min(one.end, other.end) - max(one.start, other.start) + 1, 0)
        for one in old.ranges
        for other in new.ranges
    )


def _went(gone: Sequence[PagemapReport], after: Report) -> Iterator[str]:
    """Yield what went and is not, with all its memory, in another pagemap now."""
    there: list[tuple[int, int]] = []
    for start, end in sorted(pair for one in after.pagemaps for pair in _ranges(one)):
        if there and start <= there[-1][1] + 1:
            there[-1] = there[-1][0], max(there[-1][1], end)
        else:
            there.append((start, end))
    for one in gone:
        if one.ranges and all(_inside(*pair, there) for pair in _ranges(one)):
            continue
        ranges = ", ".join(f"{start:#x}-{end:#x}" for start, end in _ranges(one)) or "no ranges"
        yield f"{one.label} ({one.type}, {ranges})"


def _inside(start: int, end: int, spans: Sequence[tuple[int, int]]) -> bool:
    """Return whether one of the spans, which are in order and apart, holds all of another."""
    at = bisect_right(spans, (start, 1 << 64)) - 1
    return at >= 0 and spans[at][0] <= start and end <= spans[at][1]


def _compare_pagemaps(
    old: PagemapReport, new: PagemapReport, targets: tuple[TargetInfo, TargetInfo]
) -> PagemapDiff:
    changes = []
    for field, get in _FIELDS.items():
        before, after = get(old), get(new)
        if before != after:
            changes.append(Change(field, before, after, _is_worse(field, old, new)))
    return PagemapDiff(
        before=PagemapName.of(old),
        after=PagemapName.of(new),
        changes=tuple(changes),
        findings=_compare_findings(old, new, targets),
        reason=new.reason,
    )


def _is_worse(field: str, old: PagemapReport, new: PagemapReport) -> bool:
    if field == "state":
        return _STATES.index(new.state) > _STATES.index(old.state)
    if field == "saved_bytes":
        # Of less memory less can be saved.
        return new.saved_bytes < old.saved_bytes and _ranges(new) == _ranges(old)
    return field == "unreadable" and new.vmemmap.unreadable > old.vmemmap.unreadable


def _compare_findings(
    old: PagemapReport | Report,
    new: PagemapReport | Report,
    targets: tuple[TargetInfo, TargetInfo],
) -> FindingsDiff:
    before, after = _keys(old, targets[0]), _keys(new, targets[1])
    appeared = _without(new.findings, after, Counter(before))
    gone = _without(old.findings, before, Counter(after))
    outcomes = {one.rule: one for one in old.outcomes}
    reported = Counter(one.rule for one in appeared)
    reported.subtract(one.rule for one in gone)
    violations, skipped = [], []
    for now in new.outcomes:
        was = outcomes.get(now.rule)
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


_Key = tuple[str, Severity, str, int]


def _without(
    findings: Sequence[Finding], keys: Sequence[_Key], others: Counter[_Key]
) -> tuple[Finding, ...]:
    """Return the findings that are not among others; of equal ones the last."""
    left = []
    for finding, key in zip(findings, keys, strict=True):
        if others[key]:
            others[key] -= 1
        else:
            left.append(finding)
    return tuple(left)


def _keys(owner: PagemapReport | Report, target: TargetInfo) -> list[_Key]:
    """
    Return the key of each finding, which two reports share.

    It has the memory that the place in the vmemmap describes. Messages, expected and
    observed values may hold frames, which differ after a boot.
    """
    keys = []
    for finding in owner.findings:
        place, at = "elsewhere", 0
        if finding.vaddr is not None and isinstance(owner, PagemapReport):
            start, end = owner.vmemmap.start, owner.vmemmap.end
            if (
                owner.ranges
                and start is not None
                and end is not None
                and start <= finding.vaddr < end
            ):
                offset = (finding.vaddr - start) * target.page_size // target.struct_page_size
                place, at = "vmemmap", _ranges(owner)[0][0] + offset
            elif finding.vaddr == owner.address:
                place = "pagemap"
        keys.append((finding.rule, finding.severity, place, at))
    return keys


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
