# SPDX-License-Identifier: LGPL-2.1-or-later
"""What every kind of target is handed over as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import TargetError
from .vmcoreinfo import parse

if TYPE_CHECKING:
    from drgn import Platform, Program

__all__ = ("Target", "new_program", "read_vmcoreinfo", "target_of")


@dataclass(frozen=True)
class Target:
    """An opened target."""

    prog: Program
    #: ``core``, ``live`` or ``qemu``
    kind: str
    #: what the user named: a path or a QMP address
    path: str
    vmcoreinfo: Mapping[str, str]
    #: what its user should know of how it is read, a sentence each
    notes: tuple[str, ...] = ()

    @property
    def live(self) -> bool:
        """Whether the kernel runs on while it is looked at."""
        return self.kind != "core"

    @property
    def osrelease(self) -> str:
        """The kernel's release, as ``uname -r`` prints it."""
        return self.vmcoreinfo.get("OSRELEASE", "unknown")


def new_program(vmcoreinfo: str | bytes | None, platform: Platform | None = None) -> Program:
    """
    Make an empty program, with a VMCOREINFO to use instead of the target's own.

    :param vmcoreinfo: path of a saved VMCOREINFO note, or its contents, or ``None``
    :param platform: what the target runs on, where it does not tell
    :raises TargetError: if that file can't be read
    """
    from drgn import Program

    if vmcoreinfo is None:
        return Program(platform)
    if isinstance(vmcoreinfo, str):
        vmcoreinfo = read_vmcoreinfo(vmcoreinfo)
    return Program(platform, vmcoreinfo=vmcoreinfo)


def read_vmcoreinfo(path: str) -> bytes:
    """
    Read a saved VMCOREINFO note.

    :raises TargetError: if it can't be read, or is none
    """
    try:
        with open(path, "rb") as file:
            text = file.read(1 << 20)
    except OSError as e:
        raise TargetError(f"cannot read VMCOREINFO from {path}: {e.strerror}") from e
    if b"OSRELEASE=" not in text:
        raise TargetError(f"{path} holds no VMCOREINFO (no OSRELEASE line)")
    return text


def target_of(
    prog: Program,
    kind: str,
    path: str,
    no_vmcoreinfo: TargetError,
    notes: tuple[str, ...] = (),
) -> Target:
    """
    Wrap a program that has been set to its target.

    :param no_vmcoreinfo: raised if the target turns out not to be a Linux
        kernel that tells its VMCOREINFO
    """
    from drgn import ProgramFlags

    if not prog.flags & ProgramFlags.IS_LINUX_KERNEL:
        raise no_vmcoreinfo
    try:
        keys = parse(prog["VMCOREINFO"].string_())
    except LookupError:
        raise no_vmcoreinfo from None
    return Target(prog, kind, path, keys, notes)
