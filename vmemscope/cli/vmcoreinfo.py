# SPDX-License-Identifier: LGPL-2.1-or-later
"""``vmemscope vmcoreinfo``: save a kernel's VMCOREINFO note."""

from __future__ import annotations

import argparse

from ..errors import ExitStatus
from .common import show_notes, write
from .options import add_target_options, opener

NAME = "vmcoreinfo"
HELP = "save a kernel's VMCOREINFO note"
DESCRIPTION = """\
Write the VMCOREINFO note of a kernel to a file, for the option --vmcoreinfo. The
note is valid until the next boot. With it, vmemscope does not pause a QEMU guest to
read the note, and can use a QMP address on TCP.
"""
EXAMPLES = """\
examples:
  vmemscope vmcoreinfo --qemu unix:qmp.sock -o note
  vmemscope pgmap --all --qemu unix:qmp.sock --vmcoreinfo note
"""
EXIT_STATUS = """\
exit status:
  0  the note was written
  2  wrong usage, or the file can't be written
  3  no target, or it has no note
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    add_target_options(parser, types=False)
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        required=True,
        help="write there, whole or not at all; - is stdout",
    )


def run(args: argparse.Namespace) -> int:
    """Run this subcommand."""
    with opener(args) as opened:
        target = opened()
        text: bytes = target.prog["VMCOREINFO"].string_()
        show_notes(target, args)
    write(text.decode("ascii", "backslashreplace"), args)
    return ExitStatus.SOUND
