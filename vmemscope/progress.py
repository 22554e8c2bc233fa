# SPDX-License-Identifier: LGPL-2.1-or-later
"""How an audit reports its progress."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ("Progress", "counter")

#: is called with the pages done so far, and how many there are
Progress = Callable[[int, int], None]


def counter(progress: Progress | None, total: int) -> Callable[[int], None]:
    """Return a function that adds pages to those done, and calls ``progress`` with the sum."""
    done = 0

    def step(pages: int) -> None:
        nonlocal done
        done += pages
        if progress is not None:
            progress(done, max(total, done))

    return step
