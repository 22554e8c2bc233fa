# SPDX-License-Identifier: LGPL-2.1-or-later
"""``vmemscope memmap``: audit the whole memory map."""

from __future__ import annotations

import argparse

from .common import (
    RECORDS,
    add_audit_options,
    columns,
    opened_kernel,
    record,
    recorded,
    show,
    vmemmap_progress,
    write,
)
from .selection import add_selection_options, selection

NAME = "memmap"
HELP = "show where the memory of the whole memory map goes"
DESCRIPTION = """\
Walk the whole vmemmap. For each zone and each device, count the vmemmap pages that
describe it and their backing frames. Compare the sum with the kernel's counters
nr_memmap_pages and nr_memmap_boot_pages. Find vmemmap that is mapped but describes
nothing, and sections that disagree with the memory they describe.
"""
EXAMPLES = """\
examples:
  vmemscope memmap                           the running kernel, as root
  vmemscope memmap -c vmcore                 a dump, without debug symbols
  vmemscope memmap -c vmcore --format json
  vmemscope memmap --sim mixed               a simulated kernel
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    add_audit_options(parser, ("table", "json", *RECORDS))
    add_selection_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run this subcommand."""
    selected = selection(args)
    with recorded(args) as watch, opened_kernel(args) as kernel:
        from ..audits.memmap import audit

        with vmemmap_progress(args) as progress:
            report = selected(audit(kernel, progress=progress))
    from ..report import render_json
    from ..report.memmap import render_memmap

    if args.format == "json":
        write(render_json(report), args)
    elif args.format in RECORDS:
        write(record(report, args, watch), args)
    else:
        show(render_memmap(report, columns(args.output)), args)
    return report.status
