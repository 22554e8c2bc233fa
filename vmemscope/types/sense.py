# SPDX-License-Identifier: LGPL-2.1-or-later
"""
One error for types that make no sense.

Damaged BTF, or the vmlinux of another kernel, has other members than the kernel: drgn
then raises a TypeError, ValueError, LookupError or another error where one of them is
used. :func:`~.needs.check_needs` finds the members that it knows beforehand; this module
turns all other errors into one.
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

#: start of the error's message
NO_SENSE = "the kernel's types make no sense"

#: modules that read by types, and pass on only what they read
_READERS = (f"{__package__}.", f"{__package__.rpartition('.')[0]}.kernel.", "drgn.")


@contextlib.contextmanager
def sensible_types() -> Iterator[None]:
    """
    Turn errors of drgn's types and objects into a :class:`TypesError`.

    Only errors raised below a module that reads kernel structures (:data:`_READERS`)
    are errors of types.

    :raises TypesError: in place of these errors
    """
    try:
        yield
    except Exception as e:
        if not isinstance(e, _errors()) or not _of_types(e.__traceback__):
            raise
        raise TypesError(f"{NO_SENSE}: {type(e).__name__}: {e}", GIVE_VMLINUX) from e


def _errors() -> tuple[type[Exception], ...]:
    """Return what drgn raises for types and objects; not for memory that can't be read."""
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
