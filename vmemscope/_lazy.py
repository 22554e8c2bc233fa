# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Names of a package that are imported when they are first used.

drgn and numpy take longer to import than the command line takes to answer ``--help``,
and a command needs only one format and one kind of target.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ("lazy",)


def lazy(package: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """
    Return the ``__getattr__`` of a package.

    :param package: its ``__name__``
    :param names: name -> module in the package that has it, under the same name
        or, after a colon, another
    """

    def get(name: str) -> Any:
        from importlib import import_module

        try:
            module, _, other = names[name].partition(":")
        except KeyError:
            raise AttributeError(f"module {package!r} has no attribute {name!r}") from None
        value = getattr(import_module(f".{module}", package), other or name)
        setattr(sys.modules[package], name, value)
        return value

    return get
