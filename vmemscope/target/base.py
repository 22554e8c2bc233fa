# SPDX-License-Identifier: LGPL-2.1-or-later
"""The common form of all kinds of targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct

from ..arch import architecture_of
from ..errors import TargetError, VmemscopeError
from ..text import printable
from ..vmcoreinfo import note_text, parse, symbol
from .reads import READ_ERRORS

if TYPE_CHECKING:
    from drgn import Platform, Program

    from ..arch import PageTable
    from .notes import Cpu

__all__ = (
    "Target",
    "check_note",
    "misfit",
    "new_program",
    "page_table_of",
    "read_vmcoreinfo",
    "release_address",
    "set_kernel",
    "target_of",
)


#: bytes in a field of struct new_utsname, and before its release: sysname, nodename
_UTS_LEN = 65
_RELEASE = 2 * _UTS_LEN


class Target(Struct, frozen=True):
    """An opened target."""

    prog: Program
    #: ``core``, ``live`` or ``qemu``
    kind: str
    #: the user's name for it: a path or a QMP address
    path: str
    vmcoreinfo: Mapping[str, str]
    #: what the user should know about reads of it, a sentence each
    notes: tuple[str, ...] = ()
    #: reads the registers that the CPUs had when a dump was made
    cpus: Callable[[], list[Cpu]] = list

    @property
    def live(self) -> bool:
        """Whether the kernel runs while it is read."""
        return self.kind != "core"

    @property
    def withholds_poisoned(self) -> bool:
        """
        Whether frames whose memory failed (PG_hwpoison) read as zeros.

        Source: ``fs/proc/kcore.c: read_kcore_iter()`` (since v5.14).
        """
        return self.kind == "live"

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
    try:
        return Program(platform, vmcoreinfo=vmcoreinfo)
    except Exception as e:
        # drgn raises a plain Exception for keys that it misses or can't parse.
        raise TargetError(f"the VMCOREINFO given is not complete: {e}") from e


def set_kernel(prog: Program, vmcoreinfo: bytes, *, live: bool = False) -> None:
    """
    Set a program that has memory to a kernel.

    :raises TargetError: if the note is not complete
    """
    try:
        prog.set_linux_kernel_custom(vmcoreinfo, live)
    except Exception as e:
        # drgn raises a plain Exception for keys that it misses or can't parse.
        raise TargetError(f"the VMCOREINFO is not complete: {e}") from e


def read_vmcoreinfo(path: str) -> bytes:
    """
    Read a saved VMCOREINFO note.

    :raises TargetError: if it can't be read, or is no VMCOREINFO
    """
    try:
        with open(path, "rb") as file:
            text = note_text(file.read(1 << 20))
    except (OSError, ValueError) as e:
        reason = getattr(e, "strerror", None) or e
        raise TargetError(f"cannot read VMCOREINFO from {path}: {reason}") from e
    if text is None:
        raise TargetError(
            f"{path} holds no VMCOREINFO",
            "it is text that starts with OSRELEASE=, or an ELF note with the name VMCOREINFO",
        )
    return text


def check_note(prog: Program, note: str | None, target: str, hint: str | None = None) -> None:
    """
    Check that a saved note is of the target's kernel and boot.

    :param note: path of the note that the program was opened with, ``None`` if it has its own
    :param target: what the user calls the target
    :raises TargetError: if it is not
    """
    if note is not None and (why := misfit(prog)):
        raise TargetError(
            f"the VMCOREINFO in {note} is not of the kernel in {target}: {why}",
            hint or "give the note of the same boot",
        )


def misfit(prog: Program, *, strict: bool = False) -> str | None:
    """
    Return why a VMCOREINFO that did not come with the target is not of its kernel.

    The kernel's name must be where the note says (``init_uts_ns``): after another boot, the
    kernel is elsewhere (KASLR). If that page is lost, the root of the page tables must map
    itself.

    :param prog: opened with that note
    :param strict: whether the kernel's name must be there
    """
    try:
        keys = parse(prog["VMCOREINFO"].string_())
        release = release_address(keys)
    except (LookupError, TargetError, ValueError):
        return "it does not say where the kernel's name is"
    expected = keys.get("OSRELEASE", "").encode()
    try:
        found = prog.read(release, _UTS_LEN).partition(b"\0")[0]
    except READ_ERRORS:
        return None if not strict and _maps_itself(prog, keys) else "its addresses are not mapped"
    if found == expected:
        return None
    if (name := found.decode("ascii", "replace")) and name.isprintable() and "." in name:
        return f"it is of Linux {printable(expected)}, the target runs {name}"
    return "the kernel's name is not where it says"


def release_address(keys: Mapping[str, str]) -> int:
    """
    Return the virtual address of the kernel's release, a string (``init_uts_ns``).

    :param keys: of VMCOREINFO
    :raises TargetError: if they do not say where it is
    """
    offset = int(keys.get("OFFSET(uts_namespace.name)", "0"))
    return symbol(keys, "init_uts_ns") + offset + _RELEASE


def _maps_itself(prog: Program, keys: Mapping[str, str]) -> bool:
    try:
        root = page_table_of(prog, keys).root
        mapped = prog.read(symbol(keys, "swapper_pg_dir"), 4096)
        return bool(any(mapped) and prog.read(root, 4096, physical=True) == mapped)
    except (VmemscopeError, *READ_ERRORS):
        return False


def page_table_of(prog: Program, keys: Mapping[str, str]) -> PageTable:
    """
    Return the format of the kernel's page tables.

    :param keys: of VMCOREINFO
    :raises TargetError: if they lack something, or physical memory can't be read
    :raises UnsupportedError: if the architecture, or a mode of it, is not supported
    """

    def read(address: int) -> int:
        try:
            return int(prog.read_u64(address, True))
        except READ_ERRORS:
            raise TargetError(
                "the root of the page tables can't be read", "the dump lacks the page"
            ) from None

    return architecture_of(prog.platform).page_table(keys, read)


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
    # Before anything else is read, and says something else.
    architecture_of(prog.platform)
    if kind != "core" or not path:
        return Target(prog, kind, path, keys, notes)
    return Target(prog, kind, path, keys, notes, partial(_cpus, prog.platform, path))


def _cpus(platform: Platform | None, path: str) -> list[Cpu]:
    from drgn import PlatformFlags

    from .notes import read_cpus

    little = platform is None or platform.flags & PlatformFlags.IS_LITTLE_ENDIAN
    return read_cpus(path, "<" if little else ">")
