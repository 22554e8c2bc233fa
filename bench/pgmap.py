# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Time ``vmemscope pgmap --all`` against what it replaces.

* ``process``: the whole process, start-up and output included
* ``phases``: walk, frames and audit inside one
* ``loop``: drgn's ``follow_phys()`` and a ``_refcount`` for each page of the vmemmap,
  what one would write by hand; on a sample of the pages, scaled up

They are run in turn, so that a machine that slows down slows all of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tabulate import tabulate


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.pgmap", description=__doc__)
    parser.add_argument("vmcore", nargs="?", help="default: the simulated scenario 'mixed'")
    parser.add_argument("--qemu", metavar="ADDRESS", help="a running guest; without the loop")
    parser.add_argument("-n", type=int, default=5, help="runs of each (default: 5)")
    parser.add_argument("-o", "--output", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path = args.vmcore
        if path is None and args.qemu is None:
            from vmemscope.sim import build, load_scenario

            path = f"{scratch}/vmcore"
            build(load_scenario("mixed"), kernel="6.1").write(path)
        # A monitor serves one client at a time: no loop beside the processes.
        figures = (
            measure(["--qemu", args.qemu], args.n, None)
            if args.qemu
            else measure(["-c", path], args.n, per_page_loop(path))
        )
    rows = [
        (name, *(f"{f(values) * 1000:.1f}" for f in (min, statistics.median, max)))
        for name, values in figures.items()
    ]
    print(tabulate(rows, ["milliseconds", "min", "median", "max"], disable_numparse=True))
    if args.output:
        args.output.write_text(json.dumps(figures, indent=1) + "\n")


def measure(
    target: list[str], runs: int, loop: Callable[[], float] | None
) -> dict[str, list[float]]:
    """
    Time everything ``runs`` times, in turn; seconds.

    :param target: the options that select the target
    :param loop: from :func:`per_page_loop`, ``None`` to leave it out
    """
    figures: dict[str, list[float]] = {}

    def add(name: str, seconds: float) -> None:
        figures.setdefault(name, []).append(seconds)

    for _ in range(runs):
        start = time.perf_counter()
        output = subprocess.run(
            [sys.executable, "-m", "vmemscope", "pgmap", "--format", "json", *target],
            stdout=subprocess.PIPE,
            check=False,
        ).stdout
        add("process", time.perf_counter() - start)
        timings: dict[str, Any] = json.loads(output)["timings"]
        for phase, seconds in timings.items():
            add(f"  {phase}", seconds)
        if loop is not None:
            add("per-page loop (scaled up)", loop())
    return figures


def per_page_loop(path: str) -> Callable[[], float]:
    """Prepare the loop that one would write by hand."""
    from vmemscope import Kernel, audit

    from .loop import PerPageLoop

    kernel = Kernel.open_core(path)
    loop = PerPageLoop(kernel.prog, audit(kernel))
    return lambda: loop.run(time.perf_counter)


if __name__ == "__main__":
    main()
