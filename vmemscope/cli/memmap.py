# SPDX-License-Identifier: LGPL-2.1-or-later
"""``vmemscope memmap``: where all the memory map's memory goes."""

from __future__ import annotations

import argparse

from .common import (
    add_audit_options,
    columns,
    opened_kernel,
    status_of,
    vmemmap_progress,
    write,
)

NAME = "memmap"
HELP = "where all the memory map's memory goes"
DESCRIPTION = """\
Walk the whole vmemmap, and tell for each zone and each device how many pages
describe it and how many frames are behind them; compare the sum with the
kernel's own counters nr_memmap_pages and nr_memmap_boot_pages; find what is
still mapped where nothing is left to describe, and sections that disagree with
what they describe.
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
    add_audit_options(parser, ("table", "json"))


def run(args: argparse.Namespace) -> int:
    """Run this subcommand."""
    with opened_kernel(args) as kernel:
        from ..audits.memmap import audit

        with vmemmap_progress(args) as progress:
            report = audit(kernel, progress=progress)
    from ..report.memmap import render_memmap, render_memmap_json

    if args.format == "json":
        write(render_memmap_json(report), args)
    else:
        write(render_memmap(report, columns(args)), args)
    return status_of(report)
