# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a read of a target raises."""

from __future__ import annotations

from drgn import FaultError

__all__ = ("READ_ERRORS",)

#: what drgn raises where a target has no memory, where the file or the process behind it
#: can't be read, and for an address that no memory can have
READ_ERRORS = (FaultError, OSError, OverflowError)
