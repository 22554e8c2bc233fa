# SPDX-License-Identifier: LGPL-2.1-or-later
"""Standard output and standard error of the process, as the command line needs them."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ("OutputError", "discard_output", "set_up_streams")


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


def discard_output() -> None:
    """Keep Python from complaining when it flushes standard output once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
