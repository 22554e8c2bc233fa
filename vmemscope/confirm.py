# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Audit a kernel that may change while it is read, and report only what is certain.

A device may come or go between the reads of page tables and reference counts. So an
audit of a running kernel consists of passes. A part of a report (a pagemap, or all of
it) counts only if it was the same at the end of its pass as at the start. A violation
counts only if it is in at least two passes that count, and in all of them; and a pass
counts only if the kernel announced no device meanwhile, as one that went and came back
can have all its structures and frames where they were.

A dump is read once. If the kernel stopped while it set up a device, violations of that
device are not reported.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar, cast

from msgspec import Struct

from .errors import TargetError
from .rules.findings import Finding, RuleOutcome, left_of
from .rules.rule import Severity
from .types import sensible_types

if TYPE_CHECKING:
    from .machine import Kernel

__all__ = (
    "Division",
    "Key",
    "Part",
    "Pass",
    "Whole",
    "confirmed",
    "is_certain",
    "merged",
    "notes_of",
    "violations_of",
)

#: seconds between two passes: onlining or removing a device takes less per section
_PAUSE = 0.2
#: passes until a part that still changes is reported as changing
_MAX_PASSES = 5

CHANGING = "a device was being set up or torn down during the audit"
STOPPED = "a device was being set up or torn down when the kernel stopped"
_PASSING = "it did not hold in one pass, and held in another"

ReportT = TypeVar("ReportT")
#: a part of a report: the address of a pagemap, or ``None`` for the rest
Key = int | None


class Part(NamedTuple):
    """Findings and outcomes of a part of a report."""

    findings: tuple[Finding, ...]
    outcomes: tuple[RuleOutcome, ...]


class Division(Protocol[ReportT]):
    """How a report divides into parts that are confirmed separately."""

    def parts(self, report: ReportT) -> dict[Key, Part]:
        """Divide a report."""

    def key(self, finding: Finding) -> tuple[object, ...]:
        """Return what identifies a finding in all passes."""

    def changed(self, report: ReportT, before: Kernel, after: Kernel) -> set[Key]:
        """
        Return the parts that changed during a pass.

        :param before: the kernel as the pass read it
        :param after: the same kernel, read again after the pass
        """

    def half_done(self, report: ReportT, kernel: Kernel) -> set[Key]:
        """Return the parts with findings that the kernel was changing when it stopped."""

    def put_together(
        self, report: ReportT, parts: Mapping[Key, Part], unsettled: Iterable[Key], reason: str
    ) -> ReportT:
        """
        Return a report with other findings.

        :param parts: the parts that differ from the report's
        :param unsettled: parts whose violations are not certain
        :param reason: why they are not certain
        """


# Python 3.10 has no generic NamedTuple.
class Pass(Struct, Generic[ReportT], frozen=True):
    """One pass over a live kernel."""

    report: ReportT
    parts: dict[Key, Part]
    #: the parts that did not change during the pass
    steady: set[Key]


@sensible_types()
def confirmed(
    kernel: Kernel,
    once: Callable[[Kernel], ReportT],
    division: Division[ReportT],
    sleep: Callable[[float], None] = time.sleep,
) -> ReportT:
    """
    Audit a kernel; if it is live, make passes until all violations are certain.

    :param once: makes one pass
    :param sleep: waits that many seconds between passes
    :raises VmemscopeError: if the kernel can't be audited
    """
    if not kernel.live:
        report = once(kernel)
        stopped = division.half_done(report, kernel)
        return division.put_together(report, {}, stopped, STOPPED) if stopped else report
    from drgn import FaultError

    passes: list[Pass[ReportT]] = []
    failure: Exception | None = None
    for number in range(_MAX_PASSES):
        if number:
            sleep(_PAUSE)
            kernel = kernel.again()
        announced = kernel.uevents
        try:
            report = once(kernel)
            after = kernel.again()
            changed = division.changed(report, kernel, after)
        except (FaultError, OSError) as e:
            # The kernel freed tables and structures during the pass.
            failure = e
            continue
        parts = division.parts(report)
        if after.uevents != announced:
            changed |= {key for key, part in parts.items() if violations_of(part.findings)}
        passes.append(Pass(report, parts, parts.keys() - changed))
        if is_certain(passes):
            break
    if not passes:
        raise TargetError(f"the kernel could not be read in {_MAX_PASSES} attempts: {failure}")
    return merged(passes, division)


def is_certain(passes: Sequence[Pass[ReportT]]) -> bool:
    """Return whether all parts are steady, and those with violations were in two passes."""
    last = passes[-1]
    return last.steady >= last.parts.keys() and all(
        sum(key in one.steady for one in passes) > 1
        for key, part in last.parts.items()
        if violations_of(part.findings)
    )


def merged(passes: Sequence[Pass[ReportT]], division: Division[ReportT]) -> ReportT:
    """
    Return the last report, with the violations that all passes have.

    A part that was not steady for long enough has none, and says so.
    """
    last = passes[-1]
    kept: dict[Key, Part] = {}
    unsettled: list[Key] = []
    for key, part in last.parts.items():
        others = [one.parts[key].findings for one in passes[:-1] if key in one.steady]
        if key not in last.steady or (violations_of(part.findings) and not others):
            unsettled.append(key)
            continue
        known = [{division.key(one) for one in other} for other in others]
        left = tuple(
            one
            for one in part.findings
            if one.severity is Severity.NOTE or all(division.key(one) in keys for keys in known)
        )
        if left != part.findings:
            outcomes = left_of(part.outcomes, part.findings, left, _PASSING)
            kept[key] = Part(left, outcomes)
    if not (kept or unsettled):
        return last.report
    return division.put_together(last.report, kept, unsettled, CHANGING)


class Whole(Generic[ReportT]):
    """A :class:`Division` of reports that are confirmed as one."""

    def parts(self, report: ReportT) -> dict[Key, Part]:
        whole: Any = report
        return {None: Part(whole.findings, whole.outcomes)}

    def key(self, finding: Finding) -> tuple[object, ...]:
        return finding.rule, finding.vaddr, finding.pfn

    def changed(self, report: ReportT, before: Kernel, after: Kernel) -> set[Key]:
        return set()

    def half_done(self, report: ReportT, kernel: Kernel) -> set[Key]:
        return set()

    def put_together(
        self, report: ReportT, parts: Mapping[Key, Part], unsettled: Iterable[Key], reason: str
    ) -> ReportT:
        whole: Any = report
        part, not_read = parts.get(None), whole.not_read
        if part is None:
            part, not_read = notes_of(self.parts(report)[None], reason), (*not_read, reason)
        return self.replaced(report, part, not_read)

    def replaced(self, report: ReportT, part: Part, not_read: tuple[str, ...]) -> ReportT:
        """Return a report with other findings and outcomes."""
        whole: Any = report
        return cast(
            ReportT,
            whole.changed(findings=part.findings, outcomes=part.outcomes, not_read=not_read),
        )


def notes_of(part: Part, reason: str) -> Part:
    """
    Return a part without its violations.

    :param reason: why their rules are not certain
    """
    left = tuple(one for one in part.findings if one.severity is Severity.NOTE)
    return Part(left, left_of(part.outcomes, part.findings, left, reason))


def violations_of(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that are not notes."""
    return [one for one in findings if one.severity is not Severity.NOTE]
