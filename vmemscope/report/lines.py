# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Findings as JSON lines, each ``vmemscope.finding/1``, described in ``docs/formats.md``.

Each line names its target and its pagemap, so lines of many targets can be put in one
file and searched together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .document import json_text, to_document
from .documents.common import PagemapName, TargetName
from .documents.finding import FindingLine

if TYPE_CHECKING:
    from .documents.pgmap import PagemapReport, Report

__all__ = ("render_ndjson",)


def render_ndjson(report: Report, only: PagemapReport | None = None) -> str:
    """
    Return the findings of a report as JSON, one on a line, worst first.

    :param only: leave out the findings of all other pagemaps
    :return: nothing if there are no findings
    """
    target = TargetName.of(report.target)
    return "".join(
        json_text(
            to_document(
                FindingLine.of(
                    finding,
                    target=target,
                    pagemap=None if owner is None else PagemapName.of(owner),
                )
            )
        )
        for owner, finding in report.all_findings(only)
    )
