# SPDX-License-Identifier: LGPL-2.1-or-later
"""Standard output and standard error of the process, as the command line needs them."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING

from ..text import safe

if TYPE_CHECKING:
    from typing import TextIO

    from typing_extensions import Buffer

__all__ = (
    "OutputError",
    "discard_output",
    "fitted",
    "one_line",
    "say",
    "set_up_streams",
    "terminal_columns",
)


#: characters of a word of a message: more than most paths have
_WORD = 256


class OutputError(OSError):
    """Standard output can't be written."""


class _Output(io.FileIO):
    """File descriptor 1, whose errors can be told from those of other files."""

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except (BlockingIOError, BrokenPipeError):
            raise
        except OSError as e:
            raise OutputError(e.errno, e.strerror) from e


def set_up_streams() -> None:
    """
    Replace ``sys.stdout``, and ``sys.stderr`` if it is closed.

    Python has None for streams that are closed (``>&-``). What is printed to None as standard
    error would go to standard output; and writing to that must fail as in other programs.
    """
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    encoding, errors = "utf-8", "surrogateescape"
    if sys.stdout is None:
        # Cannot be written; and no file that is opened later gets its number.
        if (closed := os.open(os.devnull, os.O_RDONLY)) != 1:
            os.dup2(closed, 1)
            os.close(closed)
    else:
        encoding, errors = sys.stdout.encoding, sys.stdout.errors or "strict"
        sys.stdout.flush()
    raw = _Output(1, "w", closefd=False)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(raw), encoding, errors, line_buffering=raw.isatty()
    )


def terminal_columns(stream: TextIO) -> int | None:
    """
    Return the columns of the terminal that a stream writes to, ``None`` if it is none.

    ``COLUMNS`` in the environment comes first, as for other programs.
    """
    if not stream.isatty():
        return None
    asked = os.environ.get("COLUMNS", "")
    # int() takes no number of more than 4300 digits.
    columns = int(asked) if asked.isdecimal() and len(asked) < 10 else 0
    if not columns:
        try:
            columns = os.get_terminal_size(stream.fileno()).columns
        except (OSError, ValueError):
            columns = 0
    # A terminal of no columns (a serial console) does not say how many it has.
    return columns or None


def fitted(text: str, stream: TextIO) -> str:
    """Return text for a stream: broken at spaces for a terminal, else as it is."""
    columns = terminal_columns(stream)
    if columns is None:
        return text
    from ..report.width import broken

    return broken(text, columns)


def say(kind: str, message: str) -> None:
    """
    Print a message of one line to standard error, whatever is in it.

    :param kind: error, note, warning
    :param message: from the user, a target or a library; it may have several lines
    """
    print(fitted(f"vmemscope: {kind}: {one_line(message)}", sys.stderr), file=sys.stderr)


def one_line(message: str) -> str:
    """
    Return a message on one line, escaped.

    Of a very long word, which only hostile names are, the middle is left out.
    """
    words = (
        word if len(word) <= _WORD else f"{word[: _WORD // 2]}...{word[-_WORD // 4 :]}"
        for word in safe(" ".join(message.splitlines())).split(" ")
    )
    return " ".join(words)


def discard_output() -> None:
    """Keep Python from complaining when it flushes standard output once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
