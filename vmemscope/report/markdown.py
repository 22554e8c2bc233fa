# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A report in Markdown (GitHub's), for a bug report.

Text from a target or a user stands in code spans and code blocks, where it is not
formatted and becomes no link and no mention.
"""

from __future__ import annotations

import platform
import re
from importlib import metadata
from typing import TYPE_CHECKING

from .. import __version__, rules
from ..rules.rule import Severity
from ..text import binary_size
from .table import COLUMNS, RIGHT, cell, totals
from .words import (
    bug_lines,
    count,
    finding_line,
    header,
    label,
    left_out,
    not_read,
    outcome_counts,
    safe,
    tally,
    verdict_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..rules.findings import Finding
    from .documents.pgmap import PagemapReport, Report

__all__ = ("block", "code", "prose", "render_markdown")


def render_markdown(report: Report, only: PagemapReport | None = None) -> str:
    """
    Return a report as Markdown.

    :param only: leave out all other pagemaps; the verdict is of the whole audit
    """
    pagemaps = report.pagemaps if only is None else (only,)
    lines = [f"## vmemscope: {verdict_of(report)}", "", *block([header(report.target)]), ""]
    if pagemaps:
        lines += [*_table(pagemaps), ""]
        lines += _reasons(pagemaps)
        lines += [f"* {prose(line)}" for line in totals(report)]
    else:
        lines.append("No pagemaps.")
    unread = not_read(report.summary.not_read)
    if unread:
        lines += ["", "### Not read", "", *block(unread)]
    if hidden := left_out(report):
        lines += ["", "### Left out", "", *block(hidden)]
    if bugs := [bug for bug in report.bugs if only is None or bug.pgmap == only.address]:
        lines += ["", "### Known bugs of this kernel", "", *block(bug_lines(bugs))]
    lines += _findings(report, only)
    lines += ["", "### Environment", "", *_environment(report)]
    return "\n".join(lines) + "\n"


def _table(pagemaps: Iterable[PagemapReport]) -> list[str]:
    lines = [
        _row(COLUMNS),
        _row("---:" if column in RIGHT else "---" for column in COLUMNS),
    ]
    for one in pagemaps:
        lines.append(
            _row(
                code(cell(column, one)) if column == "NAME" else prose(cell(column, one))
                for column in COLUMNS
            )
        )
    return lines


def _reasons(pagemaps: Iterable[PagemapReport]) -> list[str]:
    """Return why pagemaps are not deduplicated, a line for each."""
    lines = [
        f"* {code(label(one))}: {one.state}, {code(safe(one.reason))}"
        for one in pagemaps
        if one.reason
    ]
    return [*lines, ""] if lines else []


def _findings(report: Report, only: PagemapReport | None) -> list[str]:
    """Return the findings of each rule, with the rule's text from the catalogue."""
    by_rule: dict[str, list[tuple[str | None, Finding]]] = {}
    for owner, finding in report.all_findings(only):
        who = None if owner is None else label(owner)
        by_rule.setdefault(finding.rule, []).append((who, finding))
    lines = []
    for name, several in by_rule.items():
        counted = tally(finding for _, finding in several)
        counts = ", ".join(count(counted[s], str(s)) for s in Severity if counted[s])
        lines += ["", f"### {code(safe(name))}: {counts}", ""]
        rule = rules.RULES.get(name)
        if rule is not None:
            lines += [
                f"Must hold: {prose(rule.holds)} ({code(rule.source)}, {rule.versions}).",
                "",
            ]
        lines += block(finding_line(finding, who) for who, finding in several)
        if rule is not None:
            lines += ["", f"**What it means.** {prose(rule.meaning)}"]
            lines += ["", f"**What to check next.** {prose(rule.look_at)}"]
    return lines


def _environment(report: Report) -> list[str]:
    target = report.target
    fields = (
        ("vmemscope", __version__),
        ("drgn", _version("drgn")),
        ("Python", platform.python_version()),
        ("kernel", safe(target.osrelease)),
        ("architecture", safe(target.arch)),
        ("target", f"{safe(target.kind)} {safe(target.path)}"),
        ("types", safe(target.types)),
        ("page size", binary_size(target.page_size)),
        ("sizeof(struct page)", str(target.struct_page_size)),
        ("rules", outcome_counts(report.all_outcomes(), report.every_finding())),
    )
    return [_row(("", "")), _row(("---", "---"))] + [
        _row((prose(name), code(value))) for name, value in fields
    ]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not known"


def _row(cells: Sequence[str] | Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def code(text: str) -> str:
    """
    Return text in a code span, for use in and outside of tables.

    >>> code("dax0.0"), code("a`b|c")
    ('`dax0.0`', '``a`b\\x7cc``')
    """
    # No escape for a column's border works in every reader.
    text = text.replace("|", "\\x7c")
    runs = {len(run) for run in re.findall("`+", text)}
    fence = "`" * next(length for length in range(1, len(runs) + 2) if length not in runs)
    # Readers strip one space on each side; an empty span is no span.
    padded = not text.strip() or text[0] in "` " or text[-1] in "` "
    return f"{fence} {text} {fence}" if padded else f"{fence}{text}{fence}"


def block(lines: Iterable[str]) -> list[str]:
    # A line that starts with three backticks would end the block.
    return ["```text", *(f" {line}" if line.startswith("```") else line for line in lines), "```"]


def prose(text: str) -> str:
    r"""
    Return text with markup escaped.

    >>> prose("__free_pages() of *p")
    '\\_\\_free\\_pages() of \\*p'
    """
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", text)
