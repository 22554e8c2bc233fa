# SPDX-License-Identifier: LGPL-2.1-or-later
"""How far the kernel's boot is: ``system_state``, ``enum system_states`` (linux/kernel.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..target.reads import READ_ERRORS

if TYPE_CHECKING:
    from drgn import Program

__all__ = ("is_booting",)


def is_booting(prog: Program) -> bool:
    """
    Return whether the kernel has not started its first process yet; ``False`` if unknown.

    Until then it builds its memory map (``init/main.c: start_kernel()``, ``rest_init()``).
    """
    try:
        state = prog.read_u32(prog.symbol("system_state").address)
        enumerators = prog.type("enum system_states").enumerators or ()
    except (LookupError, *READ_ERRORS):
        return False
    return any(one.name == "SYSTEM_BOOTING" and one.value == state for one in enumerators)
