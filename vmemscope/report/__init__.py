# SPDX-License-Identifier: LGPL-2.1-or-later
"""
From reports to text and to JSON.

* ``documents``: the reports: Python and JSON have the same fields
* ``document``: any report to JSON, and a JSON document back to a report
* ``schema``: their JSON Schemas, derived from the types
* ``table``: all pagemaps in a table, totals, findings
* ``detail``: one pagemap with its first compound page drawn (``drawing``)
* ``lines``: the summary and the findings as JSON lines
* ``ktap``: the kernel's test format, a test for each pagemap and rule
* ``metrics``: OpenMetrics, for monitoring
* ``markdown``: for bug reports
* ``compare``, ``diff``: the changes between two reports, and their text
* ``catalogue``: the rules and known bugs themselves, as text
* ``output``: a file written whole or not at all

Nothing here reads a target or evaluates a rule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy

if TYPE_CHECKING:
    from .catalogue import render_bug, render_rule, render_rules, rule_list
    from .detail import render_one
    from .diff import change_lines, render_diff
    from .document import json_text, read_report, render_json, schema_text, to_document
    from .ktap import render_ktap
    from .lines import render_ndjson, render_ndjson_failure
    from .markdown import render_markdown
    from .metrics import render_openmetrics, render_openmetrics_failure
    from .output import write_atomically
    from .table import render_all

__all__ = (
    "change_lines",
    "json_text",
    "read_report",
    "render_all",
    "render_bug",
    "render_diff",
    "render_json",
    "render_ktap",
    "render_markdown",
    "render_ndjson",
    "render_ndjson_failure",
    "render_one",
    "render_openmetrics",
    "render_openmetrics_failure",
    "render_rule",
    "render_rules",
    "rule_list",
    "schema_text",
    "to_document",
    "write_atomically",
)

__getattr__ = lazy(
    __name__,
    {
        "change_lines": "diff",
        "json_text": "document",
        "read_report": "document",
        "render_all": "table",
        "render_diff": "diff",
        "render_json": "document",
        "render_ktap": "ktap",
        "render_markdown": "markdown",
        "render_ndjson": "lines",
        "render_ndjson_failure": "lines",
        "render_one": "detail",
        "render_openmetrics": "metrics",
        "render_openmetrics_failure": "metrics",
        "render_bug": "catalogue",
        "render_rule": "catalogue",
        "render_rules": "catalogue",
        "rule_list": "catalogue",
        "schema_text": "document",
        "to_document": "document",
        "write_atomically": "output",
    },
)
