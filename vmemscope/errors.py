# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Errors that a user can act on.

Each has a sentence that says what failed, and may have a hint that says what to try.
The command line prints the two on one line and exits with
:attr:`VmemscopeError.exit_status`; a library user catches the class.

* VmemscopeError

  * UsageError (2): the request itself can't be carried out
  * TargetError (3): the target could not be opened or is not a kernel
  * TypesError (3): types or symbols that the audit relies on are missing
  * UnsupportedError (3): a kernel or architecture that is not supported
"""

from __future__ import annotations

from enum import IntEnum

__all__ = (
    "ExitStatus",
    "TargetError",
    "TypesError",
    "UnsupportedError",
    "UsageError",
    "VmemscopeError",
    "internal_error",
)


class ExitStatus(IntEnum):
    """Exit status of the command line."""

    SOUND = 0
    FINDINGS = 1
    USAGE = 2
    CANNOT_AUDIT = 3
    PARTIAL = 4


class VmemscopeError(Exception):
    """
    Base of all errors raised on purpose.

    :param message: what failed, one sentence, no full stop
    :param hint: what to try, one sentence, or ``None``
    """

    exit_status = ExitStatus.CANNOT_AUDIT

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class UsageError(VmemscopeError):
    """The request itself can't be carried out (no such pagemap, bad scenario)."""

    exit_status = ExitStatus.USAGE


class TargetError(VmemscopeError):
    """The target could not be opened, or is not a Linux kernel."""


class TypesError(VmemscopeError):
    """Types or symbols that the audit relies on are missing."""


class UnsupportedError(VmemscopeError):
    """A kernel or an architecture that vmemscope does not support."""


def internal_error(e: Exception) -> str:
    """Return what the user reads of an error that is a bug of vmemscope."""
    return f"internal error: {type(e).__name__}: {e}; run again with --debug and report it"
