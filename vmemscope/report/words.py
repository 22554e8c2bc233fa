# SPDX-License-Identifier: LGPL-2.1-or-later
"""Phrases that the renderers share."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from msgspec import UnsetType

from ..rules.findings import Outcome
from ..rules.rule import Severity
from ..text import binary_size, count, safe

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from ..rules.findings import Finding, RuleOutcome
    from .documents.common import SharedPages, TargetInfo, TargetReport
    from .documents.finding import BugReport
    from .documents.pgmap import PagemapReport


__all__ = (
    "amount",
    "count",
    "ending",
    "finding_line",
    "header",
    "label",
    "left_out",
    "not_read",
    "outcome_counts",
    "safe",
    "shared_line",
    "tally",
    "verdict",
    "verdict_of",
    "vmemmap_in_frames",
)

_TARGETS = {"core": "core dump", "live": "running kernel", "qemu": "QEMU guest"}
#: prefix of the path of a simulated kernel, before its scenario
_SIMULATED = "sim:"


def amount(size: int) -> str:
    """Return a number of bytes in words: a size, or "nothing"."""
    return binary_size(size) if size else "nothing"


def vmemmap_in_frames(pages: int, frames: int, page_size: int) -> str:
    """Return how many pages of vmemmap are in how many frames, with their sizes."""
    return (
        f"{count(pages, 'page')} of vmemmap ({binary_size(pages * page_size)}) in"
        f" {count(frames, 'frame')} ({binary_size(frames * page_size)})"
    )


def label(one: PagemapReport) -> str:
    """Return the name of a pagemap, or the address of its structure."""
    return safe(one.label)


def shared_line(who: str, shared: SharedPages | UnsetType, pages: int) -> list[str]:
    """
    Return that pages of the vmemmap describe other memory, too: one line, none if they do not.

    :param who: whose pages, escaped
    :param pages: how many count with it
    """
    if isinstance(shared, UnsetType):
        return []
    return [f"{who} {'' if pages else 'has no page of its own: it '}{safe(shared.sentence)}"]


def header(target: TargetInfo) -> str:
    """Return a line about the target."""
    kind, path = _TARGETS.get(target.kind, safe(target.kind)), target.path
    if target.kind == "core" and path.startswith(_SIMULATED):
        kind, path = "simulated kernel", path.removeprefix(_SIMULATED)
    return (
        f"{kind} {safe(path)}:"
        f" Linux {safe(target.osrelease)}, {safe(target.arch)},"
        f" {binary_size(target.page_size)} pages, types from {safe(target.types).upper()}"
    )


def finding_line(finding: Finding, owner: str | None) -> str:
    """
    Return a finding on one line.

    :param owner: name of its pagemap, ``None`` if it is of no single one
    """
    where = f" at {finding.vaddr:#x}" if finding.vaddr is not None else ""
    if finding.pfn is not None:
        where += f" pfn {finding.pfn:#x}"
    compared = ""
    if finding.expected is not None:
        compared += f": expected {safe(str(finding.expected))}"
    if finding.observed is not None:
        compared += f"{',' if compared else ':'} observed {safe(str(finding.observed))}"
    return (
        f"{finding.severity} {safe(finding.rule)} {owner or '-'}{where}:"
        f" {safe(finding.message)}{compared}"
    )


def bug_lines(bugs: Iterable[BugReport]) -> list[str]:
    """Return a line for each known bug of the kernel, with what it explains."""
    lines = []
    for one in bugs:
        owner = one.name or (f"the pagemap at {one.pgmap:#x}" if one.pgmap is not None else "-")
        symptoms = ", ".join(f"{one.rule} {one.violations}" for one in one.symptoms)
        lines.append(
            f"kernel bug {safe(one.bug)} {safe(owner)}: this kernel {safe(one.title)}"
            f" ({safe(one.versions)}; seen in {safe(one.seen)}). {safe(one.meaning)} What to do:"
            f" {safe(one.action)}. Symptoms: {safe(symptoms)}"
        )
    return lines


def not_read(things: Iterable[str]) -> list[str]:
    """Return a line for each thing that could not be read."""
    return [f"not read: {safe(what)}" for what in things]


def left_out(report: TargetReport) -> list[str]:
    """Return a line for each reason why the user wanted findings left out."""
    found = report.summary.left_out
    return [
        *(f"left out: {safe(one)}" for one in found.reasons),
        *(f"ignored no more: {safe(one)}" for one in found.expired),
    ]


def outcome_counts(outcomes: Collection[RuleOutcome], findings: Iterable[Finding]) -> str:
    """
    Return the number of rules by outcome, in words.

    A rule with notes only did not fail: it is counted apart, and so is one whose findings
    are left out.
    """
    counts = Counter(one.outcome for one in outcomes)
    findings = tuple(findings)
    notes = {one.rule for one in findings if one.severity is Severity.NOTE}
    shown = {one.rule for one in findings}
    noted = sum(one.outcome is Outcome.FAILED and one.rule in notes for one in outcomes)
    hidden = sum(one.outcome is Outcome.FAILED and one.rule not in shown for one in outcomes)
    counts[Outcome.FAILED] -= noted + hidden
    words = [f"{counts[outcome]} {outcome.value}" for outcome in Outcome]
    words += [f"{noted} with notes"] if noted else []
    return ", ".join([*words, f"{hidden} left out"] if hidden else words)


def tally(findings: Iterable[Finding]) -> dict[Severity, int]:
    """Return the number of findings of each severity."""
    counted = dict.fromkeys(Severity, 0)
    for finding in findings:
        counted[finding.severity] += 1
    return counted


def verdict(counted: dict[Severity, int], partial: bool) -> str:
    """
    Return the verdict on findings, in a few words.

    :param partial: whether something could not be read
    """
    found = [count(counted[s], str(s)) for s in Severity if counted[s]]
    if not counted[Severity.ERROR]:
        found.insert(0, "nothing wrong in what could be read" if partial else "sound")
        if counted[Severity.WARNING]:
            found[0] = "no errors" + (" in what could be read" if partial else "")
    elif partial:
        found.append("and not everything could be read")
    return ", ".join(found)


def verdict_of(report: TargetReport) -> str:
    """Return the verdict on a whole report, in a few words."""
    summary = report.summary
    counted = {
        Severity.ERROR: summary.errors,
        Severity.WARNING: summary.warnings,
        Severity.NOTE: summary.notes,
    }
    words = verdict(counted, summary.partial)
    hidden = summary.left_out.findings
    return f"{words}, {count(hidden, 'finding')} left out" if hidden else words


def ending(report: TargetReport) -> list[str]:
    """
    Return the end of a report on a whole target: what could not be read, outcomes,
    findings, and the verdict.
    """
    unread = [*not_read(report.not_read), *left_out(report)]
    lines = [*unread, ""] if unread else []
    outcomes = report.all_outcomes()
    lines.append(f"rules: {outcome_counts(outcomes, report.findings)}")
    lines += [
        f"  {one.rule}: {'skipped' if one.outcome is Outcome.SKIPPED else 'not for all'}:"
        f" {safe(one.reason)}"
        for one in outcomes
        if one.reason
    ]
    lines.append("")
    if bugs := bug_lines(getattr(report, "bugs", ())):
        lines += [*bugs, ""]
    if report.findings:
        lines += [*(finding_line(finding, None) for finding in report.findings), ""]
    return [*lines, verdict_of(report)]
