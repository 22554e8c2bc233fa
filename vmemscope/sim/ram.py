# SPDX-License-Identifier: LGPL-2.1-or-later
"""What of a machine's memory is RAM, in page frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from .units import MIB

if TYPE_CHECKING:
    from .memmap import MemMap
    from .scenario import Scenario
    from .units import Units

__all__ = ("LOW_RAM_END", "by_zone", "merge_runs", "ram_without_carve_outs")

#: the first megabyte is reserved; RAM in it ends here
LOW_RAM_END = 0x9F000


def ram_without_carve_outs(scenario: Scenario, units: Units) -> list[tuple[int, int, int]]:
    """
    Return RAM in frames: without the holes of the first megabyte, and without
    what devices take of it (``memmap=64M!768M`` on the command line).
    """
    shift = units.page_shift
    holes = [(0, 1), (LOW_RAM_END >> shift, MIB >> shift)]
    for pagemap in scenario.pagemaps:
        for start, size in pagemap.ranges:
            holes.append((start >> shift, (start + size) >> shift))
    ram = [(ram.start >> shift, ram.end >> shift, ram.nid) for ram in scenario.ram]
    for low, high in holes:
        pieces = []
        for start, end, nid in ram:
            if end <= low or high <= start:
                pieces.append((start, end, nid))
                continue
            if start < low:
                pieces.append((start, low, nid))
            if high < end:
                pieces.append((high, end, nid))
        ram = pieces
    ram.sort()
    return ram


def merge_runs(runs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join adjacent runs; ends are exclusive."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(runs):
        if merged and merged[-1][1] == start:
            start = merged.pop()[0]
        merged.append((start, end))
    return merged


def by_zone(memmap: MemMap, start: int, end: int) -> Iterator[tuple[str, int]]:
    """Cut a range of pfns at zone boundaries: zone, number of pages."""
    while start < end:
        zone = memmap.zone(start)
        _, limit = memmap.units.zone_limits[zone]
        count = min(end, limit) - start
        yield zone, count
        start += count
