# SPDX-License-Identifier: LGPL-2.1-or-later
"""Time that an audit and its phases take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ("Stopwatch", "phase")


class Stopwatch:
    """Measures from when it was made."""

    def __init__(self) -> None:
        #: seconds since 1970
        self.started = time.time()
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds that passed."""
        return time.perf_counter() - self._start


@contextmanager
def phase(timings: dict[str, float], name: str) -> Iterator[None]:
    """
    Time a ``with`` statement.

    :param timings: seconds per phase, to add to
    """
    start = time.perf_counter()
    try:
        yield
    finally:
        timings[name] = timings.get(name, 0.0) + time.perf_counter() - start
