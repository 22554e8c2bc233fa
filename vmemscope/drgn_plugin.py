# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A plugin for drgn (entry point group ``drgn.plugins``): ``%vmemscope`` at its prompt.

The commands work on the program that is open, with the types that it has. drgn loads this
module whenever it makes a program, so it imports nothing but what drgn's own commands
import, and makes its parser when a command runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from drgn import ProgramFlags
from drgn.commands import (
    DEFAULT_COMMAND_NAMESPACE,
    CommandArgumentError,
    CommandError,
    parse_shell_command,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import Any

    from drgn import Program
    from drgn.commands import ParsedCommand

__all__ = ("VmemscopeCommand",)


class _HelpShownError(Exception):
    """The parser showed help, and there is nothing to run."""


class VmemscopeCommand:
    """The command ``vmemscope``, with those of the command line that audit a kernel."""

    def description(self) -> str:
        """Return a line about the command."""
        return "audit the kernel's memory map: vmemmap, HugeTLB, one page, or all in a report"

    def format_usage(self) -> str:
        """Return how it is used."""
        usage = _parser().format_usage().removeprefix("usage: ")
        return " ".join(usage.split())

    def format_help(self, *, indent: str = "") -> str:
        """Return its help, each line after an indent."""
        _, _, text = _parser().format_help().partition("\n\n")
        return "\n".join(f"{indent}{line}".rstrip() for line in text.rstrip().split("\n"))

    def enabled(self, prog: Program) -> bool:
        """Return whether the program is a kernel."""
        return bool(prog.flags & ProgramFlags.IS_LINUX_KERNEL)

    def parse(self, source: str, /) -> ParsedCommand[Sequence[str]]:
        """Split the arguments from redirections and pipes."""
        return parse_shell_command(source)

    def run(self, prog: Program, name: str, args: Sequence[str], **kwargs: Any) -> None:
        """
        Run a command on a program.

        :raises CommandError: with one line that says what is wrong
        """
        from .errors import VmemscopeError

        try:
            parsed = _parser().parse_args(args)
        except _HelpShownError:
            return
        parsed.program = prog
        try:
            parsed.run(parsed)
        except VmemscopeError as e:
            raise CommandError(f"vmemscope: {e}") from None


def _parser() -> argparse.ArgumentParser:
    """Make the parser: that of the command line without the options for a target."""
    from typing import NoReturn

    from .cli import hugetlb, memmap, page, pgmap, report
    from .cli.parser import Help
    from .cli.parser import Parser as _Parser
    from .cli.streams import one_line

    class Parser(_Parser):
        """Does not end the process."""

        def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
            if status or message:
                raise CommandArgumentError((message or "").rstrip())
            raise _HelpShownError

        def error(self, message: str) -> NoReturn:
            raise CommandArgumentError(
                f"{self.prog}: {one_line(message)}; {self.prog} --help shows all"
            )

    top = Parser(prog="%vmemscope", description=VmemscopeCommand().description())
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in (report, pgmap, hugetlb, memmap, page):
        command = commands.add_parser(
            module.NAME,
            help=module.HELP,
            description=module.DESCRIPTION,
            formatter_class=Help,
        )
        command.set_defaults(program=True, debug=False, run=module.run)
        module.add_arguments(command)
    return top


DEFAULT_COMMAND_NAMESPACE.register("vmemscope", VmemscopeCommand())
