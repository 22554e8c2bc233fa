# SPDX-License-Identifier: LGPL-2.1-or-later
"""``vmemscope pgmap``: audit the vmemmap of every ``struct dev_pagemap``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..errors import ExitStatus, UsageError
from .common import (
    RECORDS,
    add_audit_options,
    columns,
    dump_hint,
    opened_kernel,
    record,
    recorded,
    show,
    vmemmap_progress,
    write,
)
from .selection import add_selection_options, selection

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..machine import Kernel
    from ..report.documents.pgmap import PagemapReport, Report
    from ..timing import Stopwatch

NAME = "pgmap"
HELP = "audit the vmemmap of device memory"
DESCRIPTION = """\
Find every struct dev_pagemap, and walk the page tables of the vmemmap that
describes it. Report whether its tail pages are deduplicated, whether reference
counts match, how much memory is saved, and what is wrong.
"""
EXAMPLES = """\
examples:
  vmemscope pgmap --all                      the running kernel, as root
  vmemscope pgmap --all -c vmcore            a dump, without debug symbols
  vmemscope pgmap dax0.0 -c vmcore           one pagemap, drawn
  vmemscope pgmap --all --qemu unix:qmp.sock a running guest
  vmemscope pgmap --all --sim devdax-2m      a simulated kernel
  vmemscope pgmap --watch 5 --qemu unix:qmp.sock   what changes in a guest
  vmemscope pgmap --format ktap -c vmcore    for a kernel's CI
  vmemscope pgmap --format markdown -c vmcore -o report.md
"""

#: seconds between two audits, at most
_DAY = 86400
_NO_WATCH = "a dump does not change: --watch is for -k and --qemu"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--all", action="store_true", help="all pagemaps in a table (default)")
    which.add_argument(
        "which",
        metavar="NAME|ADDRESS|PHYS|PFN",
        nargs="?",
        help="one pagemap in detail: its name, its address or one in its vmemmap,"
        " a physical address or a pfn in its ranges",
    )
    add_audit_options(parser, ("table", "json", *RECORDS, "ktap", "markdown"))
    add_selection_options(parser)
    parser.add_argument(
        "--contents",
        choices=("sample", "all", "none"),
        default="sample",
        help="which struct pages to check: those of a sample of 1024 compound pages, or pages"
        " of the memory map, of each range (default), all, or none",
    )
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        type=_seconds,
        help="audit again and again, with a pause of SECONDS, and show what changed,"
        " until interrupted; only for running kernels (-k, --qemu)",
    )


def run(args: argparse.Namespace) -> int:
    """Run this subcommand."""
    _check_which(args)
    if args.watch is not None:
        return _watch(args)
    selected = selection(args)
    with recorded(args) as watch, opened_kernel(args) as kernel:
        report = selected(audited(kernel, args))
    text = _rendered(report, args, watch)
    (show if args.format == "table" else write)(text, args)
    return report.status


def _check_which(args: argparse.Namespace) -> None:
    """
    Check that the user did not give a dump in place of a pagemap.

    No pagemap has a slash in its name (``device_add()`` replaces it).

    :raises UsageError: if so; without -c, this machine would be audited
    """
    if args.which is not None and "/" in args.which and dump_hint(args.which):
        raise UsageError(f"{args.which!r} is a file and no pagemap", "a dump is given with -c")


def audited(kernel: Kernel, args: argparse.Namespace) -> Report:
    """Audit the pagemaps of a kernel as the arguments say, and show progress."""
    from ..audits.pagemaps import audit

    with vmemmap_progress(args) as progress:
        return audit(kernel, contents=args.contents, progress=progress)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    # NaN is in no range.
    if not 0.1 <= seconds <= _DAY:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0.1 to {_DAY}")
    return seconds


def _watch(args: argparse.Namespace) -> ExitStatus:
    if args.core is not None or args.sim is not None:
        raise UsageError(_NO_WATCH)
    if args.format != "table" or args.output not in (None, "-"):
        raise UsageError("--watch shows the table: --format and -o are not used with it")
    first: Report | None = None
    selected = selection(args)
    with opened_kernel(args) as kernel:
        if not kernel.live:
            raise UsageError(_NO_WATCH)
        from ..audits.pagemaps import audit
        from .watch import watch

        def pass_over() -> Report:
            nonlocal first
            if first is None:
                first = selected(audited(kernel, args))
                return first
            return selected(audit(kernel.again(), contents=args.contents))

        def render(report: Report) -> str:
            try:
                return _rendered(report, args)
            except UsageError as e:
                if report is first:
                    raise
                # The first report has it, and it may come back.
                return f"{e.message}\n"

        return watch(pass_over, render, args.watch).status


def choose(report: Report, which: str) -> PagemapReport:
    """
    Find the pagemap that the user named.

    :param which: name, address of the structure or in its part of the vmemmap, physical
        address or pfn in its ranges
    :raises UsageError: if no pagemap fits, or several do
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
            f"several pagemaps are called {which!r}",
            "give an address: " + ", ".join(f"{one.address:#x}" for one in named),
        )
    known = ", ".join(one.name or f"{one.address:#x}" for one in report.pagemaps[:20])
    raise UsageError(
        f"no pagemap is called {which!r} or has it in a range",
        f"there are: {known}" if known else report.no_pagemaps or "there are no pagemaps at all",
    )


def _by_number(report: Report, number: int) -> list[PagemapReport]:
    page_size = report.target.page_size
    # The first meaning that fits: a small number may be a physical address or a pfn.
    meanings: tuple[Callable[[PagemapReport], bool], ...] = (
        lambda one: one.address == number,
        lambda one: (one.vmemmap.start or 0) <= number < (one.vmemmap.end or 0),
        lambda one: any(r.start <= number <= r.end for r in one.detail.ranges),
        lambda one: any(r.start <= number * page_size <= r.end for r in one.detail.ranges),
    )
    for meaning in meanings:
        found = [one for one in report.pagemaps if meaning(one)]
        if found:
            return found
    return []


def _rendered(report: Report, args: argparse.Namespace, watch: Stopwatch | None = None) -> str:
    from .. import report as reports

    one = None if args.which is None else choose(report, args.which)
    if args.format == "table":
        width = columns(args.output)
        if one is None:
            return reports.render_all(report, width)
        return reports.render_one(report, one, width)
    if watch is not None and args.format in RECORDS:
        return record(report, args, watch, one)
    # Import only the chosen format.
    render: Callable[[Report, PagemapReport | None], str] = getattr(
        reports, f"render_{args.format}"
    )
    return render(report, one)
