# SPDX-License-Identifier: LGPL-2.1-or-later
"""Time that the phases of an audit take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ("phase",)


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
