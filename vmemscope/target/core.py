# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A vmcore: ELF, makedumpfile's compressed and flattened formats, all that drgn opens.

A page that a dump lacks must be unreadable. drgn and its libraries read some of these
pages as zeros; :mod:`.elf` and :mod:`.kdump` prevent that.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from ..arch import vmcoreinfo_marks
from ..errors import TargetError
from .base import Target, new_program, target_of
from .elf import NOT_IN_DUMP, Load, hide_absent, read_loads
from .kdump import FLATTENED, check_flattened, check_whole
from .vmcoreinfo import parse

if TYPE_CHECKING:
    from drgn import Program

__all__ = ("open_core",)

#: first bytes of each format: ELF, kdump-compressed (makedumpfile, QEMU), diskdump,
#: flattened
_ELF = b"\x7fELF"
_MAGICS = (_ELF, b"KDUMP   ", b"DISKDUMP", FLATTENED)


def open_core(path: str, vmcoreinfo: str | None = None) -> Target:
    """
    Open a vmcore.

    :param path: the dump
    :param vmcoreinfo: path of a saved VMCOREINFO note to use instead of the dump's
    :raises TargetError: if it can't be opened, is no dump of a Linux kernel, or is cut off
    """
    head = _read_head(path)
    if not head.startswith(_MAGICS):
        raise TargetError(
            f"{path} is not a kernel dump",
            "give an ELF or kdump-compressed vmcore"
            + (" with -c, and a vmlinux or debug file with -s" if path.endswith("linux") else ""),
        )
    loads: list[Load] = []
    notes: list[str] = []
    if head.startswith(_ELF):
        loads = read_loads(path)
    elif head.startswith(FLATTENED):
        check_flattened(path)
    elif level := check_whole(path):
        notes.append(f"the dump was filtered (dump level {level}): pages left out are not read")
    prog = _set_core_dump(path, vmcoreinfo)
    if missing := hide_absent(prog, path, loads):
        size = f"{missing >> 20} MiB" if missing >> 20 else f"{missing >> 10} KiB"
        notes.append(f"{size} of memory are {NOT_IN_DUMP}, and not read as zeros")
    return target_of(
        prog,
        "core",
        path,
        TargetError(
            f"{path} has no VMCOREINFO, so it can't be read as a Linux kernel dump",
            "boot the guest with -device vmcoreinfo and load qemu_fw_cfg in it before it is dumped,"
            " or give a saved note with --vmcoreinfo",
        ),
        tuple(notes),
    )


def _read_head(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
                raise TargetError(f"{path} is not a regular file")
            return file.read(64)
    except OSError as e:
        raise TargetError(f"cannot open {path}: {e.strerror}") from e


def _set_core_dump(path: str, vmcoreinfo: str | None) -> Program:
    prog = new_program(vmcoreinfo)
    try:
        prog.set_core_dump(path)
    except Exception as e:
        # drgn raises a plain Exception for errors of its libraries (libkdumpfile, libelf).
        if "ARCH_NAME" in str(e):
            anonymous = _without_machine(path, vmcoreinfo)
            if anonymous is not None:
                return anonymous
        raise TargetError(
            f"cannot read {path}: {str(e).strip()}",
            "it may be cut off or damaged; compare its size",
        ) from e
    return prog


def _without_machine(path: str, vmcoreinfo: str | None) -> Program | None:
    """
    Open a dump that does not say its architecture, ``None`` if none fits.

    QEMU leaves the utsname of kdump-compressed files empty. VMCOREINFO has a key that
    only one architecture has.
    """
    from drgn import Architecture, Platform

    for name, key in vmcoreinfo_marks():
        prog = new_program(vmcoreinfo, Platform(Architecture[name]))
        try:
            prog.set_core_dump(path)
            if key in parse(prog["VMCOREINFO"].string_()):
                return prog
        except Exception:
            continue
    return None
