# SPDX-License-Identifier: LGPL-2.1-or-later
"""The parser of a command line: help that fits the terminal, errors that have no escapes."""

from __future__ import annotations

import argparse
from typing import NoReturn

from ..text import safe

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
    """Escapes what the user gave before it prints an error."""

    def error(self, message: str) -> NoReturn:
        super().error(safe(" ".join(message.split())))
