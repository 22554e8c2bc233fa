# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Where all the memory map's memory goes.

Reads sections, zones and pagemaps, walks all of the vmemmap once and holds it
against the rules about sections (:mod:`.gather`; :mod:`.areas` cuts the vmemmap
into what it describes, :mod:`.tally` counts what is mapped), and sums it up next
to the kernel's own counters (:mod:`.summary`, :mod:`.counters`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from ..findings import Severity
from ..types import attach_types, check_needs
from .gather import Gathered
from .needs import NEEDS
from .summary import summarise

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from ..audit import Progress
    from ..target import Target
    from .model import MemmapReport

__all__ = ("confirmed", "look", "memmap")

#: seconds between two looks at a live target: onlining or removing a device takes
#: less per section
_PAUSE = 0.2


def look(
    target: Target,
    types: str = "auto",
    symbols: Sequence[str | os.PathLike[str]] = (),
    *,
    system_map: str | os.PathLike[str] | None = None,
    timings: dict[str, float] | None = None,
    progress: Progress | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> MemmapReport:
    """
    Attach types to a target that was just opened, and look at its memory map.

    On a live target a violation counts only if it is in two looks.

    :param types: ``auto``, ``btf`` or ``dwarf``
    :param symbols: files with debug symbols
    :param system_map: file with symbols, where the kernel does not say where its own are
    :param timings: seconds per phase, added to
    :param progress: told how many pages have been found mapped, and how many there should be
    :raises VmemscopeError: if types are missing, or the target can't be looked at
    """
    timings = {} if timings is None else timings
    start = time.perf_counter()
    source = str(attach_types(target.prog, types, symbols, system_map=system_map))
    check_needs(target.prog, NEEDS)
    timings["types"] = time.perf_counter() - start
    report = memmap(target, source, timings, progress)
    if not target.live or all(one.severity is Severity.NOTE for one in report.findings):
        return report
    sleep(_PAUSE)
    return confirmed(report, memmap(target, source, timings, progress))


def confirmed(earlier: MemmapReport, later: MemmapReport) -> MemmapReport:
    """Take the later report, without the violations that the earlier one does not have."""
    known = {(one.rule, one.vaddr, one.pfn) for one in earlier.findings}
    return replace(
        later,
        findings=tuple(
            one
            for one in later.findings
            if one.severity is Severity.NOTE or (one.rule, one.vaddr, one.pfn) in known
        ),
    )


def memmap(
    target: Target,
    types: str,
    timings: dict[str, float] | None = None,
    progress: Progress | None = None,
) -> MemmapReport:
    """
    Look at the memory map of a target, once.

    :param target: an opened target with types attached
    :param types: where they come from, ``btf`` or ``dwarf``
    :param timings: seconds per phase, added to
    :param progress: told how many pages have been found mapped, and how many there should be
    :raises VmemscopeError: if the target can't be looked at
    """
    timings = {} if timings is None else timings
    gathered = Gathered(target)
    with _phase(timings, "read"):
        gathered.read()
    with _phase(timings, "walk"):
        gathered.walk(progress)
    with _phase(timings, "sum"):
        report = summarise(gathered, types)
    return replace(report, timings=timings)


@contextmanager
def _phase(timings: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        timings[name] = timings.get(name, 0.0) + time.perf_counter() - start
