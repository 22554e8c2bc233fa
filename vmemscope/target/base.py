# SPDX-License-Identifier: LGPL-2.1-or-later
"""The common form of all kinds of targets."""

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
    #: the user's name for it: a path or a QMP address
    path: str
    vmcoreinfo: Mapping[str, str]
    #: what the user should know about reads of it, a sentence each
    notes: tuple[str, ...] = ()

    @property
    def live(self) -> bool:
        """Whether the kernel runs while it is read."""
        return self.kind != "core"

    @property
    def osrelease(self) -> str:
        """The kernel's release, as ``uname -r`` prints it."""
        return self.vmcoreinfo.get("OSRELEASE", "unknown")


def new_program(vmcoreinfo: str | bytes | None, platform: Platform | None = None) -> Program:
    """
    Return an empty program, with a VMCOREINFO to use instead of the target's own.

    :param vmcoreinfo: path of a saved VMCOREINFO note, or its contents, or ``None``
    :param platform: the target's platform, if the target does not say it
    :raises TargetError: if the file can't be read
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

    :raises TargetError: if it can't be read, or is no VMCOREINFO
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
    Return the target of a program that was set to it.

    :param no_vmcoreinfo: error to raise if the target is no Linux kernel with VMCOREINFO
    """
    from drgn import ProgramFlags

    if not prog.flags & ProgramFlags.IS_LINUX_KERNEL:
        raise no_vmcoreinfo
    try:
        keys = parse(prog["VMCOREINFO"].string_())
    except LookupError:
        raise no_vmcoreinfo from None
    return Target(prog, kind, path, keys, notes)
