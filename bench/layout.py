# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Time the audit of a memory map against reading the bytes, and against a per-page loop.

* ``ours``: phases walk, frames and audit: layout and reference counts
* ``floor``: ``prog.read`` of the same page tables and of the same frames' struct
  pages, in whichever chunking of some is fastest, and nothing done with the bytes
* ``loop``: drgn's ``follow_phys()`` and a ``_refcount`` for each page of the vmemmap,
  what one would write by hand; over a sample of the pages, scaled up

All run in one process on one program, in turn, so that a machine that slows down
slows all of them. Sizes are of a devdax: on a guest of the test harness, which is
booted for it, or in a simulated dump.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from drgn import FaultError
from tabulate import tabulate

from vmemscope.audit import audit, read_subjects
from vmemscope.audit.backing import check_backing
from vmemscope.audit.mapping import map_subject
from vmemscope.findings import Collector
from vmemscope.kernel.page_state import read_page_states
from vmemscope.memory import PhysicalMemory
from vmemscope.target import Target, open_core, open_qemu
from vmemscope.types import attach_types

#: pages of the vmemmap that the per-page loop goes over
_SAMPLE = 2000
#: of which so many are neighbours
_BLOCK = 100
#: frames between two that the floor reads along, of which the fastest is taken
_GAPS = (0, 1, 3, 7, 15)
_SPAN = 4 << 20
_UNITS = {"G": 1 << 30, "T": 1 << 40, "M": 1 << 20}
#: what is measured by default
_GUESTS = ("25G:2M", "100G:2M", "400G:2M", "400G:1G")
_SIMULATED = ("1T:2M", "4T:2M", "16T:2M", "1T:1G", "4T:1G", "16T:1G")
_QUICK = ("25G:2M", "25G:1G")


#: what is timed by: real time, or with ``--cpu`` the time of this process
_clock = time.perf_counter


def _size(text: str) -> int:
    return int(text[:-1]) * _UNITS[text[-1]]


class Bench:
    """What is timed of one target."""

    def __init__(self, target: Target) -> None:
        self.target = target
        attach_types(target.prog, "btf")
        self.frames = self._frames_read()
        self.spans = self._best_spans()
        report = audit(target, "btf")
        self.vpages = sum(one.vmemmap.pages for one in report.pagemaps)
        self.backing = report.summary.backing_frames
        size = report.geometry.page_size
        # Some blocks of neighbours: what is cached between two of them helps the loop.
        self.sample = [
            address
            for one in report.pagemaps
            for block in range(
                one.vmemmap.start,
                one.vmemmap.end,
                max(one.vmemmap.pages * _BLOCK // _SAMPLE, _BLOCK) * size,
            )
            for address in range(block, min(block + _BLOCK * size, one.vmemmap.end), size)
        ]
        self.page_size = size

    def _frames_read(self) -> np.ndarray:
        """Record which frames an audit of layout and reference counts reads."""
        seen: list[np.ndarray] = []
        original = PhysicalMemory.read_batches

        def recording(memory: PhysicalMemory, pfns: np.ndarray, count: int) -> Any:
            seen.append(np.array(pfns))
            return original(memory, pfns, count)

        subjects, vmemmap = read_subjects(self.target, Collector(), Counter())
        self.vmemmap = vmemmap
        setattr(PhysicalMemory, "read_batches", recording)  # noqa: B010
        try:
            for subject in subjects:
                map_subject(subject, vmemmap, lambda vpages: None)
            states = read_page_states(self.target.prog, self.target.vmcoreinfo)
            check_backing(subjects, vmemmap, states)
        finally:
            setattr(PhysicalMemory, "read_batches", original)  # noqa: B010
        return np.unique(np.concatenate(seen))

    def _best_spans(self) -> list[tuple[int, int]]:
        found = []
        for gap in _GAPS:
            spans = self._spans(gap)
            try:
                found.append((min(self._read(spans) for _ in range(3)), spans))
            except FaultError:
                continue
        return min(found)[1]

    def _spans(self, gap: int) -> list[tuple[int, int]]:
        size = self.vmemmap.table.page_size
        spans: list[list[int]] = []
        for pfn in self.frames.tolist():
            if spans and pfn - spans[-1][1] <= gap and (pfn + 1 - spans[-1][0]) * size <= _SPAN:
                spans[-1][1] = pfn + 1
            else:
                spans.append([pfn, pfn + 1])
        return [(first * size, (end - first) * size) for first, end in spans]

    def _read(self, spans: list[tuple[int, int]]) -> float:
        read = self.target.prog.read
        start = _clock()
        for address, size in spans:
            read(address, size, True)
        return _clock() - start

    def floor(self) -> float:
        """Read the bytes."""
        return self._read(self.spans)

    def ours(self) -> float:
        """Audit layout and reference counts."""
        timings: dict[str, float] = {}
        audit(self.target, "btf", timings)
        self.phases = timings
        return sum(timings[phase] for phase in ("walk", "frames", "audit"))

    def loop(self) -> float:
        """Do what one would write by hand."""
        from drgn.helpers.linux.mm import follow_phys

        prog = self.target.prog
        mm = prog["init_mm"].address_of_()
        pages = prog["vmemmap"]
        start = _clock()
        for address in self.sample:
            frame = follow_phys(mm, address).value_() // self.page_size
            pages[frame]._refcount.counter.value_()
        return (_clock() - start) * self.vpages / len(self.sample)


def measure(target: Target, runs: int) -> dict[str, Any]:
    """Time all ``runs`` times, in turn; seconds."""
    bench = Bench(target)
    figures: dict[str, list[float]] = {"ours": [], "floor": [], "loop": []}
    phases: dict[str, list[float]] = {}
    # The loop before each of the others: neither finds in the processor's cache what
    # the other has just read.
    turns = ("loop", bench.loop), ("ours", bench.ours), ("loop", bench.loop), ("floor", bench.floor)
    for _ in range(runs):
        for name, function in turns:
            figures[name].append(function())
        for phase, seconds in bench.phases.items():
            phases.setdefault(phase, []).append(seconds)
    return {
        "vpages": bench.vpages,
        "backing_frames": bench.backing,
        "bytes": sum(size for _, size in bench.spans),
        "reads": len(bench.spans),
        "loop_sample": len(bench.sample),
        "seconds": figures,
        "phases": phases,
    }


#: runs a command and prints its peak memory in KiB; apart, as the peak of what forks counts
_PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def _peak(arguments: list[str]) -> int:
    """Get the peak memory of a process in bytes."""
    command = [sys.executable, "-c", _PEAK, sys.executable, *arguments]
    return int(subprocess.run(command, capture_output=True, check=True).stdout) * 1024


def _memory(where: list[str]) -> int:
    """Get the peak memory of ``pgmap --all`` above the interpreter's with drgn, in bytes."""
    return _peak(["-m", "vmemscope", "pgmap", "--all", *where]) - _peak(["-c", "import drgn"])


@contextmanager
def _simulated(size: int, align: int) -> Iterator[tuple[Target, list[str]]]:
    from .sparse import write_sparse

    with tempfile.TemporaryDirectory(prefix="vmemscope-bench-") as scratch:
        path = Path(scratch) / "vmcore"
        write_sparse(path, size, align)
        yield open_core(str(path)), ["-c", str(path)]


@contextmanager
def _guest(size: int, align: int) -> Iterator[tuple[Target, list[str]]]:
    from tests.guests.devices import Nvdimm
    from tests.guests.guest import Guest
    from tests.guests.packages import get_kernel

    device = Nvdimm(size=size, align=align)
    # Frames for the memory map where nothing is saved, and some for the rest.
    with Guest(get_kernel("6.12"), [device], memory=4 << 30) as guest:
        # A QMP socket serves one client at a time.
        yield open_qemu(f"unix:{guest.qmp}"), []


def _table(results: list[dict[str, Any]]) -> str:
    rows = []
    for one in results:
        seconds = one["seconds"]
        floor = statistics.median(seconds["floor"])
        ours = statistics.median(seconds["ours"])
        for name, values in seconds.items():
            middle = statistics.median(values)
            ratio = f"{middle / floor:.2f} floors"
            if name == "loop":
                ratio = f"{middle / ours:.0f} times ours"
            rows.append(
                (
                    f"{one['where']} {one['size']} in {one['align']}",
                    name,
                    *(f"{f(values) * 1000:.1f}" for f in (min, statistics.median, max)),
                    ratio,
                )
            )
    return tabulate(
        rows, ["devdax", "what", "min ms", "median ms", "max ms", "ratio"], disable_numparse=True
    )


def _machine() -> dict[str, Any]:
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {
        "processor": model,
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "numpy": np.__version__,
    }


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.layout", description=__doc__)
    parser.add_argument("--guest", nargs="*", metavar="SIZE:ALIGN", help=f"default: {_GUESTS}")
    parser.add_argument("--simulated", nargs="*", metavar="SIZE:ALIGN", help="default: 1T to 16T")
    parser.add_argument("--quick", action="store_true", help="small simulated dumps, for CI")
    parser.add_argument("--qemu", metavar="ADDRESS", help="a guest that runs already")
    parser.add_argument(
        "--cpu",
        action="store_true",
        help="time processor time, on a machine that is busy with something else",
    )
    parser.add_argument("-n", type=int, default=7, help="runs of each (default: 7)")
    parser.add_argument("-o", "--output", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    if args.cpu:
        global _clock
        # The audit takes its own times.
        _clock = time.perf_counter = time.process_time

    wanted: list[tuple[str, Callable[..., Any], str]] = []
    default = args.guest is None and args.simulated is None and not args.quick and not args.qemu
    simulated = _QUICK if args.quick else _SIMULATED if default else args.simulated or ()
    wanted += [("guest", _guest, one) for one in (_GUESTS if default else args.guest or ())]
    wanted += [("simulated", _simulated, one) for one in simulated]
    results = []
    if args.qemu:
        found = measure(open_qemu(args.qemu), args.n)
        results.append({"where": "guest", "size": args.qemu, "align": "?", **found})
    for where, context, text in wanted:
        size, align = text.split(":")
        print(f"{where} {size} in {align} ...", file=sys.stderr, flush=True)
        with context(_size(size), _size(align)) as (target, address):
            found = measure(target, args.n)
            if address:
                found["memory"] = _memory(address)
        results.append({"where": where, "size": size, "align": align, **found})
    print(_table(results))
    for one in results:
        if "memory" in one:
            print(
                f"{one['where']} {one['size']} in {one['align']}: peak memory"
                f" {one['memory'] / (1 << 20):.0f} MiB above the interpreter with drgn"
            )
    if args.output:
        document = {
            "machine": _machine(),
            "clock": "cpu" if args.cpu else "wall",
            "results": results,
        }
        args.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
