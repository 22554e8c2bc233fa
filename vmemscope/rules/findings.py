# SPDX-License-Identifier: LGPL-2.1-or-later
"""Findings and outcomes: where a rule does not hold, and which rules were evaluated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import Enum

from msgspec.structs import replace

from ..fields import Address, Count, Facts, RuleId, Text
from .rule import Rule, Severity, Skip, Violation, Violations

__all__ = (
    "Collector",
    "Finding",
    "Outcome",
    "RuleOutcome",
    "left_of",
)

#: findings of one rule that are reported one by one, for each pagemap
_LIMIT = 16


class Finding(Facts, frozen=True):
    """One violation of one rule."""

    #: identifier of the rule
    rule: RuleId
    severity: Severity
    #: virtual address that it is at, in bytes, or ``None``
    vaddr: Address | None
    #: page frame that backs ``vaddr``, or ``None``
    pfn: Count | None
    expected: Text | int | None
    observed: Text | int | None
    message: Text


class Outcome(Enum):
    """What the evaluation of a rule came to."""

    #: it holds wherever it could be evaluated
    CHECKED = "checked"
    #: it does not apply, or its facts could not be read
    SKIPPED = "skipped"
    #: it does not hold
    FAILED = "failed"


class RuleOutcome(Facts, frozen=True):
    """The outcome of one rule for one pagemap, or for the target as a whole."""

    #: identifier of the rule
    rule: RuleId
    outcome: Outcome
    #: why it was skipped, or where it was skipped in part; ``None`` if nowhere
    reason: Text | None = None
    #: places where it does not hold, including those without a finding
    violations: Count = 0


def left_of(
    outcomes: Iterable[RuleOutcome], found: Iterable[Finding], left: Iterable[Finding], reason: str
) -> tuple[RuleOutcome, ...]:
    """
    Return outcomes without the findings that were not confirmed.

    :param found: all findings of these outcomes
    :param left: the confirmed ones
    :param reason: why a rule without a confirmed finding counts as skipped
    """
    kept = Counter(one.rule for one in left)
    dropped = Counter(one.rule for one in found)
    dropped.subtract(kept)
    return tuple(
        one
        if one.outcome is not Outcome.FAILED or not dropped[one.rule]
        else replace(one, violations=one.violations - dropped[one.rule])
        if kept[one.rule]
        else RuleOutcome(one.rule, Outcome.SKIPPED, reason)
        for one in outcomes
    )


#: reason of a rule that no audit evaluated or skipped: a bug, not a state of the target
NOT_EVALUATED = "not evaluated"


class Collector:
    """
    Collects the findings and outcomes of rules.

    One rule may be evaluated for some parts of a pagemap and skipped for others. A
    bounded number of each rule's findings is kept, the rest counted.
    """

    def __init__(self) -> None:
        self._findings: list[Finding] = []
        self._seen: Counter[str] = Counter()
        self._checked: set[str] = set()
        # Reasons in the order given: a dict for its keys.
        self._skipped: dict[str, dict[str, None]] = {}

    def checked(self, *rules: Rule) -> None:
        """Record that rules were evaluated for facts that could be read."""
        self._checked.update(rule.id for rule in rules)

    def skipped(self, reason: str, *rules: Rule) -> None:
        """
        Record that rules were not evaluated, or not for all of a pagemap.

        :param reason: why, a clause without a full stop
        """
        for rule in rules:
            self._skipped.setdefault(rule.id, {})[reason] = None

    def check(self, rule: Rule, *facts: object) -> None:
        """
        Evaluate a rule, and keep its outcome and findings.

        :param facts: what the rule's check takes
        """
        found = rule.check(*facts)
        evaluated = True
        for one in (found,) if isinstance(found, Violations) else found:
            if isinstance(one, Skip):
                self.skipped(one.reason, rule)
                evaluated &= one.partly
                continue
            room = max(_LIMIT - self._seen[rule.id], 0)
            several = [one] if isinstance(one, Violation) else one
            first = several[:room] if isinstance(several, list) else several.first(room)
            self._seen[rule.id] += len(several)
            self._findings += [
                Finding(rule.id, rule.severity, v.vaddr, v.pfn, v.expected, v.observed, v.sentence)
                for v in first
            ]
        if evaluated:
            self.checked(rule)

    def has(self, rule: Rule) -> bool:
        """Return whether a rule was violated."""
        return self._seen[rule.id] > 0

    def finish(self) -> tuple[Finding, ...]:
        """Return the findings, worst first and in order of address."""
        findings = list(self._findings)
        kept = Counter(f.rule for f in findings)
        for rule, count in self._seen.items():
            if kept[rule] and count > kept[rule]:
                last = max(i for i, f in enumerate(findings) if f.rule == rule)
                findings[last] = replace(
                    findings[last],
                    message=f"{findings[last].message} (and {count - kept[rule]} more like it)",
                )
        return tuple(sorted(findings, key=lambda f: (f.severity, f.rule, f.vaddr or 0)))

    def outcomes(self, rules: Iterable[Rule]) -> tuple[RuleOutcome, ...]:
        """
        Return the outcome of each rule.

        :param rules: those to report; a rule that failed is reported even if it is not
            among them
        """
        names = dict.fromkeys(rule.id for rule in rules)
        names.update(dict.fromkeys(rule for rule, count in self._seen.items() if count))
        return tuple(self._outcome(name) for name in names)

    def _outcome(self, rule: str) -> RuleOutcome:
        reason = "; ".join(self._skipped.get(rule, ())) or None
        if self._seen[rule]:
            return RuleOutcome(rule, Outcome.FAILED, reason, self._seen[rule])
        if rule in self._checked:
            return RuleOutcome(rule, Outcome.CHECKED, reason)
        return RuleOutcome(rule, Outcome.SKIPPED, reason or NOT_EVALUATED)
