# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A vmcore: ELF, makedumpfile's compressed and flattened formats, all that drgn opens.

A page that a dump lacks must be unreadable. drgn and its libraries read some of these
pages as zeros; :mod:`.elf` and :mod:`.kdump` prevent that.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from ..arch import architecture_of, architecture_of_utsname, vmcoreinfo_marks
from ..errors import TargetError, UnsupportedError
from ..text import binary_size, printable
from ..vmcoreinfo import parse
from .base import Target, check_note, misfit, new_program, read_vmcoreinfo, set_kernel, target_of
from .elf import (
    NOT_IN_DUMP,
    Load,
    add_segments,
    cut_off,
    drgn_misreads,
    open_segments,
    platform_of_elf,
    read_elf,
    read_note,
)
from .flattened import FLATTENED
from .formats import is_core, read_head, refusal
from .kdump import check_flattened, check_whole
from .kdump_pages import KdumpPages
from .scan import least_program, notes_in_elf, notes_in_memory, order_in_elf
from .virtual import complete

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from drgn import Platform, Program

__all__ = ("is_dump", "open_core")

#: first bytes of each format: ELF, kdump-compressed (makedumpfile, QEMU), diskdump,
#: flattened
_ELF = b"\x7fELF"
_MAGICS = (_ELF, b"KDUMP   ", b"DISKDUMP", FLATTENED)


def is_dump(path: str) -> bool:
    """
    Return whether a file starts as a dump does.

    :raises TargetError: if it can't be opened
    """
    return _starts_a_dump(read_head(path))


def _starts_a_dump(head: bytes) -> bool:
    return head.startswith(_MAGICS) and (not head.startswith(_ELF) or is_core(head))


def open_core(path: str, vmcoreinfo: str | None = None) -> Target:
    """
    Open a vmcore.

    A dump without VMCOREINFO is searched for the one in its memory; :attr:`Target.notes`
    then says where it was.

    :param path: the dump
    :param vmcoreinfo: path of a saved VMCOREINFO note to use instead of the dump's
    :raises TargetError: if it can't be opened, is no dump of a Linux kernel, or is cut off,
        or if the note is not of that kernel
    """
    head = read_head(path)
    if not _starts_a_dump(head):
        raise refusal(path, head)
    loads: list[Load] = []
    notes: list[str] = []
    end, name = 0, None
    if head.startswith(_ELF):
        loads, incomplete = read_elf(path)
        if cut := cut_off(path, loads):
            notes.append(
                f"the file is cut off: {binary_size(cut)} of memory are missing at its end"
            )
        platform_of_elf(head)
        if incomplete:
            notes.append(_INCOMPLETE)
    else:
        check = check_flattened if head.startswith(FLATTENED) else check_whole
        level, end, incomplete, no_vmemmap, machine, missing = check(path)
        name = architecture_of_utsname(machine) if machine else None
        if level:
            notes.append(f"the dump was filtered (dump level {level}): pages left out are not read")
        elif missing:
            # makedumpfile leaves out pages that are damaged (PG_hwpoison) at each level.
            notes.append(_lacks(missing))
        if no_vmemmap:
            notes.append("makedumpfile left out parts of the memory map (option -e)")
        if incomplete:
            notes.append(_INCOMPLETE)
    text = None if vmcoreinfo is None else read_vmcoreinfo(vmcoreinfo)
    opened = partial(_set_core_dump, path)
    if loads and drgn_misreads(head, loads):
        _check_byte_order(path, head, loads)
        opened = partial(_set_segments, path, head, loads)
    elif end:
        opened = partial(_set_kdump, path, name)
    prog = opened(text)
    if prog is None and text is None:
        found = notes_in_elf(path, loads) if loads else _notes_in_kdump(path, name, end)
        prog = _by_scan(path, opened, found, loads, notes)
    if prog is None:
        raise TargetError(
            f"{path} has no usable VMCOREINFO, and none is in its memory, so it can't be read as a"
            " dump of a Linux kernel",
            "give a saved note with --vmcoreinfo; guests that start with -device vmcoreinfo, and"
            " load qemu_fw_cfg, have one in each dump",
        )
    if missing := add_segments(prog, path, loads):
        notes.append(_lacks(missing))
    if text is not None and misfit(prog):
        own = opened(None) is not None
        hint = "the dump has a VMCOREINFO of its own: leave --vmcoreinfo out" if own else None
        check_note(prog, vmcoreinfo, path, hint)
    error = TargetError(f"{path} has no VMCOREINFO")
    return target_of(prog, "core", path, error, tuple(notes))


def _check_byte_order(path: str, head: bytes, loads: list[Load]) -> None:
    """
    Check that a kernel has the byte order of the supported kernels of its architecture.

    The headers can have another: QEMU writes those of ppc64 big-endian for all kernels.

    :raises UnsupportedError: if it has not
    """
    from drgn import Platform, PlatformFlags

    platform, little = platform_of_elf(head), PlatformFlags.IS_LITTLE_ENDIAN
    if bool(platform.flags & little) == (head[5] == 1):
        return
    if (order := order_in_elf(path, loads)) is not None:
        flags = platform.flags | little if order == "<" else platform.flags & ~little
        architecture_of(Platform(platform.arch, flags))


def _lacks(missing: int) -> str:
    """Return the note of a dump that lacks bytes of memory."""
    size = f"{missing >> 20} MiB" if missing >> 20 else f"{missing >> 10} KiB"
    return f"{size} of memory are {NOT_IN_DUMP}, and not read as zeros"


_INCOMPLETE = (
    "makedumpfile marked the dump as incomplete: pages that it could not write are not read"
)


#: callback of a memory segment
_Reader: TypeAlias = "Callable[[int, int, int, bool], bytes]"
#: opens the dump with a VMCOREINFO, or its own: ``None`` if it has none
_Opener: TypeAlias = "Callable[[bytes | None], Program | None]"


def _by_scan(
    path: str,
    opened: _Opener,
    found: Iterator[tuple[int, bytes]],
    loads: list[Load],
    notes: list[str],
) -> Program | None:
    """
    Open a dump by a VMCOREINFO in its memory, ``None`` if none fits.

    :param found: the notes in its memory
    :param notes: gets where it was found
    :raises UnsupportedError: if none fits, and one is of a kernel that is not supported
    """
    unsupported: UnsupportedError | None = None
    seen: list[tuple[int, bytes]] = []

    def candidates() -> Iterator[tuple[int, bytes]]:
        # To search all of memory takes long: the first that fits ends it.
        for one in found:
            seen.append(one)
            yield one

    for strict in (True, False):
        others: list[str] = []
        for address, text in candidates() if strict else seen:
            try:
                prog = _fitting(path, opened, text, loads, strict)
            except UnsupportedError as e:
                prog, unsupported = None, unsupported or e
            if prog is not None:
                where = f"VMCOREINFO was found in memory at physical address {address:#x}"
                if others:
                    where += f"; it fits the kernel there, others do not ({', '.join(others)})"
                notes.append(where)
                return prog
            release = printable(parse(text).get("OSRELEASE", "unknown").encode())
            others.append(f"{release} at {address:#x}")
    if unsupported is not None:
        raise unsupported
    return None


def _fitting(
    path: str, opened: _Opener, text: bytes, loads: list[Load], strict: bool
) -> Program | None:
    """
    Open a dump with a VMCOREINFO, ``None`` if it is not of the kernel in it.

    :raises UnsupportedError: if it is of a kernel that is not supported
    """
    try:
        prog = opened(text)
        if prog is not None:
            # What the file lacks must not read as zeros.
            add_segments(prog, path, loads)
            if misfit(prog, strict=strict) is None:
                return opened(text)
    except TargetError:
        pass
    return None


def _notes_in_kdump(path: str, name: str | None, end: int) -> Iterator[tuple[int, bytes]]:
    """
    Find the notes in the memory of a kdump file.

    :param name: of the architecture, if the file says it
    :param end: physical address after all that it describes, 0 if its headers make no sense
    """
    from drgn import Architecture, Platform

    if not end:
        return
    pages, found = KdumpPages(path), False
    for one in notes_in_memory(_program_of(pages), pages.ranges):
        found = True
        yield one
    if not found:
        # Compressed in a way that only libkdumpfile reads, which must be told the machine.
        marks = dict(vmcoreinfo_marks())
        name = name or next(iter(marks))
        prog = least_program(Platform(Architecture[name]), marks[name], pages.page_size)
        with suppress(Exception):
            # It refuses some of QEMU's, in many ways.
            prog.set_core_dump(path)
            for one in notes_in_memory(prog, pages.ranges):
                found = True
                yield one
    if not found:
        pages.check_codecs(path)


def _set_segments(
    path: str, head: bytes, loads: list[Load], vmcoreinfo: bytes | None
) -> Program | None:
    """Open an ELF dump that drgn takes for another than it is, ``None`` without VMCOREINFO."""
    text = vmcoreinfo if vmcoreinfo is not None else read_note(path)
    if text is None:
        return None
    prog = open_segments(path, head, loads, text)
    complete(prog)
    return prog


class _AnonymousError(TargetError):
    """A kdump file does not say its architecture: QEMU leaves the utsname empty."""


def _set_kdump(path: str, name: str | None, vmcoreinfo: bytes | None) -> Program | None:
    """
    Open a kdump file, ``None`` without VMCOREINFO.

    VMCOREINFO has a key that only one architecture has. libkdumpfile refuses what QEMU writes
    for some, and dies of it now and then; in makedumpfile's files of some, it does not
    translate addresses. So what it gets is described by each architecture.

    :param name: of the architecture, if the file says it
    """
    from drgn import Architecture, Platform

    if name is None or architecture_of(Platform(Architecture[name])).libkdumpfile:
        try:
            return _set_core_dump(path, vmcoreinfo)
        except _AnonymousError:
            pass
    pages, named = KdumpPages(path), name is not None
    text = vmcoreinfo if vmcoreinfo is not None else pages.vmcoreinfo
    keys = {} if text is None else parse(text)
    name = name or next((name for name, key in vmcoreinfo_marks() if key in keys), None)
    if text is None or name is None:
        return None
    platform = Platform(Architecture[name])
    if architecture_of(platform).libkdumpfile:
        prog = new_program(vmcoreinfo, platform)
        try:
            prog.set_core_dump(path)
        except Exception as e:
            raise _unreadable(path, e) from e
    else:
        prog = _program_of(pages, text, platform, _reader(path, pages, named, text))
        set_kernel(prog, text)
    complete(prog)
    return prog


def _reader(path: str, pages: KdumpPages, named: bool, vmcoreinfo: bytes) -> _Reader:
    """
    Return what reads a kdump file's physical memory.

    :param named: whether the file says its architecture
    :raises UnsupportedError: if it is compressed in a way that needs a missing module
    """
    try:
        pages.check_codecs(path)
    except UnsupportedError as missing:
        if not named:
            raise
        # libkdumpfile may have been built with what the module does.
        inner = new_program(vmcoreinfo)
        try:
            inner.set_core_dump(path)
            inner.read(pages.first, 8, True)
        except Exception:
            # It translates physical addresses, too, and can't those of ppc64 with 4K pages.
            raise missing from None
        return lambda address, count, offset, physical: inner.read(address, count, True)
    return pages.read


def _unreadable(path: str, error: Exception) -> TargetError:
    return TargetError(
        f"cannot read {path}: {str(error).strip()}",
        "it may be cut off or damaged; compare its size",
    )


def _program_of(
    pages: KdumpPages,
    vmcoreinfo: bytes | None = None,
    platform: Platform | None = None,
    read: _Reader | None = None,
) -> Program:
    """
    Return a program with a kdump file's physical memory; for that, any platform will do.

    :param read: what reads it, ``None`` for the pages themselves
    """
    from drgn import host_platform

    prog = new_program(vmcoreinfo, platform or host_platform)
    prog.add_memory_segment(0, pages.end, read or pages.read, True)
    return prog


def _set_core_dump(path: str, vmcoreinfo: bytes | None) -> Program | None:
    """
    Return a program that is set to a dump, ``None`` if it lacks VMCOREINFO.

    :raises TargetError: if it can't be read
    """
    from drgn import ProgramFlags

    prog = new_program(vmcoreinfo)
    try:
        prog.set_core_dump(path)
    except Exception as e:
        # drgn raises a plain Exception for errors of its libraries (libkdumpfile, libelf).
        if "ARCH_NAME" in str(e):
            raise _AnonymousError(f"{path} does not say its architecture") from e
        if vmcoreinfo is None and any(words in str(e) for words in _NO_VMCOREINFO):
            return None
        raise _unreadable(path, e) from e
    if not prog.flags & ProgramFlags.IS_LINUX_KERNEL:
        return None
    complete(prog)
    return prog


#: in drgn's messages about dumps whose VMCOREINFO is missing or damaged
#: (drgn takes a dump without one for that of a process)
_NO_VMCOREINFO = ("VMCOREINFO", "vmcoreinfo", "NT_AUXV")
