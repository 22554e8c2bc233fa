# SPDX-License-Identifier: LGPL-2.1-or-later
"""``vmemscope hugetlb``: HugeTLB's vmemmap optimization, as it really is."""

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

NAME = "hugetlb"
HELP = "whether HugeTLB's vmemmap is optimized as it says"
DESCRIPTION = """\
Find every HugeTLB folio, free and in use, of all sizes and nodes; tell which say
that their vmemmap is optimized (HVO) and how it is really mapped, how much memory
that saves and how much it does not; find read-only vmemmap that belongs to no
folio, and what else is off.
"""
EXAMPLES = """\
examples:
  vmemscope hugetlb                          the running kernel, as root
  vmemscope hugetlb -c vmcore                a dump, without debug symbols
  vmemscope hugetlb --folios -c vmcore       each folio, too
  vmemscope hugetlb --qemu unix:qmp.sock --format json
  vmemscope hugetlb --sim hugetlb            a simulated kernel
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    parser.add_argument("--folios", action="store_true", help="list each folio, too")
    add_audit_options(parser, ("table", "json"))


def run(args: argparse.Namespace) -> int:
    """Run this subcommand."""
    with opened_kernel(args) as kernel:
        from ..audits.hugetlb import audit

        with vmemmap_progress(args) as progress:
            report = audit(kernel, folios=args.folios, progress=progress)
    from ..report.hugetlb import render_hugetlb, render_hugetlb_json

    if args.format == "json":
        write(render_hugetlb_json(report), args)
    else:
        write(render_hugetlb(report, columns(args)), args)
    return status_of(report)
