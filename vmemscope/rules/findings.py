# SPDX-License-Identifier: LGPL-2.1-or-later
"""Findings and outcomes: where a rule does not hold, and which rules were evaluated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import Enum

from msgspec.structs import replace

from ..fields import Address, Count, Facts, RuleId, Text
from .rule import Rule, Severity, Skip, Value, Violation, Violations

__all__ = (
    "Collector",
    "Finding",
    "Outcome",
    "RuleOutcome",
    "left_of",
)

#: findings of one rule that are told one by one, for each pagemap
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
    """What came of evaluating a rule."""

    #: it was looked at, and holds wherever it could be
    CHECKED = "checked"
    #: it does not apply, or what it takes could not be read
    SKIPPED = "skipped"
    #: it does not hold
    FAILED = "failed"


class RuleOutcome(Facts, frozen=True):
    """What came of evaluating one rule for one pagemap, or for the target as a whole."""

    #: identifier of the rule
    rule: RuleId
    outcome: Outcome
    #: why it was skipped; or where, if only in part; ``None`` if nowhere
    reason: Text | None = None
    #: places where it does not hold, those too that are not told one by one
    violations: Count = 0


def left_of(
    outcomes: Iterable[RuleOutcome], found: Iterable[Finding], left: Iterable[Finding], reason: str
) -> tuple[RuleOutcome, ...]:
    """
    Get what came of rules when some of what was found turned out not to be so.

    :param found: all findings that the outcomes are of
    :param left: those that it comes down to
    :param reason: why a rule of which none is left is to be taken for skipped
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


#: reason of a rule that nobody evaluated and nobody said why: a bug, not a state of the target
NOT_EVALUATED = "not evaluated"


class Collector:
    """
    Collect what came of evaluating rules: what was checked, skipped and found.

    Where a rule is evaluated, :meth:`checked` says so, and where it is not,
    :meth:`skipped` says why; both may be said of one rule for different parts
    of a pagemap. Of findings a bounded number of each rule is told one by one,
    the rest counted.
    """

    def __init__(self) -> None:
        self._findings: list[Finding] = []
        self._seen: Counter[str] = Counter()
        self._checked: set[str] = set()
        # Reasons in the order given: a dict for its keys.
        self._skipped: dict[str, dict[str, None]] = {}

    def checked(self, *rules: Rule) -> None:
        """Record that rules were held against something that could be read."""
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
            elif isinstance(one, Violations):
                first = [*one.first(self.room(rule))]
                for violation in first:
                    self._add(rule, violation)
                self._seen[rule.id] += len(one) - len(first)
            else:
                self._add(rule, one)
        if evaluated:
            self.checked(rule)

    def _add(self, rule: Rule, one: Violation) -> None:
        self.add(rule, one.sentence, **{k: v for k, v in one._asdict().items() if k != "sentence"})

    def add(
        self,
        rule: Rule,
        message: str,
        *,
        vaddr: int | None = None,
        pfn: int | None = None,
        expected: Value = None,
        observed: Value = None,
    ) -> None:
        """Add one finding."""
        self._seen[rule.id] += 1
        if self._seen[rule.id] <= _LIMIT:
            self._findings.append(
                Finding(rule.id, rule.severity, vaddr, pfn, expected, observed, message)
            )

    def add_uncounted(self, rule: Rule, more: int) -> None:
        """Count findings of a rule that were not worth building one by one."""
        self._seen[rule.id] += more

    def room(self, rule: Rule) -> int:
        """Tell how many more findings of a rule will be told one by one."""
        return max(_LIMIT - self._seen[rule.id], 0)

    def finish(self) -> tuple[Finding, ...]:
        """Get the findings, worst first and in order of address."""
        findings = list(self._findings)
        told = Counter(f.rule for f in findings)
        for rule, count in self._seen.items():
            if told[rule] and count > told[rule]:
                last = max(i for i, f in enumerate(findings) if f.rule == rule)
                findings[last] = replace(
                    findings[last],
                    message=f"{findings[last].message} (and {count - told[rule]} more like it)",
                )
        return tuple(sorted(findings, key=lambda f: (f.severity, f.rule, f.vaddr or 0)))

    def outcomes(self, rules: Iterable[Rule]) -> tuple[RuleOutcome, ...]:
        """
        Get what came of each rule.

        :param rules: those to tell of; one that was found broken is told too
            if it is not among them
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
