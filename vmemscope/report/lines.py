# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Reports as JSON lines, described in ``docs/formats.md``.

The first line sums the audit up (``vmemscope.summary/1``), also where nothing was found or
nothing could be audited. A line for each finding (``vmemscope.finding/1``) follows. Each line
names its target, so lines of many targets can be put in one file and searched together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..fields import Facts
from .document import json_text, to_document
from .documents.common import PagemapName, TargetName
from .documents.finding import FindingLine
from .documents.pgmap import Report
from .documents.summary import SummaryLine, SummaryTarget
from .words import verdict_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..rules.findings import Finding
    from ..timing import Stopwatch
    from .documents.common import TargetReport
    from .documents.pgmap import PagemapReport

__all__ = ("render_ndjson", "render_ndjson_failure")


def render_ndjson(
    report: TargetReport, only: PagemapReport | None = None, *, watch: Stopwatch
) -> str:
    """
    Return a report as JSON lines: its summary, then its findings, worst first.

    :param only: leave out the findings of all other pagemaps; the summary is of all of them
    :param watch: started with the audit
    """
    target = TargetName.of(report.target)
    lines: list[Facts] = [SummaryLine.about(report, verdict_of(report), watch)]
    lines += [
        FindingLine.of(
            finding,
            target=target,
            pagemap=None if owner is None else PagemapName.of(owner),
        )
        for owner, finding in _findings(report, only)
    ]
    return "".join(json_text(to_document(line)) for line in lines)


def render_ndjson_failure(audit: str, kind: str, path: str, error: str, *, watch: Stopwatch) -> str:
    """
    Return the line of an audit that was not made.

    :param audit: name of the command
    :param kind, path: of the target
    :param error: why, in a sentence
    :param watch: started with the attempt
    """
    line = SummaryLine.failed(audit, SummaryTarget(kind=kind, path=path), error, watch)
    return json_text(to_document(line))


def _findings(
    report: TargetReport, only: PagemapReport | None
) -> Iterable[tuple[PagemapReport | None, Finding]]:
    if isinstance(report, Report):
        return report.all_findings(only)
    return ((None, finding) for finding in report.findings)
