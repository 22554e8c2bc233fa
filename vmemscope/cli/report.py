# SPDX-License-Identifier: LGPL-2.1-or-later
"""``vmemscope report``: all audits and the kernel's log in one document."""

from __future__ import annotations

import argparse

from .common import add_audit_options, columns, opened_kernel, show, vmemmap_progress, write
from .selection import add_selection_options, selection

NAME = "report"
HELP = "all audits, and what the kernel's log says of memory, in one document"
DESCRIPTION = """\
Run all audits over one kernel: pagemaps, HugeTLB and the memory map. Search the
kernel's log for pages that it names (bad pages, memory failures, page faults, warnings
and oopses of memory management), take those in the registers of the CPU that crashed,
and report what "page" says of each and which finding covers it. The verdict comes
first, in at most ten lines. The HTML document is one file without scripts, to be read
without a network.
"""
EXAMPLES = """\
examples:
  vmemscope report -c vmcore -o report.html            a dump, without debug symbols
  vmemscope report -c vmcore -o report.md              for a bug report
  vmemscope report -c vmcore | less
  vmemscope report --sim mixed -o mixed.html           a simulated kernel
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    add_audit_options(
        parser,
        ("html", "markdown", "json", "text"),
        "by the end of the output file's name (.md, .json, .txt, else html); text to stdout",
    )
    add_selection_options(parser)
    parser.add_argument(
        "--contents",
        choices=("sample", "all", "none"),
        default="sample",
        help="which struct pages of devices to check: those of a sample of 1024 compound pages"
        " of each range (default), all, or none",
    )


def run(args: argparse.Namespace) -> int:
    """Run this subcommand."""
    form = args.format or _format_of(args.output)
    selected = selection(args)
    with opened_kernel(args) as kernel:
        from ..collect import collect

        report = collect(
            kernel,
            contents=args.contents,
            shown=lambda: vmemmap_progress(args),
            selected=selected,
        )
    if form == "html":
        from ..report.html import render_html

        write(render_html(report), args)
    elif form == "json":
        from ..report import render_json

        write(render_json(report), args)
    else:
        from ..report.full import render_full, render_full_markdown

        width = columns(args.output)
        if form == "text":
            show(render_full(report, width), args)
        else:
            write(render_full_markdown(report, width), args)
    return report.status


def _format_of(output: str | None) -> str:
    """Return the format that a file's name asks for."""
    if output in (None, "-"):
        return "text"
    endings = {"md": "markdown", "markdown": "markdown", "json": "json", "txt": "text"}
    return endings.get(str(output).rpartition(".")[2].lower(), "html")
