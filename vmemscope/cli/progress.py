# SPDX-License-Identifier: LGPL-2.1-or-later
"""Progress on stderr, if it is a terminal and the work is long."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ("shown_progress",)

#: seconds of work before a progress bar appears
_DELAY = 1.0


@contextmanager
def shown_progress(
    args: argparse.Namespace, what: str, unit: str, *, scaled: bool = True
) -> Iterator[Callable[[int, int], None] | None]:
    """
    Show a progress bar on stderr if it is a terminal and the work is long.

    :param what: shown before the bar
    :param unit: unit that is counted, with a space before it
    :param scaled: write numbers as 1.23k
    :return: function that takes the number done and the total; ``None`` without a bar
    """
    if args.quiet or not sys.stderr.isatty():
        yield None
        return
    start = time.monotonic()
    bar = None

    def show(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            if time.monotonic() - start < _DELAY:
                return
            # Its import takes 30 ms, which short work need not pay.
            from tqdm import tqdm

            bar = tqdm(
                desc=what, unit=unit, unit_scale=scaled, leave=False, file=sys.stderr,
                total=total, initial=done,
            )  # fmt: skip
        bar.update(done - bar.n)

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()
