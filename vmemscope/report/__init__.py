# SPDX-License-Identifier: LGPL-2.1-or-later
"""
From a :class:`~vmemscope.report.documents.pgmap.Report`, a comparison or the catalogue to text.

* ``table``: all pagemaps in a table, totals, findings
* ``detail``: one pagemap with its first compound page drawn (``drawing``)
* ``document``: the JSON document ``vmemscope.pgmap/1`` and its schema
* ``lines``: findings as JSON lines, each ``vmemscope.finding/1``
* ``ktap``: the kernel's test format, a test for each pagemap and rule
* ``markdown``: for bug reports
* ``comparison``: what changed between two looks, as text and as ``vmemscope.diff/1``
* ``catalogue``: the rules themselves, as text and as ``vmemscope.rules/1``
* ``output``: a file written whole or not at all

Nothing here reads a target or judges what was read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy

if TYPE_CHECKING:
    from .catalogue import RULES_SCHEMA, render_rule, render_rules, rules_document
    from .comparison import DIFF_SCHEMA, change_lines, diff_document, render_diff
    from .detail import render_one
    from .document import SCHEMA, dump_json, json_text, render_json, schema_text, to_document
    from .ktap import render_ktap
    from .lines import FINDING_SCHEMA, render_ndjson
    from .markdown import render_markdown
    from .output import write_atomically
    from .table import render_all

__all__ = (
    "DIFF_SCHEMA",
    "FINDING_SCHEMA",
    "RULES_SCHEMA",
    "SCHEMA",
    "change_lines",
    "diff_document",
    "dump_json",
    "json_text",
    "render_all",
    "render_diff",
    "render_json",
    "render_ktap",
    "render_markdown",
    "render_ndjson",
    "render_one",
    "render_rule",
    "render_rules",
    "rules_document",
    "schema_text",
    "to_document",
    "write_atomically",
)

__getattr__ = lazy(
    __name__,
    {
        "DIFF_SCHEMA": "comparison",
        "FINDING_SCHEMA": "lines",
        "RULES_SCHEMA": "catalogue",
        "SCHEMA": "document",
        "change_lines": "comparison",
        "diff_document": "comparison",
        "dump_json": "document",
        "json_text": "document",
        "render_all": "table",
        "render_diff": "comparison",
        "render_json": "document",
        "render_ktap": "ktap",
        "render_markdown": "markdown",
        "render_ndjson": "lines",
        "render_one": "detail",
        "render_rule": "catalogue",
        "render_rules": "catalogue",
        "rules_document": "catalogue",
        "schema_text": "document",
        "to_document": "document",
        "write_atomically": "output",
    },
)
