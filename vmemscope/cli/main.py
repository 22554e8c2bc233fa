# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The command line: arguments in, exit status out; no kernel knowledge.

One module for each subcommand. A subcommand imports drgn and numpy only after the
arguments were checked, so that ``--help`` and usage errors answer at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..errors import ExitStatus, VmemscopeError, internal_error
from ..text import printable
from . import diff, hugetlb, memmap, page, pgmap, report, rules, sim, survey, vmcoreinfo
from .streams import OutputError, discard_output, set_up_streams
from .version import Version

__all__ = ("entrypoint", "main")

_EXIT_STATUS = """\
exit status:
  0  sound: everything could be read and nothing is wrong
  1  at least one finding of severity error; something got worse (diff)
  2  wrong usage
  3  no audit: no target, no types, unsupported kernel or architecture
  4  audited only in part (something could not be read), and no error found
"""


def parser() -> argparse.ArgumentParser:
    """Make the parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="vmemscope",
        description="What does the kernel's memory map of memory really look like?",
        epilog=_EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action=Version, help="show versions, and exit")
    _add_debug(top, False)
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in (pgmap, report, diff, rules, memmap, hugetlb, page, survey, sim, vmcoreinfo):
        command = commands.add_parser(
            module.NAME,
            help=module.HELP,
            description=module.DESCRIPTION,
            epilog=f"{module.EXAMPLES}\n{getattr(module, 'EXIT_STATUS', _EXIT_STATUS)}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        # Without a default, which would undo a --debug before the command.
        _add_debug(command, argparse.SUPPRESS)
        command.set_defaults(run=module.run)
    return top


def _add_debug(parser: argparse.ArgumentParser, default: object) -> None:
    parser.add_argument(
        "--debug",
        action="store_true",
        default=default,
        help="show a traceback with an error message",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command line.

    :param argv: arguments without the program's name, those of the process by default
    :return: exit status
    """
    args = argparse.Namespace(debug=False)
    try:
        try:
            args = parser().parse_args(argv)
            status = int(args.run(args))
        finally:
            sys.stdout.flush()
    except VmemscopeError as e:
        if args.debug:
            raise
        _error(str(e))
        return int(e.exit_status)
    except BrokenPipeError:
        # The reader went away (| head).
        discard_output()
        return 128 + 13
    except OutputError as e:
        discard_output()
        _error(f"can't write standard output: {e.strerror}")
        return int(ExitStatus.USAGE)
    except KeyboardInterrupt:
        _error("interrupted")
        return 128 + 2
    except Exception as e:
        if args.debug:
            raise
        _error(internal_error(e))
        return int(ExitStatus.CANNOT_AUDIT)
    return status


def _error(message: str) -> None:
    # One line, even if a path or a library's message has several.
    line = printable(" ".join(message.split()).encode("utf-8", "surrogateescape"))
    print(f"vmemscope: error: {line}", file=sys.stderr)


def entrypoint() -> None:
    """Run the command line and exit; the console script."""
    set_up_streams()
    sys.exit(main())
