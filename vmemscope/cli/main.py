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
from functools import cache

from ..errors import ExitStatus, VmemscopeError, internal_error
from . import diff, hugetlb, memmap, page, pgmap, report, rules, sim, survey, vmcoreinfo
from .parser import Help, Parser
from .streams import OutputError, discard_output, say, set_up_streams
from .version import Version

__all__ = ("entrypoint", "main")

#: of the commands that audit a kernel
_EXIT_STATUS = """\
exit status:
  0  sound: everything could be read and nothing is wrong
  1  at least one finding of severity error
  2  wrong usage
  3  no audit: no target, no types, unsupported kernel or architecture
  4  audited only in part (something could not be read), and no error found
"""
_EPILOG = f"""\
first steps:
  vmemscope report -c VMCORE                 all of a dump, on one page
  vmemscope report --sim mixed               the same of a simulated kernel
  vmemscope COMMAND --help                   options and examples of a command

{_EXIT_STATUS.replace("severity error", "severity error; something got worse (diff)")}"""


@cache
def parser() -> Parser:
    """Return the parser of the whole command line, made once: a process may run many commands."""
    top = Parser(
        prog="vmemscope",
        description="What does the kernel's memory map of memory really look like?",
        epilog=_EPILOG,
        formatter_class=Help,
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
            formatter_class=Help,
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
            args = parser().parse(argv)
            status = int(args.run(args))
        finally:
            sys.stdout.flush()
    except VmemscopeError as e:
        if args.debug:
            raise
        say("error", str(e))
        return int(e.exit_status)
    except BrokenPipeError:
        # The reader went away (| head).
        discard_output()
        return 128 + 13
    except OutputError as e:
        discard_output()
        say("error", f"can't write standard output: {e.strerror}")
        return int(ExitStatus.USAGE)
    except KeyboardInterrupt:
        say("error", "interrupted")
        return 128 + 2
    except Exception as e:
        if args.debug:
            raise
        say("error", internal_error(e))
        return int(ExitStatus.CANNOT_AUDIT)
    return status


def entrypoint() -> None:
    """Run the command line and exit; the console script."""
    set_up_streams()
    sys.exit(main())
