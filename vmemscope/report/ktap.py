# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A report in the kernel's test format, for the CI of a kernel.

KTAP version 1 (``Documentation/dev-tools/ktap.rst``): a test for the target and
one for each pagemap, with a nested test for each rule. A test fails if the rule
has findings of severity error; with lesser findings, which are reported, the test
is ok. So all tests are ok unless the exit status is 1.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from ..rules.findings import Outcome, RuleOutcome
from ..rules.rule import Severity
from .words import bug_lines, finding_line, header, label, left_out, not_read, safe, verdict_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..rules.findings import Finding
    from .documents.pgmap import PagemapReport, Report

__all__ = ("render_ktap",)

_VERSION = "KTAP version 1"
#: indentation of one level of nesting
_INDENT = "  "
#: name of the test of no single pagemap
_TARGET = "target"


def render_ktap(report: Report, only: PagemapReport | None = None) -> str:
    """
    Return a report as KTAP.

    :param only: leave out all other pagemaps
    """
    pagemaps = report.pagemaps if only is None else (only,)
    groups: list[tuple[str, str | None, list[_Test]]] = [
        (_TARGET, None, _tests(report.outcomes, report.findings))
    ]
    names = Counter(label(one) for one in report.pagemaps)
    for one in pagemaps:
        name = label(one)
        # Tests need distinct names.
        unique = names[name] == 1 and name != _TARGET
        tests = _tests(one.outcomes, one.findings)
        groups.append((name if unique else f"{name} {one.address:#x}", name, tests))
    lines = [_VERSION, f"1..{len(groups)}", _diagnostic(header(report.target))]
    bugs = [bug for bug in report.bugs if only is None or bug.pgmap == only.address]
    unread = [*not_read(report.summary.not_read), *left_out(report)]
    lines += [_diagnostic(line) for line in (*unread, *bug_lines(bugs))]
    for number, (name, who, tests) in enumerate(groups, 1):
        lines += [_INDENT + line for line in _nested(tests, who)]
        lines.append(_result(number, name, _bubbled(tests)))
    lines.append(_diagnostic(verdict_of(report)))
    return "\n".join(lines) + "\n"


class _Test(NamedTuple):
    rule: str
    ok: bool
    #: reason of a test that was skipped
    skip: str | None
    #: where a rule was not evaluated that otherwise was
    part: str | None
    findings: list[Finding]


def _tests(outcomes: Iterable[RuleOutcome], findings: Iterable[Finding]) -> list[_Test]:
    """Return a test of each rule, including rules with findings but no outcome."""
    by_rule: dict[str, list[Finding]] = {}
    for finding in findings:
        by_rule.setdefault(finding.rule, []).append(finding)
    reported = {one.rule: one for one in outcomes}
    for rule in by_rule:
        reported.setdefault(rule, RuleOutcome(rule, Outcome.FAILED))
    tests = []
    for rule, one in reported.items():
        found = by_rule.get(rule, [])
        skipped = one.outcome is Outcome.SKIPPED and not found
        tests.append(
            _Test(
                rule,
                all(finding.severity is not Severity.ERROR for finding in found),
                (one.reason or "not evaluated") if skipped else None,
                None if skipped else one.reason,
                found,
            )
        )
    return tests


def _nested(tests: list[_Test], who: str | None) -> list[str]:
    lines = [_VERSION, f"1..{len(tests)}"]
    for number, test in enumerate(tests, 1):
        # Diagnostics of a test stand before its result.
        lines += [_diagnostic(finding_line(finding, who)) for finding in test.findings]
        if test.part is not None:
            lines.append(_diagnostic(f"{test.rule} not evaluated for all: {test.part}"))
        lines.append(_result(number, test.rule, test))
    return lines


def _bubbled(tests: list[_Test]) -> _Test:
    """Return the result of a test from the nested ones."""
    skipped = all(test.skip is not None for test in tests)
    return _Test(
        "",
        all(test.ok for test in tests),
        "no rule could be evaluated" if skipped else None,
        None,
        [],
    )


def _result(number: int, name: str, test: _Test) -> str:
    line = f"{'ok' if test.ok else 'not ok'} {number} {_description(name)}"
    return line if test.skip is None else f"{line} # SKIP {_description(test.skip)}"


def _description(text: str) -> str:
    # A hash sign ends a description, and would start a directive.
    return safe(text).replace("#", "\\x23").strip()


def _diagnostic(text: str) -> str:
    return f"# {safe(text)}"
