# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What becomes of types that are there and make no sense.

Damaged BTF, or a vmlinux of another kernel, has members that are something else than
the kernel's: drgn then raises whatever fits (TypeError, ValueError, LookupError...)
wherever one of them is used. :func:`~.needs.check_needs` finds those that it knows of
beforehand; the rest ends here, in one place.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from ..errors import TypesError
from ._hints import GIVE_VMLINUX

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

__all__ = ("NO_SENSE", "sensible_types")

#: how the message of such an error begins
NO_SENSE = "the kernel's types make no sense"

#: what reads by types, and hands on nothing but what it has read
_READERS = (f"{__package__}.", f"{__package__.rpartition('.')[0]}.kernel.", "drgn.")


@contextlib.contextmanager
def sensible_types() -> Iterator[None]:
    """
    Turn errors of drgn's types and objects into one that says so.

    Only of those that went through what reads kernel structures: an error of
    anything else is not of types.

    :raises TypesError: in place of such an error
    """
    try:
        yield
    except Exception as e:
        if not isinstance(e, _errors()) or not _of_types(e.__traceback__):
            raise
        raise TypesError(f"{NO_SENSE}: {type(e).__name__}: {e}", GIVE_VMLINUX) from e


def _errors() -> tuple[type[Exception], ...]:
    """Get what drgn raises for types and objects; memory that can't be read is no such thing."""
    from drgn import BadDataError, OutOfBoundsError

    return (
        AttributeError, LookupError, TypeError, ValueError, OverflowError, RecursionError,
        BadDataError, OutOfBoundsError,
    )  # fmt: skip


def _of_types(traceback: TracebackType | None) -> bool:
    names = []
    while traceback is not None:
        names.append(str(traceback.tb_frame.f_globals.get("__name__", "")))
        traceback = traceback.tb_next
    # The first is this module.
    return any(f"{name}.".startswith(_READERS) for name in names[1:])
