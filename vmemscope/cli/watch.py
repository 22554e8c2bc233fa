# SPDX-License-Identifier: LGPL-2.1-or-later
"""Look at a live target again and again, and tell what changed from look to look."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

    from ..report.documents.pgmap import Report

__all__ = ("watch",)

#: cursor to the top left, and all from there on cleared: what stays the same does not flicker
_REDRAW = "\x1b[H\x1b[J"


def watch(
    look: Callable[[], Report],
    render: Callable[[Report], str],
    seconds: float,
    *,
    out: TextIO | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], time.struct_time] = time.localtime,
) -> Report:
    """
    Show reports on a terminal, each in the place of the last; elsewhere one after the other.

    :param look: makes a report
    :param render: formats one
    :param seconds: to wait from the end of a look to the next
    :param out: where to show them, stdout by default
    :param sleep: waits that many seconds
    :param clock: gives the time of day
    :return: the last report, once the user interrupts
    :raises KeyboardInterrupt: if the user interrupts before there is a report
    """
    from ..report import change_lines
    from ..report.compare import compare

    out = sys.stdout if out is None else out
    report = look()
    number, changes = 1, ""
    try:
        while True:
            now = time.strftime("%Y-%m-%d %H:%M:%S", clock())
            shown = f"pass {number}, {now}, every {seconds:g} s\n{render(report)}{changes}"
            # In one piece, so that nobody sees half of it.
            out.write(_REDRAW + shown if out.isatty() else f"{shown}\n")
            out.flush()
            sleep(seconds)
            later = look()
            lines = change_lines(compare(report, later))
            changes = "\nsince the last pass:\n" + "".join(f"  {line}\n" for line in lines)
            report, number = later, number + 1
    except KeyboardInterrupt:
        # This is how it ends: leave what was shown, with the prompt below it.
        return report
