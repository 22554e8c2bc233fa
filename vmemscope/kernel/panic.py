# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which CPU stopped the kernel: ``panic_cpu``, ``kernel/panic.c``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..target.reads import READ_ERRORS

if TYPE_CHECKING:
    from drgn import Program

__all__ = ("read_panic_cpu",)


def read_panic_cpu(prog: Program) -> int | None:
    """
    Read the number of the CPU that panicked; ``None`` if none did, or it can't be read.

    The variable is an ``atomic_t``, -1 (PANIC_CPU_INVALID) before a panic.
    """
    try:
        cpu = prog.read_u32(prog.symbol("panic_cpu").address)
    except (LookupError, *READ_ERRORS):
        return None
    return cpu if cpu < 1 << 31 else None
