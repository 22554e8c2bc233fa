# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Time the audit of a memory map against reading the bytes, and against a per-page loop.

* ``ours``: phases walk, frames and audit: layout and reference counts
* ``floor``: ``prog.read`` of the same page tables and of the same frames' struct
  pages, in whichever chunking of some is fastest, and nothing done with the bytes
* ``loop``: drgn's ``follow_phys()`` and a ``_refcount`` for each page of the vmemmap,
  what one would write by hand; over a sample of the pages, scaled up
* ``contents``: checking all of the devices' struct pages, against reading them
* ``memmap``: the whole memory map, against a whole audit of layout and references

Sizes are of a devdax: on a guest of the test harness, which is booted for it, or in
a simulated dump.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from vmemscope.machine import Kernel

from .foreign import FOREIGN
from .measure import measure
from .targets import foreign, guest, simulated

_UNITS = {"G": 1 << 30, "T": 1 << 40, "M": 1 << 20}
#: what is measured by default
_GUESTS = ("25G:2M", "100G:2M", "400G:2M", "400G:1G")
_SIMULATED = ("1T:2M", "4T:2M", "16T:2M", "1T:1G", "4T:1G", "16T:1G")
_QUICK = ("25G:2M", "25G:1G")
#: name of a figure -> the one that it is compared with, and what that is called
_AGAINST = {
    "ours": ("floor", "floors"),
    "contents": ("contents floor", "floors"),
    "memmap": ("audit", "audits"),
}


def _size(text: str) -> int:
    return int(text[:-1]) * _UNITS[text[-1]]


#: runs a command and prints its peak memory in KiB; apart, as the peak of what forks counts
_PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def _peak(arguments: list[str]) -> int:
    """Return the peak memory of a process in bytes."""
    command = [sys.executable, "-c", _PEAK, sys.executable, *arguments]
    return int(subprocess.run(command, capture_output=True, check=True).stdout) * 1024


def _memory(where: list[str]) -> int:
    """Return the peak memory of ``pgmap --all`` above the interpreter's with drgn, in bytes."""
    return _peak(["-m", "vmemscope", "pgmap", "--all", *where]) - _peak(["-c", "import drgn"])


def _table(results: list[dict[str, Any]]) -> str:
    rows = []
    for one in results:
        seconds = one["seconds"]
        middle = {name: statistics.median(values) for name, values in seconds.items()}
        for name, values in seconds.items():
            ratio = ""
            if name in _AGAINST:
                other, word = _AGAINST[name]
                ratio = f"{middle[name] / middle[other]:.2f} {word}"
            elif name == "loop":
                ratio = f"{middle[name] / middle['ours']:.0f} times ours"
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
    parser.add_argument(
        "--arch",
        nargs="*",
        metavar="NAME",
        help="other architectures, simulated with 1 TiB; default: all",
    )
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
        # The audit takes its own times.
        time.perf_counter = time.process_time
    clock = time.perf_counter

    wanted: list[tuple[str, Callable[..., Any], str]] = []
    chosen = args.guest is not None or args.simulated is not None or args.arch is not None
    default = not (chosen or args.quick or args.qemu)
    in_dumps = _QUICK if args.quick else _SIMULATED if default else args.simulated or ()
    wanted += [("guest", guest, one) for one in (_GUESTS if default else args.guest or ())]
    wanted += [("simulated", simulated, one) for one in in_dumps]
    results = []
    if args.qemu:
        found = measure(Kernel.open_qemu(args.qemu), args.n, clock, True)
        results.append({"where": "guest", "size": args.qemu, "align": "?", **found})
    for where, context, text in wanted:
        size, align = text.split(":")
        print(f"{where} {size} in {align} ...", file=sys.stderr, flush=True)
        with context(_size(size), _size(align)) as (kernel, address):
            found = measure(kernel, args.n, clock, where == "guest")
            if address:
                found["memory"] = _memory(address)
        results.append({"where": where, "size": size, "align": align, **found})
    archs = args.arch or (FOREIGN if default or args.arch is not None else ())
    for name in archs:
        align = f"{FOREIGN[name] >> 20}M"
        print(f"{name} 1T in {align} ...", file=sys.stderr, flush=True)
        with foreign(name) as (kernel, address):
            found = measure(kernel, args.n, clock, False)
            found["memory"] = _memory(address)
        results.append({"where": name, "size": "1T", "align": align, **found})
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
