# SPDX-License-Identifier: LGPL-2.1-or-later
"""What changed between two looks, as text and as ``vmemscope.diff/1`` (``docs/diff.md``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..text import binary_size, hexadecimal
from .document import finding_object, head_object
from .words import count, finding_line, safe

if TYPE_CHECKING:
    from .diff import Change, Diff, FindingsDiff, PagemapDiff
    from .snapshot import PagemapState, Snapshot

__all__ = ("DIFF_SCHEMA", "change_lines", "diff_document", "render_diff")

#: identifier of this version of the document
DIFF_SCHEMA = "vmemscope.diff/1"


def render_diff(diff: Diff) -> str:
    """Format a comparison: what was compared, what changed, what of it is worse."""
    before, after = (_source(one) for one in (diff.before, diff.after))
    lines = [f"before: {before}", f"after:  {after}", ""]
    if diff:
        lines += [*change_lines(diff), ""]
    lines += [
        f"{change.field}: {_from_to(change)}"
        for change in diff.totals
        if change.before != change.after
    ]
    if lines[-1]:
        lines.append("")
    lines += [f"worse: {safe(what)}" for what in diff.worse]
    lines.append(_verdict(diff))
    return "\n".join(lines) + "\n"


def change_lines(diff: Diff) -> list[str]:
    """Say what changed, a line for each thing; that nothing did, if so."""
    lines = [f"came: {_pagemap(one)}" for one in diff.came]
    for one in diff.came:
        lines += [f"  new: {finding_line(f, safe(one.label))}" for f in one.findings]
    lines += [f"gone: {_pagemap(one)}" for one in diff.gone]
    for pair in diff.changed:
        lines += _changed(pair)
    lines += _findings(diff.findings, None, "")
    lines += [f"not read any more: {safe(what)}" for what in diff.unread]
    return lines or ["nothing changed"]


def _source(snapshot: Snapshot) -> str:
    return (
        f"{safe(snapshot.source)}: Linux {safe(snapshot.osrelease)}, {safe(snapshot.arch)},"
        f" {count(len(snapshot.pagemaps), 'pagemap')}"
    )


def _verdict(diff: Diff) -> str:
    if diff.worse:
        return f"{count(len(diff.worse), 'thing')} got worse"
    return "nothing got worse" if diff else "no difference"


def _pagemap(one: PagemapState) -> str:
    ranges = ", ".join(f"{start:#x}-{end:#x}" for start, end in one.ranges) or "no ranges"
    return (
        f"{safe(one.label)}: {safe(one.type)}, {ranges}, {one.state},"
        f" {count(one.frames, 'frame')}, {binary_size(one.saved_bytes)} saved"
    )


def _changed(pair: PagemapDiff) -> list[str]:
    who = safe(pair.after.label)
    lines = [f"changed: {who}"]
    for change in pair.changes:
        reason = pair.after.reason if change.field == "state" else None
        lines.append(
            f"  {change.field}: {_from_to(change)}" + (f" ({safe(reason)})" if reason else "")
        )
    return [*lines, *_findings(pair.findings, who, "  ")]


def _findings(diff: FindingsDiff, who: str | None, indent: str) -> list[str]:
    lines = [f"new: {finding_line(finding, who)}" for finding in diff.new]
    lines += [f"gone: {finding_line(finding, who)}" for finding in diff.gone]
    lines += [f"violations of {safe(one.field)}: {_from_to(one)}" for one in diff.violations]
    lines += [f"not evaluated any more: {safe(rule)}: {safe(why)}" for rule, why in diff.skipped]
    return [indent + line for line in lines]


def _from_to(change: Change) -> str:
    before, after = change.before, change.after
    if not isinstance(before, int) or not isinstance(after, int):
        shown = ("none" if value is None else safe(str(value)) for value in (before, after))
        return " -> ".join(shown)
    if change.field.endswith("_bytes"):
        by = f"{'+' if after > before else ''}{binary_size(after - before)}"
        return f"{binary_size(before)} -> {binary_size(after)} ({by})"
    return f"{before} -> {after} ({after - before:+d})"


def diff_document(diff: Diff) -> dict[str, Any]:
    """Turn a comparison into the JSON document, as plain dictionaries and lists."""
    return {
        **head_object(DIFF_SCHEMA),
        "before": _source_object(diff.before),
        "after": _source_object(diff.after),
        "worse": [safe(what) for what in diff.worse],
        "pgmaps": {
            "came": [_pagemap_object(one) for one in diff.came],
            "gone": [_pagemap_object(one) for one in diff.gone],
            "changed": [
                {
                    "before": _name_object(pair.before),
                    "after": _name_object(pair.after),
                    "changes": [_change_object(one) for one in pair.changes],
                    "findings": _findings_object(pair.findings),
                }
                for pair in diff.changed
            ],
        },
        "findings": _findings_object(diff.findings),
        "not_read": [safe(what) for what in diff.unread],
        "totals": [_change_object(one) for one in diff.totals],
    }


def _source_object(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "source": safe(snapshot.source),
        "kind": safe(snapshot.kind),
        "osrelease": safe(snapshot.osrelease),
        "arch": safe(snapshot.arch),
    }


def _name_object(one: PagemapState) -> dict[str, Any]:
    return {
        "address": hexadecimal(one.address),
        "name": None if one.name is None else safe(one.name),
    }


def _pagemap_object(one: PagemapState) -> dict[str, Any]:
    return {
        **_name_object(one),
        "type": safe(one.type),
        "ranges": [
            {"start": hexadecimal(start), "end": hexadecimal(end)} for start, end in one.ranges
        ],
        "frames": one.frames,
        "saved_bytes": one.saved_bytes,
        "state": one.state,
        "reason": None if one.reason is None else safe(one.reason),
        "findings": [finding_object(finding) for finding in one.findings],
    }


def _change_object(change: Change) -> dict[str, Any]:
    values = (
        safe(value) if isinstance(value, str) else value for value in (change.before, change.after)
    )
    return {
        "field": safe(change.field),
        **dict(zip(("before", "after"), values, strict=True)),
        "worse": change.worse,
    }


def _findings_object(diff: FindingsDiff) -> dict[str, Any]:
    return {
        "new": [finding_object(finding) for finding in diff.new],
        "gone": [finding_object(finding) for finding in diff.gone],
        "violations": [_change_object(one) for one in diff.violations],
        "not_evaluated": [
            {"rule": safe(rule), "reason": safe(reason)} for rule, reason in diff.skipped
        ],
    }
