# SPDX-License-Identifier: LGPL-2.1-or-later
"""Audit a live target again and again, and show what changed from report to report."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from .streams import fitted

if TYPE_CHECKING:
    from typing import TextIO

    from ..report.documents.pgmap import Report

__all__ = ("watch",)

#: cursor to the top left, and clear the rest: lines that stay the same do not flicker
_REDRAW = "\x1b[H\x1b[J"


def watch(
    audit: Callable[[], Report],
    render: Callable[[Report], str],
    seconds: float,
    *,
    out: TextIO | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], time.struct_time] = time.localtime,
) -> Report:
    """
    Show reports on a terminal, each in place of the last; elsewhere one after another.

    :param audit: makes a report
    :param render: formats a report
    :param seconds: seconds from the end of an audit to the start of the next
    :param out: where to show reports, stdout by default
    :param sleep: waits that many seconds
    :param clock: returns the time of day
    :return: the last report, when the user interrupts
    :raises KeyboardInterrupt: if the user interrupts before the first report
    """
    from ..report import change_lines
    from ..report.compare import compare

    out = sys.stdout if out is None else out
    report = audit()
    number, changes = 1, ""
    try:
        while True:
            now = time.strftime("%Y-%m-%d %H:%M:%S", clock())
            shown = f"audit {number}, {now}, every {seconds:g} s\n{render(report)}{changes}"
            shown = fitted(shown, out)
            # One write, so that no half of it shows.
            out.write(_REDRAW + shown if out.isatty() else f"{shown}\n")
            out.flush()
            sleep(seconds)
            later = audit()
            lines = change_lines(compare(report, later))
            changes = "\nsince the last audit:\n" + "".join(f"  {line}\n" for line in lines)
            report, number = later, number + 1
    except KeyboardInterrupt:
        # The normal end: leave the last report on the screen.
        return report
