# SPDX-License-Identifier: LGPL-2.1-or-later
"""``vmemscope sim``: write a simulated kernel's vmcore."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from typing import TYPE_CHECKING

from ..errors import ExitStatus, UsageError
from .streams import fitted

if TYPE_CHECKING:
    from ..sim.image import Image

#: for a temporary file
MORE_ROOM = "set TMPDIR to a directory with more room"

NAME = "sim"
HELP = "write the vmcore of a simulated kernel"
DESCRIPTION = """\
Lay out the memory of a kernel that a scenario describes, and write it as a
self-contained vmcore: page tables, sections, pagemaps, struct pages, with BTF
and kallsyms in its own memory.
"""
EXAMPLES = """\
examples:
  vmemscope sim --list                       the built-in scenarios
  vmemscope sim devdax-2m -o vmcore          write one
  vmemscope sim my.toml --release 7.2 -o vmcore
"""
EXIT_STATUS = """\
exit status:
  0  the vmcore was written
  2  wrong usage: no such scenario or release, or the file can't be written
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    parser.add_argument(
        "scenario", metavar="SCENARIO", nargs="?", help="a built-in scenario, or a TOML file"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="write the vmcore there; - is stdout"
    )
    parser.add_argument(
        "--release", metavar="VERSION", help="simulate this kernel instead of the scenario's"
    )
    parser.add_argument("--list", action="store_true", help="list the built-in scenarios")


def run(args: argparse.Namespace) -> int:
    """Run this subcommand."""
    from ..report.words import safe
    from ..sim import build, builtin_scenarios, load_scenario

    if args.list:
        for name in builtin_scenarios():
            print(name)
        return ExitStatus.SOUND
    if args.scenario is None:
        raise UsageError("there is no scenario to simulate", "give one and -o FILE, or --list")
    if args.output is None:
        raise UsageError("there is no file to write the vmcore to", "give -o FILE")
    image = build(load_scenario(args.scenario), kernel=args.release)
    if args.output == "-":
        _to_stdout(image)
    else:
        write_image(image, args.output)
    for planted in image.planted:
        frame = "" if planted.pfn is None else f", pfn {planted.pfn:#x}"
        where = f"{safe(planted.pagemap)} at {planted.vaddr:#x}{frame}"
        print(fitted(f"planted: {planted.kind} in {where}", sys.stderr), file=sys.stderr)
    return ExitStatus.SOUND


def write_image(image: Image, path: str, hint: str | None = None) -> None:
    """
    Write a simulated kernel's vmcore; leave none of it behind where there is no room.

    :raises UsageError: if it can't be written
    """
    try:
        image.write(path)
    except OSError as e:
        # Only then: another file that was there before can't be opened, and stays.
        if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) and os.path.isfile(path):
            os.unlink(path)
        from ..text import safe

        raise UsageError(f"can't write {safe(path)}: {e.strerror}", hint) from e


def _to_stdout(image: Image) -> None:
    import shutil
    import tempfile

    if sys.stdout.isatty():
        raise UsageError("a vmcore is not for a terminal", "give -o FILE, or a pipe")
    with tempfile.TemporaryDirectory(prefix="vmemscope-") as scratch:
        # Its parts are not written in order, as stdout needs them.
        path = os.path.join(scratch, "vmcore")
        write_image(image, path, MORE_ROOM)
        with open(path, "rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
