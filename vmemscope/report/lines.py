# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Findings as JSON lines, each ``vmemscope.finding/1``, described in ``docs/formats.md``.

A line stands for itself: what was looked at and whose the finding is are in
it, so lines of many targets can be put in one file and searched together.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ..text import hexadecimal
from .document import finding_object
from .words import safe

if TYPE_CHECKING:
    from .documents.pgmap import PagemapReport, Report

__all__ = ("FINDING_SCHEMA", "render_ndjson")

#: identifier of this version of a line
FINDING_SCHEMA = "vmemscope.finding/1"


def render_ndjson(report: Report, only: PagemapReport | None = None) -> str:
    """
    Turn the findings of a report into JSON, one on a line, worst first.

    :param only: leave the findings of all other pagemaps out
    :return: nothing if there are no findings
    """
    target = {
        "kind": report.target.kind,
        "path": safe(report.target.path),
        "osrelease": safe(report.target.osrelease),
        "arch": report.target.arch,
    }
    lines = []
    for owner, finding in report.all_findings():
        if only is not None and owner is not None and owner.address != only.address:
            continue
        pagemap = None
        if owner is not None:
            name = None if owner.name is None else safe(owner.name)
            pagemap = {"address": hexadecimal(owner.address), "name": name}
        line = {
            "schema": FINDING_SCHEMA,
            "target": target,
            "pagemap": pagemap,
            **finding_object(finding),
        }
        lines.append(json.dumps(line, ensure_ascii=True, allow_nan=False) + "\n")
    return "".join(lines)
