# SPDX-License-Identifier: LGPL-2.1-or-later
"""Markdown: what a bug report needs, and nothing that a target says taken for markup."""

from __future__ import annotations

import re

import pytest

from vmemscope.report import render_markdown
from vmemscope.report.markdown import code, prose
from vmemscope.rules import RULES
from vmemscope.rules.rule import Severity

from .builders import OUTCOMES, finding, hostile, of_every_kind, pagemap_report, report


def rows_of(text: str, title: str) -> list[list[str]]:
    """Get the cells of the table under a heading, or before the first."""
    lines = text.split(f"### {title}\n", 1)[1].splitlines() if title else text.splitlines()
    rows = [line for line in lines if line.startswith("|")]
    return [row.strip("|").split("|") for row in rows]


def test_header_table_findings_environment() -> None:
    one = pagemap_report(findings=(finding(), finding()), outcomes=OUTCOMES)
    text = render_markdown(report(one, not_read=("tables: 3",)))
    assert text.startswith("## vmemscope: 2 errors, and not everything could be read\n")
    assert re.findall("^### .*", text, re.M) == [
        "### Not read", "### `refcount-low`: 2 errors", "### Environment",
    ]  # fmt: skip
    assert "| `dax0.0` | generic | 0x140000000-0x15fffffff |" in text
    assert "not read: tables: 3\n" in text
    assert "| kernel | `6.1.0-56-amd64` |" in text
    assert "| rules | `1 checked, 1 skipped, 1 failed` |" in text


def test_findings_are_explained() -> None:
    text = render_markdown(report(pagemap_report(findings=(finding("read-only"),))))
    rule = RULES["read-only"]
    plain = re.sub(r"\\(.)", r"\1", text)
    assert all(part in plain for part in (rule.holds, rule.source, rule.meaning, rule.look_at))
    assert "\nerror read-only dax0.0 at 0xffffea0005001000" in text


def test_unknown_rule_is_told_without_explanation() -> None:
    text = render_markdown(report(pagemap_report(findings=(finding("of-the-future"),))))
    assert "### `of-the-future`: 1 error\n\n```text\nerror of-the-future" in text


def test_severities_of_one_rule_are_counted() -> None:
    two = (finding(), finding(severity=Severity.NOTE))
    assert "### `refcount-low`: 1 error, 1 note" in render_markdown(
        report(pagemap_report(findings=two))
    )


def test_sound_and_empty() -> None:
    assert render_markdown(report()).startswith("## vmemscope: sound\n")
    assert "No pagemaps." in render_markdown(report())


def test_one_pagemap() -> None:
    several = of_every_kind()
    text = render_markdown(report(*several), several[0])
    assert "| `dax0.0` |" in text
    assert "dax4.0" not in text


@pytest.mark.parametrize("name", [hostile(), "a|b", "a`b``c", "`", " a ", "", "@someone #1 <b>"])
def test_tables_keep_their_shape(name: str) -> None:
    one = pagemap_report(name, state="partial", reason=name, findings=(finding(message=name),))
    text = render_markdown(report(one, not_read=(name,)))
    assert text.isascii()
    rows = rows_of(text, "")
    assert [len(row) for row in rows[:3]] == [9, 9, 9]
    assert {len(row) for row in rows_of(text, "Environment")} == {2}
    # Blocks are opened and closed, and nothing else looks like a fence.
    fences = [line for line in text.splitlines() if line.startswith("```")]
    assert fences == ["```text", "```"] * (len(fences) // 2)


@pytest.mark.parametrize("text", ["a", "`", "``", "a`b", "a``b`c", "`a`", " ", ""])
def test_code_spans_are_delimited_by_what_is_not_in_them(text: str) -> None:
    span = code(text)
    fence = re.match("`+", span)
    assert fence is not None
    assert span.endswith(fence[0])
    inner = span[len(fence[0]) : -len(fence[0])]
    assert fence[0] not in re.findall("`+", inner)
    assert inner.strip(" ") == text.strip(" ")


def test_prose_is_no_markup() -> None:
    assert prose("a_b *c* <d> `e` #1") == r"a\_b \*c\* \<d\> \`e\` \#1"
