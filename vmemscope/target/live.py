# SPDX-License-Identifier: LGPL-2.1-or-later
"""The running kernel, through ``/proc/kcore``, which is read-only."""

from __future__ import annotations

import os

from ..errors import TargetError
from .base import Target, check_note, new_program, target_of

__all__ = ("open_live",)

_KCORE = "/proc/kcore"
_LOCKDOWN = "/sys/kernel/security/lockdown"


def open_live(vmcoreinfo: str | None = None) -> Target:
    """
    Open the running kernel.

    :param vmcoreinfo: path of a saved VMCOREINFO note to use instead of the kernel's
    :raises TargetError: if there is no ``/proc/kcore`` or it can't be opened
    """
    prog = new_program(vmcoreinfo)
    try:
        # drgn would open it with sudo.
        fd = os.open(_KCORE, os.O_RDONLY)
    except FileNotFoundError:
        raise TargetError(
            f"there is no {_KCORE} here, so the running kernel can't be read",
            "audit a dump (-c), a guest (--qemu) or a simulated kernel (--sim) instead",
        ) from None
    except PermissionError:
        raise TargetError(f"not permitted to read {_KCORE}", _why_not_permitted()) from None
    except OSError as e:
        raise TargetError(f"cannot open {_KCORE}: {e.strerror}") from e
    try:
        # drgn closes the descriptor, also on an error.
        prog.set_core_dump(fd)
    except Exception as e:
        if not isinstance(e, OSError | ValueError) and type(e) is not Exception:
            raise
        raise TargetError(f"cannot read {_KCORE}: {e}", _why_not_permitted()) from e
    check_note(prog, vmcoreinfo, _KCORE)
    return target_of(
        prog,
        "live",
        _KCORE,
        TargetError(f"{_KCORE} has no VMCOREINFO", "give it with --vmcoreinfo"),
    )


def _why_not_permitted() -> str:
    """Return a hint: the user is not root, or the kernel is locked down."""
    if os.geteuid() != 0:
        return "run as root (sudo), or audit a dump with -c"
    try:
        with open(_LOCKDOWN, encoding="ascii") as file:
            if "[confidentiality]" in file.read():
                return "the kernel is locked down (confidentiality); audit a dump with -c"
    except OSError:
        pass
    return "reading it needs CAP_SYS_RAWIO and no lockdown; or audit a dump with -c"
