# SPDX-License-Identifier: LGPL-2.1-or-later
"""``vmemscope page``: show everything about one page."""

from __future__ import annotations

import argparse

from ..errors import UsageError
from .common import add_audit_options, dump_hint, opened_kernel, show, write
from .selection import add_selection_options, selection

NAME = "page"
HELP = "show everything about one page"
DESCRIPTION = """\
Show everything about one page of RAM or of a device: its owner, the address of its
struct page, the page-table entries that map the struct page, level by level, the
backing frame, who shares that frame, and the contents of the struct page.

A number is a page frame number (pfn) if a page has it, else a physical address. A
number that is too large for both is a virtual address: of a struct page, or of
anything else that the kernel maps. The first line says which was chosen.
"""
EXAMPLES = """\
examples:
  vmemscope page 0x140003 -c vmcore          a page frame number
  vmemscope page 0x140003000 -c vmcore       the same page, by its physical address
  vmemscope page 0xffffea00050000c0          the same, by its struct page; the running kernel
  vmemscope page --phys 0x1000 --sim mixed   a physical address that could be a pfn
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    parser.add_argument(
        "which",
        metavar="PFN|PHYS|ADDRESS",
        help="page frame number, physical address, or virtual address of the kernel",
    )
    group = parser.add_argument_group("what the number is")
    meaning = group.add_mutually_exclusive_group()
    for option, what in (
        ("pfn", "a page frame number"),
        ("phys", "a physical address"),
        ("address", "a virtual address"),
    ):
        meaning.add_argument(
            f"--{option}", dest="meaning", action="store_const", const=option, help=what
        )
    add_audit_options(parser, ("text", "json"))
    add_selection_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run this subcommand."""
    try:
        number = int(args.which, 0)
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 64:
        raise UsageError(
            f"{args.which!r} is neither a page frame number nor an address",
            "give a number, hexadecimal ones with 0x" + dump_hint(args.which),
        )
    selected = selection(args)
    with opened_kernel(args) as kernel:
        from ..audits.page import audit

        report = selected(audit(kernel, number, args.meaning))
    from ..report import render_json
    from ..report.page import render_page

    if args.format == "json":
        write(render_json(report), args)
    else:
        show(render_page(report), args)
    return report.status
