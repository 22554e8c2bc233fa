# SPDX-License-Identifier: LGPL-2.1-or-later
"""All audits and the log, as text and as Markdown: the verdict, then part by part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..text import count
from .hugetlb import render_hugetlb
from .markdown import block, prose
from .memmap import render_memmap
from .table import render_all
from .words import bug_lines, finding_line, header, left_out, not_read, safe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .documents.full import ExplainedPage, FullReport, LogEvent

__all__ = ("heading", "parts", "render_full", "render_full_markdown", "seen")

#: lines of an event that text and Markdown show; HTML and JSON have more
_LINES = 6
#: how lines start that say nothing of memory
_NOISE = ("Modules linked in:", "Unloaded tainted modules:", "Hardware name:", "Code:", "raw:")


def render_full(report: FullReport, width: int) -> str:
    """
    Return a report on everything as text.

    :param width: columns of tables (:mod:`.width`)
    """
    lines = [header(report.target), "", *(safe(line) for line in report.verdict.lines)]
    for title, part in parts(report, width):
        lines += ["", f"== {title} ==", "", *part]
    return "\n".join(lines) + "\n"


def render_full_markdown(report: FullReport, width: int) -> str:
    """Return a report on everything as GitHub's Markdown; parameters as :func:`render_full`."""
    lines = [
        f"## vmemscope: {heading(report)}", "", *block([header(report.target)]), "",
        *(f"* {prose(safe(line))}" for line in report.verdict.lines),
    ]  # fmt: skip
    for title, part in parts(report, width):
        lines += ["", f"### {title}", "", *block(part)]
    return "\n".join(lines) + "\n"


#: by :attr:`.Verdict.state`
_HEADINGS = {
    "sound": "sound",
    "wrong": "errors found",
    "warned": "warnings, no errors",
    "partial": "nothing wrong in what could be read",
    "trouble": "the audits found nothing, the log has trouble",
}


def heading(report: FullReport) -> str:
    """Return the verdict in a few words."""
    return _HEADINGS.get(report.verdict.state, safe(report.verdict.state))


def parts(report: FullReport, width: int) -> Iterator[tuple[str, list[str]]]:
    """Yield title and lines of each part that has something to say."""
    if bugs := bug_lines(report.bugs):
        yield "Known bugs of this kernel", bugs
    if report.pages:
        yield "Pages that the log and registers name", [*_pages(report)]
    if report.log.events:
        yield "The log", [*_log(report)]
    if report.pgmap is not None:
        yield "Pagemaps", _rest(render_all(report.pgmap, width))
    if report.hugetlb is not None:
        yield "HugeTLB", _rest(render_hugetlb(report.hugetlb, width))
    if report.memmap is not None:
        yield "Memory map", _rest(render_memmap(report.memmap, width))
    if report.not_read:
        yield "Not read", not_read(report.not_read)
    if hidden := left_out(report):
        yield "Left out", hidden


def _rest(text: str) -> list[str]:
    """Return the lines of a command's report, without the header."""
    return text.splitlines()[2:]


def _pages(report: FullReport) -> Iterator[str]:
    for one in report.pages:
        yield f"pfn {one.pfn:#x}, {seen(one)}"
        if one.page is not None:
            yield from (f"  {safe(line)}" for line in one.page.state)
            yield from (f"  {line}" for line in not_read(one.page.not_read))
        elif one.error is not None:
            yield f"  not read: {safe(one.error)}"
        for covering in one.findings:
            owner = covering.owner and safe(covering.owner)
            also = "".join(f"; it breaks {safe(rule)}, too" for rule in covering.also)
            yield f"  {finding_line(covering.finding, owner)}{also}"
        yield from (f"  kernel bug {safe(bug)}" for bug in one.bugs)
    if report.pages_left_out:
        yield f"and {count(report.pages_left_out, 'more page')}"


def seen(one: ExplainedPage) -> str:
    """Return where a page is named, in words."""
    words = []
    for sighting in one.seen[:4]:
        if sighting.time is None:
            words.append(f"in register {safe(sighting.what)}")
        else:
            words.append(f"{safe(sighting.what)} at {sighting.time:.6f} s")
    more = len(one.seen) - len(words)
    return ", ".join(words) + (f", and {more} times more" if more else "")


def _log(report: FullReport) -> Iterator[str]:
    for event in report.log.events:
        yield from _event(event)
    if report.log.events_left_out:
        yield f"and {count(report.log.events_left_out, 'more event')}"


def _event(event: LogEvent) -> Iterator[str]:
    telling = [line for line in event.lines if not line.startswith(_NOISE)][:_LINES]
    yield from (f"[{event.time:12.6f}] {safe(line)}" for line in telling)
    more = len(event.lines) - len(telling) + event.lines_left_out
    if more > 0:
        yield f"{'':15}and {count(more, 'more line')}"
    if event.functions:
        yield f"{'':15}functions of memory management: {safe(', '.join(event.functions[:8]))}"
