# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reports as JSON lines: each line stands for itself, and each audit has one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

from vmemscope.report import render_ndjson as render
from vmemscope.report import render_ndjson_failure, schema_text
from vmemscope.report.documents.pgmap import PagemapReport, Report
from vmemscope.rules.rule import Severity
from vmemscope.timing import Stopwatch

from .builders import OUTCOMES, finding, hostile, of_every_kind, pagemap_report, report

DOCS = Path(__file__).parents[2] / "docs" / "formats.md"
SCHEMA = json.loads(schema_text("vmemscope.finding/1"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
SUMMARY_SCHEMA = json.loads(schema_text("vmemscope.summary/1"))
SUMMARY = jsonschema.Draft202012Validator(SUMMARY_SCHEMA)


def summary_of(text: str) -> dict[str, Any]:
    first: dict[str, Any] = json.loads(text.splitlines()[0])
    SUMMARY.validate(first)
    return first


def render_ndjson(whole: Report, only: PagemapReport | None = None) -> str:
    """Return the lines of the findings."""
    first, _, rest = render(whole, only, watch=Stopwatch()).partition("\n")
    summary_of(first)
    return rest


def lines_of(text: str) -> list[dict[str, Any]]:
    assert text == "" or text.endswith("\n")
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        VALIDATOR.validate(line)
    return lines


def test_schema_itself_is_sound() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator.check_schema(SUMMARY_SCHEMA)


def test_summary() -> None:
    several = [
        pagemap_report("a", findings=(finding(), finding()), outcomes=OUTCOMES),
        pagemap_report("b", findings=(finding("hole"), finding("leaf-fallback", Severity.NOTE))),
    ]
    whole = report(*several, outcomes=OUTCOMES[:1], not_read=("things: 2",))
    watch = Stopwatch()
    watch.started = 1e9
    line = summary_of(render(whole, several[0], watch=watch))
    assert 0 <= line.pop("seconds") < 60
    assert line.pop("tool")["name"] == "vmemscope"
    assert line == {
        "schema": "vmemscope.summary/1",
        "audit": "pgmap",
        "target": {
            "kind": "core",
            "path": "vmcore",
            "osrelease": "6.1.0-56-amd64",
            "arch": "x86_64",
        },
        "time": "2001-09-09T01:46:40Z",
        "status": 1,
        "verdict": "3 errors, 1 note, and not everything could be read",
        "error": None,
        "errors": 3,
        "warnings": 0,
        "notes": 1,
        "found": [
            {"rule": "hole", "severity": "error", "findings": 1},
            {"rule": "refcount-low", "severity": "error", "findings": 2},
            {"rule": "leaf-fallback", "severity": "note", "findings": 1},
        ],
        "rules_checked": 2,
        "rules_skipped": 1,
        "rules_failed": 1,
        "read": {"pagemaps": 2, "folios": None, "pages": 4096, "frames": 1024},
        "not_read": ["things: 2"],
        "left_out": {"findings": 0, "reasons": [], "expired": []},
        # 2048 pages of vmemmap each, in 256 head frames and 256 tail frames
        "saved_bytes": 2 * (2048 - 512) * 4096,
    }


def test_statuses_are_those_of_the_command() -> None:
    def status(whole: Report) -> int:
        return int(summary_of(render(whole, watch=Stopwatch()))["status"])

    note = pagemap_report(findings=(finding("leaf-fallback", Severity.NOTE),))
    assert status(report(note)) == 0
    assert status(report(note, not_read=("things: 2",))) == 4
    assert status(report(pagemap_report(findings=(finding(),)), not_read=("things: 2",))) == 1


def test_a_failure_is_a_line_too() -> None:
    error = f"cannot open {hostile()}"
    text = render_ndjson_failure("memmap", "core", hostile(), error, watch=Stopwatch())
    assert text.isascii()
    assert text.count("\n") == 1
    line = summary_of(text)
    assert (line["status"], line["verdict"], line["audit"]) == (3, "not audited", "memmap")
    assert line["target"]["osrelease"] is None
    assert line["saved_bytes"] is None
    assert "\\x1b[2J" in line["error"]


def test_line() -> None:
    [line] = lines_of(render_ndjson(report(pagemap_report(findings=(finding(),)))))
    assert line == {
        "schema": "vmemscope.finding/1",
        "target": {
            "kind": "core",
            "path": "vmcore",
            "osrelease": "6.1.0-56-amd64",
            "arch": "x86_64",
        },
        "pagemap": {"address": "0xffff888101234000", "name": "dax0.0"},
        "rule": "refcount-low",
        "severity": "error",
        "vaddr": "0xffffea0005001000",
        "pfn": 0x11,
        "expected": 7,
        "observed": 6,
        "message": "7 entries map the frame, its reference count is 6",
    }


def test_no_findings_leave_the_summary_alone() -> None:
    assert render_ndjson(report(pagemap_report())) == ""


def test_worst_first_and_of_no_pagemap_too() -> None:
    several = [
        pagemap_report("a", findings=(finding("leaf-fallback", Severity.NOTE),)),
        pagemap_report(None, findings=(finding(),)),
    ]
    lines = lines_of(render_ndjson(report(*several, findings=(finding("xarray"),))))
    assert [(one["severity"], one["pagemap"] and one["pagemap"]["name"]) for one in lines] == [
        ("error", None), ("error", None), ("note", "a"),
    ]  # fmt: skip
    assert sum(one["pagemap"] is None for one in lines) == 1


def test_one_pagemap_keeps_what_is_of_none() -> None:
    several = of_every_kind()
    whole = report(*several, findings=(finding("xarray"),))
    assert {line["rule"] for line in lines_of(render_ndjson(whole, several[0]))} == {"xarray"}
    assert len(lines_of(render_ndjson(whole, several[-1]))) == 3


def test_a_line_stays_one_whatever_is_in_it() -> None:
    one = pagemap_report(hostile(), findings=(finding(message=hostile(), observed=hostile()),))
    text = render_ndjson(report(one))
    assert text.isascii()
    assert len(lines_of(text)) == 1


def test_docs_have_a_line_that_is_valid() -> None:
    text = DOCS.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith('{"schema"')]
    summary_of(lines[0])
    assert lines_of("\n".join(lines[1:]) + "\n")
    assert all(f"`{name}`" in text for name in SUMMARY_SCHEMA["$defs"]["SummaryLine"]["properties"])
    assert all(f"`{name}`" in text for name in SCHEMA["$defs"]["FindingLine"]["properties"])
