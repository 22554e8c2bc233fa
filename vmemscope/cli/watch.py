# SPDX-License-Identifier: LGPL-2.1-or-later
"""Audit a live target in passes, and report what changed between them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

    from ..report.documents.pgmap import Report

__all__ = ("watch",)

#: cursor to the top left, and clear from there: unchanged text does not flicker
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
    Show reports on a terminal, each in the place of the last; elsewhere one after the other.

    :param audit: returns a report
    :param render: returns a report as text
    :param seconds: from the end of a pass to the next
    :param out: where to show them, stdout by default
    :param sleep: waits that many seconds
    :param clock: gives the time of day
    :return: the last report, once the user interrupts
    :raises KeyboardInterrupt: if the user interrupts before there is a report
    """
    from ..report import change_lines
    from ..report.compare import compare

    out = sys.stdout if out is None else out
    report = audit()
    number, changes = 1, ""
    try:
        while True:
            now = time.strftime("%Y-%m-%d %H:%M:%S", clock())
            shown = f"pass {number}, {now}, every {seconds:g} s\n{render(report)}{changes}"
            # In one piece, so that the user never sees half of it.
            out.write(_REDRAW + shown if out.isatty() else f"{shown}\n")
            out.flush()
            sleep(seconds)
            later = audit()
            lines = change_lines(compare(report, later))
            changes = "\nsince the last pass:\n" + "".join(f"  {line}\n" for line in lines)
            report, number = later, number + 1
    except KeyboardInterrupt:
        # The normal end: leave the last pass on the screen, with the prompt below it.
        return report
