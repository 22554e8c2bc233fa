# SPDX-License-Identifier: LGPL-2.1-or-later
"""The conclusion of a report, in at most ten lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Set
from typing import TYPE_CHECKING

from ..report.documents.full import Verdict
from ..rules import RULES
from ..rules.rule import Severity
from ..text import binary_size, count

if TYPE_CHECKING:
    from ..report.documents.finding import BugReport
    from ..report.documents.full import FullReport

__all__ = ("MAX_LINES", "conclude")

MAX_LINES = 10
#: bugs that are named, and rules whose findings are
_MOST = 3


def conclude(report: FullReport) -> Verdict:
    """
    Return the verdict on a report.

    A known bug of the kernel comes first: it explains findings, and perhaps the crash. Then
    come findings that no bug explains, the log, and what could not be read.
    """
    summary = report.summary
    if summary.errors:
        state = "wrong"
    elif summary.warnings:
        state = "warned"
    elif report.log.events:
        state = "trouble"
    else:
        state = "partial" if report.partial else "sound"
    # What matters less goes first: further bugs and rules, which only their number is left of.
    for most in range(_MOST, 0, -1):
        lines = _lines(report, most)
        if len(lines) <= MAX_LINES:
            break
    return Verdict(state=state, lines=tuple(lines[:MAX_LINES]))


def _lines(report: FullReport, most: int) -> list[str]:
    """
    Return the lines of a verdict.

    :param most: bugs that are named, and rules whose findings are
    """
    summary = report.summary
    lines = [*_bugs(report, most), *_findings(report, most), *_log(report, most == _MOST)]
    if not lines:
        lines.append(
            "nothing is wrong in what could be read"
            if report.partial
            else "sound: nothing is wrong in the memory map, and the log names no page"
            if not summary.left_out.findings
            else "nothing is wrong but what is left out"
        )
    if hidden := summary.left_out.findings:
        lines.append(f"{count(hidden, 'finding')} left out, as the user asked")
    lines += _unread(report)
    return [*lines, _devices(report), _log_searched(report)]


def _bugs(report: FullReport, most: int) -> Iterator[str]:
    by_bug: dict[str, list[BugReport]] = {}
    for one in report.bugs:
        by_bug.setdefault(one.bug, []).append(one)
    for number, several in enumerate(by_bug.values()):
        bug = several[0]
        names = ", ".join(dict.fromkeys(_owner(one) for one in several[:3]))
        if len(several) > 3:
            names += f" and {len(several) - 3} more"
        explained = sum(s.violations for one in several for s in one.symptoms)
        text = f"kernel bug {bug.bug}{f' in {names}' if names else ''}: this kernel {bug.title}"
        text += f" ({bug.versions}); it explains {count(explained, 'violation')}"
        if number == most - 1 and len(by_bug) > most:
            text += f"; {count(len(by_bug) - most, 'more known bug')} below"
        yield text
        if not number:
            yield f"what it means: {bug.meaning}"
            yield from _since(report, {one.pfn for one in report.pages if bug.bug in one.bugs})
            yield f"what to do: {bug.action}"
        if number == most - 1:
            return


def _owner(bug: BugReport) -> str:
    if bug.name is not None:
        return bug.name
    return f"the pagemap at {bug.pgmap:#x}" if bug.pgmap is not None else "HugeTLB"


def _since(report: FullReport, pages: Set[int]) -> Iterator[str]:
    """
    Yield when the log first names a page that something is about, if it does.

    :param pages: page frames
    """
    first = next((one for one in report.log.events if pages & set(one.pages)), None)
    if first is not None:
        where = f" in {first.functions[0]}()" if first.functions else ""
        named = [f"{pfn:#x}" for pfn in first.pages if pfn in pages]
        yield (
            f"since: {first.time:.3f} s after boot, {first.kind}{where} about a page of it"
            f" (pfn {', '.join(named[:4])})"
        )


def _findings(report: FullReport, most: int) -> Iterator[str]:
    """Yield the rules that are violated, of those that no bug explains."""
    explained = {
        (one.name or (one.pgmap is not None and f"{one.pgmap:#x}") or None, s.rule)
        for one in report.bugs
        for s in one.symptoms
    }
    rest = [
        one
        for one in report.covering()
        if one.finding.severity is not Severity.NOTE
        and (one.owner, one.finding.rule) not in explained
    ]
    rules = Counter(one.finding.rule for one in rest)
    violations = _violations(report)
    severities = {one.finding.rule: one.finding.severity for one in reversed(rest)}
    for number, (name, found) in enumerate(
        sorted(rules.items(), key=lambda item: severities[item[0]])
    ):
        owners = dict.fromkeys(one.owner for one in rest if one.finding.rule == name and one.owner)
        where = f" in {', '.join(list(owners)[:3])}" if owners else ""
        rule = RULES.get(name)
        also = dict.fromkeys(
            other for one in rest if one.finding.rule == name for other in one.also
        )
        where += f", which breaks {', '.join(also)}, too" if also else ""
        must = f" (must hold: {rule.holds})" if rule is not None else ""
        number_of = max(found, violations[name] if not report.summary.left_out.findings else 0)
        text = f"{count(number_of, str(severities[name]))} {name}{where}{must}"
        last = number == most - 1
        if last and len(rules) > most:
            more = len(rules) - most
            text += f"; {count(more, 'more rule does', 'more rules do')} not hold"
        yield text
        if not number and not report.bugs and rule is not None:
            yield f"what it means: {rule.meaning}"
            yield from _since(report, _pages_with(report, name))
            yield f"what to check next: {rule.look_at}"
        if last:
            return


def _pages_with(report: FullReport, rule: str) -> set[int]:
    """Return the pages named by the log that a rule's findings are about."""
    return {
        one.pfn
        for one in report.pages
        if any(covering.finding.rule == rule for covering in one.findings)
    }


def _violations(report: FullReport) -> Counter[str]:
    """Count violations by rule, with those that are not listed one by one."""
    counted: Counter[str] = Counter()
    for audit in (report.pgmap, report.hugetlb, report.memmap):
        for outcome in audit.all_outcomes() if audit is not None else ():
            counted[outcome.rule] += outcome.violations
    return counted


def _log(report: FullReport, whole: bool) -> Iterator[str]:
    events = report.log.events
    if not events:
        return
    kinds = Counter(one.kind for one in events)
    first = events[0]
    said = ", ".join(f"{kind} ({number})" if number > 1 else kind for kind, number in kinds.items())
    pages = list(dict.fromkeys(pfn for one in events for pfn in one.pages))
    named = ""
    if pages:
        shown = ", ".join(f"{pfn:#x}" for pfn in pages[:4])
        more = len(pages) - 4 + report.pages_left_out
        named = f"; it names pfn {shown}{f' and {more} more' if more > 0 else ''}"
    yield f"the log has trouble from {first.time:.3f} s after boot on: {said}{named}"
    if not whole:
        return
    covered = [one for one in report.pages if one.findings or one.bugs]
    if covered and len(covered) == len(report.pages):
        yield "every page that is named is part of a finding above"
    elif covered:
        verb = "is" if len(covered) == 1 else "are"
        yield (
            f"of {count(len(report.pages), 'page')} named, {len(covered)} {verb} part of a finding"
        )
    elif report.pages and not report.summary.errors:
        first_page = report.pages[0]
        if first_page.page is not None and first_page.page.state:
            poisoned = [line for line in first_page.page.state if "poisoned" in line]
            about = "; ".join([first_page.page.state[0], *poisoned])
            yield f"pfn {first_page.pfn:#x}: {about}"
        yield "no finding is about these pages"


def _unread(report: FullReport) -> Iterator[str]:
    if report.not_read:
        more = len(report.not_read) - 1
        yield f"not read: {report.not_read[0]}" + (f", and {more} more" if more else "")


def _devices(report: FullReport) -> str:
    """Return the sizes of the memory map in a line."""
    parts = []
    if report.memmap is not None:
        summary = report.memmap.summary
        parts.append(
            f"memory map: {binary_size(summary.frame_bytes)}, {binary_size(summary.saved_bytes)}"
            " saved by sharing"
        )
    if report.pgmap is not None:
        states = Counter(one.state for one in report.pgmap.pagemaps)
        text = ", ".join(f"{number} {state}" for state, number in states.items())
        pagemaps = count(len(report.pgmap.pagemaps), "pagemap")
        parts.append(f"{pagemaps} ({text})" if text else pagemaps)
    if report.hugetlb is not None and report.hugetlb.summary.folios:
        folios = report.hugetlb.summary
        parts.append(f"{count(folios.folios, 'HugeTLB folio')}, {folios.optimized} optimized")
    return "; ".join(parts) or "no audit could be made"


def _log_searched(report: FullReport) -> str:
    log = report.log
    if not log.messages:
        return "the log could not be read"
    lost = f" ({log.overwritten} older ones were overwritten)" if log.overwritten else ""
    return f"log: {count(log.messages, 'message')} searched{lost}"
