# SPDX-License-Identifier: LGPL-2.1-or-later
"""``vmemscope pgmap``: audit the vmemmap of every ``struct dev_pagemap``."""

from __future__ import annotations

import argparse
import shutil
import sys
from typing import TYPE_CHECKING

from ..errors import ExitStatus, UsageError
from .options import add_output_options, add_target_options, opened_target
from .progress import shown_progress

if TYPE_CHECKING:
    from ..model import PagemapReport, Report

NAME = "pgmap"
HELP = "audit the vmemmap of device memory"
DESCRIPTION = """\
Find every struct dev_pagemap, walk the page tables of the vmemmap that
describes it, and tell whether its tail pages are deduplicated, whether the
reference counts match, how much memory is saved, and what is off.
"""
EXAMPLES = """\
examples:
  vmemscope pgmap --all                      the running kernel, as root
  vmemscope pgmap --all -c vmcore            a dump, without debug symbols
  vmemscope pgmap dax0.0 -c vmcore           one pagemap, drawn
  vmemscope pgmap --all --qemu unix:qmp.sock a running guest
  vmemscope pgmap --all --sim devdax-2m      a simulated kernel
"""

#: columns where the output is no terminal
_WIDTH = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--all", action="store_true", help="all pagemaps in a table (default)")
    which.add_argument(
        "which",
        metavar="NAME|ADDRESS|PHYS|PFN",
        nargs="?",
        help="one pagemap in detail: its name, its address or one in its vmemmap,"
        " a physical address or a page frame in its ranges",
    )
    add_target_options(parser)
    add_output_options(parser, ("table", "json"))


def run(args: argparse.Namespace) -> int:
    """Run this subcommand."""
    if args.types == "btf" and args.symbols:
        raise UsageError("debug symbols (-s) are not used with --types btf")
    timings: dict[str, float] = {}
    with opened_target(args, timings) as target:
        from ..confirm import look

        with shown_progress(args, "vmemmap", " pages") as progress:
            report = look(target, args.types, args.symbols, timings=timings, progress=progress)
    one = None if args.which is None else choose(report, args.which)
    _write(report, one, args)
    return exit_status(report)


def exit_status(report: Report) -> ExitStatus:
    """Tell the exit status that a report means."""
    if report.summary.errors:
        return ExitStatus.FINDINGS
    return ExitStatus.PARTIAL if report.summary.partial else ExitStatus.SOUND


def choose(report: Report, which: str) -> PagemapReport:
    """
    Find the pagemap that the user named.

    :param which: name, address of the structure or in its part of the
        vmemmap, physical address or page frame in its ranges
    :raises UsageError: if there is none, or several
    """
    named = [one for one in report.pagemaps if one.name == which]
    if not named:
        try:
            number = int(which, 0)
        except ValueError:
            number = None
        if number is not None:
            named = _by_number(report, number)
    if len(named) == 1:
        return named[0]
    if named:
        raise UsageError(
            f"several pagemaps are called {which}",
            "give an address: " + ", ".join(f"{one.address:#x}" for one in named),
        )
    known = ", ".join(one.name or f"{one.address:#x}" for one in report.pagemaps[:20])
    raise UsageError(
        f"no pagemap is called {which} or has it in a range",
        f"there are: {known}" if known else "there are no pagemaps at all",
    )


def _by_number(report: Report, number: int) -> list[PagemapReport]:
    page_size = report.geometry.page_size
    # An address of the structure, then of the vmemmap, then physical, then a pfn:
    # the first meaning that fits, since a small number may be either of the last two.
    for meaning in (
        lambda one: one.address == number,
        lambda one: one.vmemmap.start <= number < one.vmemmap.end,
        lambda one: any(r.start <= number <= r.end for r in one.ranges),
        lambda one: any(r.start <= number * page_size <= r.end for r in one.ranges),
    ):
        found = [one for one in report.pagemaps if meaning(one)]
        if found:
            return found
    return []


def _write(report: Report, one: PagemapReport | None, args: argparse.Namespace) -> None:
    from .. import report as reports

    if args.format == "json":
        text = reports.render_json(report, one)
    else:
        to_terminal = args.output in (None, "-") and sys.stdout.isatty()
        width = shutil.get_terminal_size((_WIDTH, 24)).columns if to_terminal else _WIDTH
        text = (
            reports.render_all(report, width)
            if one is None
            else reports.render_one(report, one, width)
        )
    if args.output in (None, "-"):
        sys.stdout.write(text)
    else:
        reports.write_atomically(args.output, text)
