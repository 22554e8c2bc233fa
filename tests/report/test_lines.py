# SPDX-License-Identifier: LGPL-2.1-or-later
"""Findings as JSON lines: each line stands for itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

from vmemscope.report import render_ndjson, schema_text
from vmemscope.rules.rule import Severity

from .builders import finding, hostile, of_every_kind, pagemap_report, report

DOCS = Path(__file__).parents[2] / "docs" / "formats.md"
SCHEMA = json.loads(schema_text("vmemscope.finding/1"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def lines_of(text: str) -> list[dict[str, Any]]:
    assert text == "" or text.endswith("\n")
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        VALIDATOR.validate(line)
    return lines


def test_schema_itself_is_sound() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


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


def test_no_findings_are_no_lines() -> None:
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
    assert lines
    assert lines_of("\n".join(lines) + "\n")
    assert all(f"`{name}`" in text for name in SCHEMA["$defs"]["FindingLine"]["properties"])
