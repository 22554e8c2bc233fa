# SPDX-License-Identifier: LGPL-2.1-or-later
"""KTAP: read back by a parser that follows Documentation/dev-tools/ktap.rst to the letter."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pytest

from vmemscope.report import render_ktap
from vmemscope.rules.findings import Outcome, RuleOutcome
from vmemscope.rules.rule import Severity

from .builders import OUTCOMES, finding, hostile, of_every_kind, pagemap_report, report

# <result> <number> [<description>][ # [<directive>] [<diagnostic data>]]
RESULT = re.compile(r"(ok|not ok) ([0-9]+)(?: ([^#]+?))?(?: # (?:(SKIP|TODO|XFAIL) ?)?(.*))?")


@dataclass
class Test:
    """A test, with those nested in it and the diagnostics before its result."""

    __test__ = False

    ok: bool
    name: str
    directive: str | None
    data: str | None
    diagnostics: list[str]
    nested: list[Test] = field(default_factory=list)


def parse(lines: list[str], level: int = 0) -> list[Test]:
    """Parse the lines of one level; fail on whatever the format does not have."""
    indent = "  " * level
    assert lines.pop(0) == f"{indent}KTAP version 1"
    plan = re.fullmatch(rf"{indent}1\.\.([0-9]+)", lines.pop(0))
    assert plan is not None
    tests: list[Test] = []
    diagnostics: list[str] = []
    nested: list[Test] = []
    while lines:
        line = lines[0]
        if line.startswith(indent + "  "):
            assert not nested
            nested = parse(lines, level + 1)
            continue
        if not line.startswith(indent):
            break
        lines.pop(0)
        line = line[len(indent) :]
        if line.startswith("# "):
            diagnostics.append(line[2:])
            continue
        result = RESULT.fullmatch(line)
        assert result is not None, line
        assert int(result[2]) == len(tests) + 1
        assert result[3]
        tests.append(Test(result[1] == "ok", result[3], result[4], result[5], diagnostics, nested))
        diagnostics, nested = [], []
    assert len(tests) == int(plan[1])
    return tests


def parsed(text: str) -> list[Test]:
    assert text.endswith("\n")
    return parse(text.removesuffix("\n").split("\n"))


def test_a_test_for_each_pagemap_and_rule() -> None:
    one = pagemap_report(findings=(finding(),), outcomes=OUTCOMES)
    sound = (RuleOutcome("resource-tree", Outcome.CHECKED),)
    target, dax = parsed(render_ktap(report(one, outcomes=sound)))
    assert (target.name, target.ok, dax.name, dax.ok) == ("target", True, "dax0.0", False)
    assert [(t.name, t.ok, t.directive, t.data) for t in dax.nested] == [
        ("hole", True, None, None),
        ("altmap-frame", True, "SKIP", "no altmap"),
        ("refcount-low", False, None, None),
    ]
    [diagnostic] = dax.nested[2].diagnostics
    assert diagnostic.startswith("error refcount-low dax0.0 at 0xffffea0005001000 pfn 0x11: ")


@pytest.mark.parametrize(
    ("severity", "ok"), [(Severity.ERROR, False), (Severity.WARNING, True), (Severity.NOTE, True)]
)
def test_only_errors_fail_as_the_exit_status_has_it(severity: Severity, ok: bool) -> None:
    one = pagemap_report(findings=(finding(severity=severity),), outcomes=OUTCOMES)
    [_, dax] = parsed(render_ktap(report(one)))
    assert dax.ok is dax.nested[2].ok is ok
    assert dax.nested[2].diagnostics[0].startswith(str(severity))


def test_finding_of_a_rule_without_an_outcome_is_not_lost() -> None:
    [target, dax] = parsed(render_ktap(report(pagemap_report(findings=(finding(),)))))
    assert [(t.name, t.ok) for t in dax.nested] == [("refcount-low", False)]
    assert not dax.ok
    assert target.directive == "SKIP"


def test_what_was_checked_only_in_part_says_so() -> None:
    partly = RuleOutcome("hole", Outcome.CHECKED, "a table is missing")
    [_, dax] = parsed(render_ktap(report(pagemap_report(outcomes=(partly,)))))
    assert dax.nested[0].ok
    assert dax.nested[0].diagnostics == ["hole not evaluated for all: a table is missing"]


def test_nothing_evaluated_is_no_pass() -> None:
    skipped = (RuleOutcome("hole", Outcome.SKIPPED, "no valid range"),)
    [_, dax] = parsed(render_ktap(report(pagemap_report(outcomes=skipped))))
    assert dax.directive == "SKIP"


def test_findings_of_no_pagemap() -> None:
    [target] = parsed(render_ktap(report(findings=(finding("xarray"),))))
    assert (target.name, target.ok) == ("target", False)


def test_what_could_not_be_read_is_told() -> None:
    text = render_ktap(report(*of_every_kind(), not_read=("page tables: 3",)))
    assert "# not read: page tables: 3\n" in text


def test_one_pagemap() -> None:
    several = of_every_kind()
    names = [t.name for t in parsed(render_ktap(report(*several), several[2]))]
    assert names == ["target", "dax2.0"]


def test_names_are_unique() -> None:
    same = [
        pagemap_report("dax0.0", address=0x1000),
        pagemap_report("dax0.0", address=0x2000),
        pagemap_report("target", address=0x3000),
    ]
    names = [t.name for t in parsed(render_ktap(report(*same)))]
    assert names == ["target", "dax0.0 0x1000", "dax0.0 0x2000", "target 0x3000"]


@pytest.mark.parametrize(
    "text",
    [hostile(), "# SKIP all is well", "a # TODO", "a\nok 1 b", "1..0", "  \n  KTAP version 1", "#"],
)
def test_nothing_that_a_target_says_becomes_a_result(text: str) -> None:
    bad = RuleOutcome("leaf-size", Outcome.SKIPPED, text)
    one = pagemap_report(
        text, findings=(finding(message=text, observed=text),), outcomes=(*OUTCOMES, bad)
    )
    whole = render_ktap(report(one, not_read=(text,), findings=(finding("xarray", message=text),)))
    assert whole.isascii()
    [target, dax] = parsed(whole)
    assert (target.ok, dax.ok, dax.directive) == (False, False, None)
    assert [t.ok for t in dax.nested] == [True, True, False, True]
    assert dax.nested[3].directive == "SKIP"
