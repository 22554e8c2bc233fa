# SPDX-License-Identifier: LGPL-2.1-or-later
"""The parser of a command line: help that fits the terminal, errors of one line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from .common import dump_hint
from .streams import one_line

__all__ = ("Help", "Parser")


class Help(argparse.RawDescriptionHelpFormatter):
    """Fill paragraphs of descriptions; leave examples and lists as they are where they fit."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        from ..report.width import broken, wrapped

        blocks = []
        for block in text.rstrip().split("\n\n"):
            if "\n " in block:
                blocks.append(broken(block, width))
            else:
                blocks.append("\n".join(wrapped(" ".join(block.split()), width, indent, indent)))
        return "\n\n".join(blocks)


class Parser(argparse.ArgumentParser):
    """Takes no empty values, and escapes what the user gave before it prints an error."""

    def parse(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """
        Parse all arguments, those of the process by default.

        An error names those that are left, and what users mean by a file among them.
        """
        args, rest = self.parse_known_args(arguments)
        if rest:
            hint = dump_hint(rest[0]) if hasattr(args, "core") else ""
            self.error(f"unrecognized arguments: {' '.join(rest)}{hint}")
        return args

    def error(self, message: str) -> NoReturn:
        super().error(one_line(message))

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        if action.nargs == argparse.PARSER:
            # All arguments of a command, whose parser gets them next.
            return super()._get_value(action, arg_string)
        # An empty variable of a script is no choice: --sim "" must not audit this machine.
        if not arg_string.strip():
            raise argparse.ArgumentError(action, f"needs a value, not {arg_string!r}")
        if "\0" in arg_string:
            raise argparse.ArgumentError(action, f"can't have a null byte: {arg_string!r}")
        return super()._get_value(action, arg_string)
