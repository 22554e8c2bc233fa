# SPDX-License-Identifier: LGPL-2.1-or-later
"""
VMCOREINFO in the memory of a dump that has no such note.

The kernel keeps the note ready at the start of a page, for the kernel that makes a dump
(``kernel/crash_core.c: crash_save_vmcoreinfo_init()``, ``kernel/vmcore_info.c`` since
6.9). Memory can have several: of the kernel that ran before kexec, or as part of some
file. So what is found is a candidate, which must fit what is in memory.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..vmcoreinfo import MAX_NOTE, NOTE_NAME, note_order, note_text
from .base import new_program
from .reads import READ_ERRORS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

    from drgn import Platform, Program

    from .elf import Load

__all__ = ("least_program", "notes_in_elf", "notes_in_memory", "order_in_elf")

_PAGE = 4096
#: where the name is in a note: after three words of 32 bits
_NAME = 12
#: the least that drgn and libkdumpfile want to know before they read physical memory; with
#: the key of the architecture
_LEAST = """\
OSRELEASE=6.0.0
PAGESIZE={}
SYMBOL(swapper_pg_dir)=ffffffff82000000
NUMBER(phys_base)=0
{}=0
"""
#: bytes of physical memory read at a time, at first and at last
_CHUNK = 1 << 20
#: candidates that are tried
_MAX_NOTES = 16


def notes_in_elf(path: str, loads: Sequence[Load]) -> Iterator[tuple[int, bytes]]:
    """
    Yield the physical address and the text of each note in an ELF file's memory.

    :param loads: its segments
    """
    for address, note in _raw_notes(path, loads):
        if (text := note_text(note)) is not None:
            yield address, text


def order_in_elf(path: str, loads: Sequence[Load]) -> str | None:
    """
    Return the byte order of the notes in an ELF file's memory, ``None`` if it has none.

    The kernel wrote them, whatever the order of the file's headers.
    """
    for _, note in _raw_notes(path, loads):
        if note_text(note) is not None:
            return note_order(note)
    return None


def _raw_notes(path: str, loads: Sequence[Load]) -> Iterator[tuple[int, bytes]]:
    """Yield the physical address of each possible note, and the bytes from there on."""
    found = 0
    with open(path, "rb") as file, _mapped(file) as data:
        for load in sorted(loads, key=lambda load: load.paddr):
            at, end = load.offset, min(load.offset + load.filesz, len(data))
            while at < end and (at := data.find(NOTE_NAME, at, end)) >= 0:
                start = at - _NAME
                address = load.paddr + start - load.offset
                at += len(NOTE_NAME)
                if start < load.offset or address % _PAGE:
                    continue
                note = data[start : min(start + MAX_NOTE, end)]
                yield address, note
                found += note_text(note) is not None
                if found >= _MAX_NOTES:
                    return


def _mapped(file: BinaryIO) -> mmap.mmap:
    # The size of a block device is not that of its file.
    size = os.lseek(file.fileno(), 0, os.SEEK_END)
    return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)


def least_program(platform: Platform | None, key: str, page_size: int = _PAGE) -> Program:
    """
    Return a program that can be set to a kernel for its physical memory alone.

    :param key: of VMCOREINFO, which only that platform has
    :param page_size: in bytes
    """
    return new_program(_LEAST.format(page_size, key).encode(), platform)


def notes_in_memory(
    prog: Program, ranges: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, bytes]]:
    """
    Yield the physical address and the text of each note in physical memory.

    :param ranges: first and last address of each range of it, in order
    """

    def read(address: int, size: int) -> bytes | None:
        try:
            return bytes(prog.read(address, size, physical=True))
        except READ_ERRORS:
            return None

    found = 0
    pending = [
        (at, min(_CHUNK, last + 1 - at))
        for first, last in reversed(ranges)
        for at in range(first + (last - first) // _CHUNK * _CHUNK, first - 1, -_CHUNK)
    ]
    while pending:
        address, size = pending.pop()
        data = read(address, size)
        if data is None:
            # Some page of it is not in the file.
            if size > _PAGE:
                half = max(size // 2 & -_PAGE, _PAGE)
                pending += [(address + half, size - half), (address, half)]
            continue
        at = 0
        while (at := data.find(NOTE_NAME, at)) >= 0:
            start, at = at - _NAME, at + len(NOTE_NAME)
            if start < 0 or (address + start) % _PAGE:
                continue
            whole = b""
            for offset in range(0, MAX_NOTE, _PAGE):
                page = read(address + start + offset, _PAGE)
                if page is None:
                    break
                whole += page
            text = note_text(whole)
            if text is not None:
                yield address + start, text
                found += 1
                if found >= _MAX_NOTES:
                    return
