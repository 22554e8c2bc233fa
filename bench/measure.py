# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Time the audit of a memory map against reading the bytes, and against a per-page loop.

All run in one process on one program, in turn, so that a machine that slows down
slows all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from drgn import FaultError

from vmemscope.audits import memmap
from vmemscope.audits.pagemaps import Contents, once
from vmemscope.audits.pagemaps.audited import AuditedPagemap
from vmemscope.audits.pagemaps.backing import check_backing
from vmemscope.audits.pagemaps.mapping import map_pagemap
from vmemscope.machine import Kernel
from vmemscope.vmcoreinfo import parse
from vmemscope.vmemmap.memory import PhysicalMemory

from .loop import PerPageLoop

__all__ = ("LAYOUT", "Bench", "measure")

#: phases of an audit of layout and reference counts
LAYOUT = ("walk", "frames", "audit")
#: frames between two that the floor reads along, of which the fastest is taken
_GAPS = (0, 1, 3, 7, 15)
_SPAN = 4 << 20


class Bench:
    """
    What is timed of one target.

    :param clock: what is timed by
    """

    def __init__(self, kernel: Kernel, clock: Callable[[], float]) -> None:
        self.kernel = kernel
        self._clock = clock
        tables, struct_pages, self.memory_map = self._frames()
        self.spans = self._best_spans(np.union1d(tables, struct_pages))
        report = once(kernel.again())
        self.vpages = sum(one.vmemmap.pages for one in report.pagemaps)
        self.backing = report.summary.backing_frames
        #: ``None`` where drgn does not walk the page tables by itself
        walks = kernel.arch.drgn_walks(parse(kernel.prog["VMCOREINFO"].string_()))
        self.loop = PerPageLoop(kernel.prog, report) if walks else None

    def _frames(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        Find the frames that an audit reads.

        :return: page tables; those with the struct pages of the frames behind the
            vmemmap; and these frames themselves
        """
        seen: list[np.ndarray] = []
        batches, run = PhysicalMemory.read_batches, PhysicalMemory.read_run

        def read_batches(memory: PhysicalMemory, pfns: np.ndarray, count: int) -> Any:
            seen.append(np.array(pfns))
            return batches(memory, pfns, count)

        def read_run(memory: PhysicalMemory, first: int, count: int) -> Any:
            seen.append(np.arange(first, first + count, dtype=np.uint64))
            return run(memory, first, count)

        kernel = self.kernel.again()
        pagemaps, vmemmap = [AuditedPagemap(layout) for layout in kernel.layouts], kernel.vmemmap
        states = kernel.page_states
        self.vmemmap = vmemmap
        setattr(PhysicalMemory, "read_batches", read_batches)  # noqa: B010
        setattr(PhysicalMemory, "read_run", read_run)  # noqa: B010
        try:
            for audited in pagemaps:
                map_pagemap(audited, vmemmap, lambda vpages: None)
            tables = np.unique(np.concatenate(seen))
            seen.clear()
            check_backing(pagemaps, vmemmap, states)
        finally:
            setattr(PhysicalMemory, "read_batches", batches)  # noqa: B010
            setattr(PhysicalMemory, "read_run", run)  # noqa: B010
        behind = np.unique(np.concatenate([one.ram.finish().pfn for one in pagemaps]))
        return tables, np.unique(np.concatenate(seen)), behind

    def _best_spans(self, frames: np.ndarray) -> list[tuple[int, int]]:
        """Find the chunks that frames are read fastest in."""
        found = []
        for gap in _GAPS:
            spans = self._spans(frames, gap)
            try:
                found.append((min(self._read(spans) for _ in range(3)), spans))
            except FaultError:
                continue
        if not found:
            # Frames between two that are wanted, which the audit reads along, are not all there.
            return self._best_spans(np.array([pfn for pfn in frames.tolist() if self._has(pfn)]))
        return min(found)[1]

    def _has(self, pfn: int) -> bool:
        try:
            self.kernel.prog.read(pfn * self.vmemmap.table.page_size, 8, True)
        except FaultError:
            return False
        return True

    def _spans(self, frames: np.ndarray, gap: int) -> list[tuple[int, int]]:
        size = self.vmemmap.table.page_size
        spans: list[list[int]] = []
        for pfn in frames.tolist():
            if spans and pfn - spans[-1][1] <= gap and (pfn + 1 - spans[-1][0]) * size <= _SPAN:
                spans[-1][1] = pfn + 1
            else:
                spans.append([pfn, pfn + 1])
        return [(first * size, (end - first) * size) for first, end in spans]

    def _read(self, spans: list[tuple[int, int]]) -> float:
        read = self.kernel.prog.read
        start = self._clock()
        for address, size in spans:
            read(address, size, True)
        return self._clock() - start

    def floor(self) -> float:
        """Read the bytes."""
        return self._read(self.spans)

    def ours(self) -> float:
        """Audit layout and reference counts."""
        self.phases = self._timings(Contents.NONE)
        return sum(self.phases[phase] for phase in LAYOUT)

    def contents(self) -> float:
        """Check all struct pages of the devices."""
        return self._timings(Contents.ALL)["contents"]

    def _timings(self, contents: Contents) -> dict[str, float]:
        """Return the seconds of each phase of an audit."""
        kernel = self._fresh()
        once(kernel, contents=contents)
        return kernel.timings

    def whole_audit(self) -> float:
        """Audit layout and reference counts, the reading of pagemaps included."""
        start = self._clock()
        once(self._fresh(), contents=Contents.NONE)
        return self._clock() - start

    def whole_memmap(self) -> float:
        """Audit the whole memory map."""
        start = self._clock()
        memmap.once(self._fresh())
        return self._clock() - start

    def _fresh(self) -> Kernel:
        """Return the kernel with nothing read, and no phase timed."""
        kernel = self.kernel.again()
        kernel.timings = {}
        return kernel


def measure(kernel: Kernel, runs: int, clock: Callable[[], float], whole: bool) -> dict[str, Any]:
    """
    Time all ``runs`` times, in turn; seconds.

    :param whole: also time what reads the devices' own struct pages, and ``memmap``
    """
    bench = Bench(kernel, clock)
    figures: dict[str, list[float]] = {"ours": [], "floor": []}
    others: dict[str, Callable[[], float]] = {}
    if whole:
        spans = bench._best_spans(bench.memory_map)
        others = {
            "contents": bench.contents,
            "contents floor": lambda: bench._read(spans),
            "audit": bench.whole_audit,
            "memmap": bench.whole_memmap,
        }
    # The loop before each of the others: neither finds in the processor's cache what
    # the other has just read.
    turns: list[tuple[str, Callable[[], float]]]
    turns = [("ours", bench.ours), ("floor", bench.floor)]
    if (by_hand := bench.loop) is not None:
        figures["loop"] = []
        loop = "loop", lambda: by_hand.run(clock)
        turns = [loop, turns[0], loop, turns[1]]
    phases: dict[str, list[float]] = {}
    for _ in range(runs):
        for name, function in turns:
            figures[name].append(function())
        for phase, seconds in bench.phases.items():
            phases.setdefault(phase, []).append(seconds)
    for _ in range(runs):
        for name, function in others.items():
            figures.setdefault(name, []).append(function())
    return {
        "vpages": bench.vpages,
        "backing_frames": bench.backing,
        "bytes": sum(size for _, size in bench.spans),
        "reads": len(bench.spans),
        "loop_sample": 0 if bench.loop is None else len(bench.loop.sample),
        "seconds": figures,
        "phases": phases,
    }
