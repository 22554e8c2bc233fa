# SPDX-License-Identifier: LGPL-2.1-or-later
"""How often the kernel announced a device: ``uevent_seqnum``, ``lib/kobject_uevent.c``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..target.reads import READ_ERRORS

if TYPE_CHECKING:
    from drgn import Program

__all__ = ("read_uevent_seqnum",)


def read_uevent_seqnum(prog: Program) -> int | None:
    """
    Read the number of announcements since boot; ``None`` if it can't be read.

    ``drivers/base/dd.c: __device_release_driver()`` announces that a driver has left its
    device after its pagemap is gone, and ``device_add()`` and ``device_del()`` announce
    memory blocks (4.14 to 7.3). So nothing that has a memory map can go and come back
    without an announcement in between.
    """
    try:
        # A u64, or an atomic64_t: its symbol is enough.
        return int(prog.read_u64(prog.symbol("uevent_seqnum").address))
    except (LookupError, *READ_ERRORS):
        return None
