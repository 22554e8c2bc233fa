# SPDX-License-Identifier: LGPL-2.1-or-later
"""``vmemscope hugetlb``: audit HugeTLB's vmemmap optimization."""

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

NAME = "hugetlb"
HELP = "audit the vmemmap optimization of HugeTLB (HVO)"
DESCRIPTION = """\
Find every HugeTLB folio, free and in use, of all sizes and nodes. Compare whether
each says that its vmemmap is optimized (HVO) with how it is mapped, and report how
much memory is saved, and how much more could be. Find read-only vmemmap that belongs
to no folio, and everything else that is wrong.
"""
EXAMPLES = """\
examples:
  vmemscope hugetlb                          the running kernel, as root
  vmemscope hugetlb -c vmcore                a dump, without debug symbols
  vmemscope hugetlb --folios -c vmcore       with a list of folios
  vmemscope hugetlb --qemu unix:qmp.sock --format json
  vmemscope hugetlb --sim hugetlb            a simulated kernel
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    parser.add_argument("--folios", action="store_true", help="list each folio as well")
    add_audit_options(parser, ("table", "json", *RECORDS))
    add_selection_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run this subcommand."""
    selected = selection(args)
    with recorded(args) as watch, opened_kernel(args) as kernel:
        from ..audits.hugetlb import audit

        with vmemmap_progress(args) as progress:
            report = selected(audit(kernel, folios=args.folios, progress=progress))
    from ..report import render_json
    from ..report.hugetlb import render_hugetlb

    if args.format == "json":
        write(render_json(report), args)
    elif args.format in RECORDS:
        write(record(report, args, watch), args)
    else:
        show(render_hugetlb(report, columns(args.output)), args)
    return report.status
