# SPDX-License-Identifier: LGPL-2.1-or-later
"""The outcomes of rules: checked, skipped and why, failed and how often."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from vmemscope.rules import RULES
from vmemscope.rules.findings import Collector, Finding, Outcome, RuleOutcome, left_of
from vmemscope.rules.rule import Rule, Severity, Skip, Violation, Violations

HOLE, LOW = RULES["hole"], RULES["refcount-low"]


def violate(collector: Collector, rule: Rule = HOLE, rows: int = 1, more: int = 0) -> None:
    """Evaluate a rule that rows of facts, and more that are only counted, violate."""
    found = Violations(np.arange(rows), "message", vaddr=lambda row: row, more=more)
    collector.check(replace(rule, check=lambda: found))


def outcome(collector: Collector, rule: Rule = HOLE) -> RuleOutcome:
    [one] = collector.outcomes([rule])
    return one


def test_checked_and_nothing_found() -> None:
    collector = Collector()
    collector.checked(HOLE)
    assert outcome(collector) == RuleOutcome("hole", Outcome.CHECKED, None, 0)


def test_skipped_has_every_reason_once() -> None:
    collector = Collector()
    for reason in ("first", "second", "first"):
        collector.skipped(reason, HOLE, LOW)
    assert outcome(collector) == RuleOutcome("hole", Outcome.SKIPPED, "first; second")
    assert outcome(collector, LOW).reason == "first; second"


def test_checked_in_part_keeps_the_reason_for_the_rest() -> None:
    collector = Collector()
    collector.skipped("one table missing", HOLE)
    collector.checked(HOLE)
    assert outcome(collector) == RuleOutcome("hole", Outcome.CHECKED, "one table missing")


def test_rule_that_nobody_evaluated_is_not_passed() -> None:
    assert outcome(Collector()) == RuleOutcome("hole", Outcome.SKIPPED, "not evaluated")


def test_failed_and_skipped_in_part() -> None:
    collector = Collector()
    found = Violation("message"), Skip("the rest", partly=True)
    collector.check(replace(HOLE, check=lambda: found))
    assert outcome(collector) == RuleOutcome("hole", Outcome.FAILED, "the rest", 1)


def test_violations_count_those_without_a_finding() -> None:
    collector = Collector()
    violate(collector, rows=20, more=15)
    violate(collector, rows=15)
    assert outcome(collector).violations == 50
    findings = collector.finish()
    assert len(findings) == 16
    assert findings[-1].message == "message (and 34 more like it)"


def test_uncounted_alone_is_no_crash_and_not_lost() -> None:
    collector = Collector()
    violate(collector, rows=0, more=100)
    assert collector.finish() == ()
    assert outcome(collector) == RuleOutcome("hole", Outcome.FAILED, None, 100)


def test_no_violations_are_no_failure() -> None:
    collector = Collector()
    violate(collector, rows=0)
    assert outcome(collector).outcome is Outcome.CHECKED


def test_rule_of_another_scope_is_reported_if_it_failed() -> None:
    collector = Collector()
    violate(collector, LOW)
    assert [one.rule for one in collector.outcomes([HOLE])] == ["hole", "refcount-low"]


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (2, RuleOutcome("hole", Outcome.FAILED, "r", 40)),
        (1, RuleOutcome("hole", Outcome.FAILED, "r", 39)),
        (0, RuleOutcome("hole", Outcome.SKIPPED, "was a moment's state")),
    ],
)
def test_left_of(left: int, expected: RuleOutcome) -> None:
    finding = Finding("hole", Severity.ERROR, 0, None, None, None, "m")
    found = [finding, replace(finding, vaddr=1)]
    outcomes = (RuleOutcome("hole", Outcome.FAILED, "r", 40), RuleOutcome("x", Outcome.CHECKED))
    confirmed = left_of(outcomes, found, found[:left], "was a moment's state")
    assert confirmed == (expected, outcomes[1])


def test_left_of_keeps_a_failure_that_has_no_finding_here() -> None:
    failed = (RuleOutcome("hole", Outcome.FAILED, None, 3),)
    assert left_of(failed, [], [], "reason") == failed


@pytest.mark.parametrize(
    ("since", "until", "words"),
    [
        (None, None, "all versions"),
        ("5.19", None, "5.19+"),
        (None, "7.0", "up to 7.0"),
        ("5.19", "7.0", "5.19 to 7.0"),
    ],
)
def test_versions(since: str | None, until: str | None, words: str) -> None:
    assert replace(HOLE, since=since, until=until).versions == words
