# SPDX-License-Identifier: LGPL-2.1-or-later
"""The changes between two reports, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..text import binary_size
from .compare import values_of, words_of
from .words import count, finding_line, safe

if TYPE_CHECKING:
    from .documents.diff import Change, Diff, FindingsDiff, PagemapBrief, PagemapDiff, Source

__all__ = ("change_lines", "render_diff")


def render_diff(diff: Diff) -> str:
    """Return a comparison as text: the two reports, the changes, the worse ones."""
    pagemaps = next(one for one in diff.totals if one.field == "pagemaps")
    lines = [
        f"before: {_source(diff.before, pagemaps.before)}",
        f"after:  {_source(diff.after, pagemaps.after)}",
        "",
    ]
    if diff:
        lines += [*change_lines(diff), ""]
    lines += [
        f"{words_of(change)}: {_from_to(change)}"
        for change in diff.totals
        if change.before != change.after
    ]
    if lines[-1]:
        lines.append("")
    lines += [f"worse: {safe(what)}" for what in diff.worse]
    lines.append(_verdict(diff))
    return "\n".join(lines) + "\n"


def change_lines(diff: Diff) -> list[str]:
    """Return a line for each change, or one line that nothing changed."""
    lines = [f"came: {_pagemap(one)}" for one in diff.pagemaps.came]
    for one in diff.pagemaps.came:
        lines += [f"  new: {finding_line(f, safe(one.label))}" for f in one.findings]
    lines += [f"gone: {_pagemap(one)}" for one in diff.pagemaps.gone]
    for pair in diff.pagemaps.changed:
        lines += _changed(pair)
    lines += _findings(diff.findings, None, "")
    lines += [f"not read any more: {safe(what)}" for what in diff.not_read]
    return lines or ["nothing changed"]


def _source(one: Source, pagemaps: str | int | None) -> str:
    return (
        f"{safe(one.source)}: Linux {safe(one.osrelease)}, {safe(one.arch)},"
        f" {count(int(pagemaps or 0), 'pagemap')}"
    )


def _verdict(diff: Diff) -> str:
    if not diff:
        return "no difference"
    went = ""
    if diff.went:
        number = count(len(diff.went), "pagemap")
        went = f"; {number} went, with nothing in the place: {safe('; '.join(diff.went))}"
    return ("something" if diff.worse else "nothing") + f" got worse{went}"


def _pagemap(one: PagemapBrief) -> str:
    ranges = ", ".join(f"{r.start:#x}-{r.end:#x}" for r in one.ranges) or "no ranges"
    return (
        f"{safe(one.label)}: {safe(one.type)}, {ranges}, {one.state},"
        f" {count(one.frames, 'frame')}, {binary_size(one.saved_bytes)} saved"
    )


def _changed(pair: PagemapDiff) -> list[str]:
    who = safe(pair.after.label)
    lines = [f"changed: {who}"]
    for change in pair.changes:
        reason = pair.reason if change.field == "state" else None
        lines.append(
            f"  {words_of(change)}: {_from_to(change)}" + (f" ({safe(reason)})" if reason else "")
        )
    return [*lines, *_findings(pair.findings, who, "  ")]


def _findings(diff: FindingsDiff, who: str | None, indent: str) -> list[str]:
    lines = [f"new: {finding_line(finding, who)}" for finding in diff.new]
    lines += [f"gone: {finding_line(finding, who)}" for finding in diff.gone]
    lines += [f"violations of rule {safe(one.field)}: {_from_to(one)}" for one in diff.violations]
    lines += [
        f"not evaluated any more: {safe(one.rule)}: {safe(one.reason)}"
        for one in diff.not_evaluated
    ]
    return [indent + line for line in lines]


def _from_to(change: Change) -> str:
    text = safe(" -> ".join(values_of(change)))
    if not isinstance(change.before, int) or not isinstance(change.after, int):
        return text
    by = change.after - change.before
    if change.field.endswith("_bytes"):
        return f"{text} ({'+' if by > 0 else ''}{binary_size(by)})"
    return f"{text} ({by:+d})"
