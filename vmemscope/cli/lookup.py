# SPDX-License-Identifier: LGPL-2.1-or-later
"""What subcommands that look something up share: options that clash, and where text goes."""

from __future__ import annotations

import argparse
import sys

from ..errors import ExitStatus, UsageError

__all__ = ("check_type_options", "columns", "status", "write")

#: columns where the output is no terminal
_WIDTH = 100


def check_type_options(args: argparse.Namespace) -> None:
    """
    Check that the options about types and symbols go together.

    :raises UsageError: if they do not
    """
    if args.types == "btf" and args.symbols:
        raise UsageError("debug symbols (-s) are not used with --types btf")
    if args.system_map is not None and (args.types == "dwarf" or args.symbols):
        raise UsageError("debug symbols (-s) have all symbols: --system-map is not used with them")


def columns(args: argparse.Namespace) -> int:
    """Get how many columns a table may take."""
    if args.output in (None, "-") and sys.stdout.isatty():
        import shutil

        return shutil.get_terminal_size((_WIDTH, 24)).columns
    return _WIDTH


def write(text: str, args: argparse.Namespace) -> None:
    """Write text where the user wants it."""
    if args.output in (None, "-"):
        sys.stdout.write(text)
    else:
        from ..report import write_atomically

        write_atomically(args.output, text)


def status(errors: bool, partial: bool) -> ExitStatus:
    """Tell the exit status for what was found."""
    if errors:
        return ExitStatus.FINDINGS
    return ExitStatus.PARTIAL if partial else ExitStatus.SOUND
