# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write a report to a file, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat

from ..errors import UsageError
from .words import safe

__all__ = ("write_atomically",)


def write_atomically(path: str, text: str) -> None:
    """
    Write text to a file in UTF-8, so that a reader sees the old file or the new one.

    The text goes to a temporary file in the same directory, which then takes
    the place of ``path``. A new file's mode follows the umask. A symbolic link
    is followed; what is no regular file (``/dev/null``, a pipe) is written to
    as it is, since nothing may take its place.

    :raises UsageError: if it can't be written; ``path`` is then as it was
    """
    data = text.encode("utf-8", "backslashreplace")
    try:
        if _is_special(path):
            # No O_CREAT: it is there, and a sticky directory may forbid it.
            with open(os.open(path, os.O_WRONLY), "wb") as file:
                file.write(data)
            return
        _replace(os.path.realpath(path), data)
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
        hint = None
        if isinstance(e, (FileNotFoundError, NotADirectoryError, PermissionError)):
            hint = "name a file in a directory that is there and that you may write to"
        raise UsageError(f"can't write {safe(path)}: {reason}", hint) from e


def _is_special(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(mode)


def _replace(path: str, data: bytes) -> None:
    temporary = os.path.join(os.path.dirname(path), f".vmemscope-{secrets.token_hex(8)}.tmp")
    # Not tempfile: its files are the owner's alone whatever the umask says.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(temporary, flags, 0o666)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
