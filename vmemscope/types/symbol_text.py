# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Tables of symbols as text
-------------------------

:class:`KallsymsText` is the running kernel's ``/proc/kallsyms``, which kernels before
6.0 have, too. :class:`SystemMap` is the ``System.map`` of a build, which lacks the
offset of KASLR.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from ..errors import TargetError, TypesError
from ..vmcoreinfo import symbol
from ._hints import GIVE_SYMBOLS
from .symbols import MASK_64, PROMOTED, ListedSymbols, SymbolEntry

__all__ = ("KallsymsText", "SystemMap")


class KallsymsText:
    """
    The text of ``/proc/kallsyms``: ``address letter name``, one a line.

    Symbols of modules, which have the name of the module in brackets after them, are
    not found.

    :param text: the file, 12 MB; it is searched, not parsed
    :raises TypesError: if the kernel hides the addresses
    """

    def __init__(self, text: bytes) -> None:
        end = text.find(b"\t[")
        if end >= 0:
            text = text[: text.rfind(b"\n", 0, end) + 1]
        self._text: Final = b"\n" + text
        self._listed: ListedSymbols | None = None
        self._check()

    def _check(self) -> None:
        stext = self.named("_stext")
        if not stext:
            raise TypesError("/proc/kallsyms has no _stext")
        if not stext[0].address:
            raise TypesError(
                "/proc/kallsyms hides the addresses of symbols",
                "run as root, with kernel.kptr_restrict set to 0 or 1",
            )

    def _parse(self, line: bytes) -> SymbolEntry | None:
        fields = line.split()
        if len(fields) != 3:
            return None
        try:
            address = int(fields[0], 16) & MASK_64
        except ValueError:
            return None
        return SymbolEntry(
            fields[2].decode(errors="backslashreplace"),
            address,
            fields[1][:1].decode(errors="replace"),
        )

    def __iter__(self) -> Iterator[SymbolEntry]:
        """Yield all symbols, in the order of the text."""
        return (entry for line in self._text.splitlines() if (entry := self._parse(line)))

    def named(self, name: str) -> list[SymbolEntry]:
        """Return all symbols with a name; if there is none, those that clang renamed."""
        return self._lines(name, "\n") or self._lines(name, PROMOTED)

    def _lines(self, name: str, after: str) -> list[SymbolEntry]:
        # Symbols that start with a name, before some text.
        result = []
        pattern = b" " + name.encode(errors="surrogateescape") + after.encode()
        found = self._text.find(pattern)
        while found >= 0:
            start = self._text.rfind(b"\n", 0, found) + 1
            end = self._text.find(b"\n", found)
            entry = self._parse(self._text[start : end if end >= 0 else len(self._text)])
            if entry is not None and f"{entry.name}\n".startswith(name + after):
                result.append(entry)
            found = self._text.find(pattern, found + 1)
        return result

    def containing(self, address: int) -> list[tuple[SymbolEntry, int]]:
        """Return the symbols at the closest address not above *address*, with sizes."""
        if self._listed is None:
            self._listed = ListedSymbols(self)
        return self._listed.containing(address)


class SystemMap(KallsymsText):
    """
    The text of a ``System.map``, or of a saved ``/proc/kallsyms``.

    KASLR moves the whole kernel, by the distance between ``_stext`` in the text and in
    VMCOREINFO. Per-CPU variables and absolute symbols, which have addresses below the
    image, do not move.

    :param text: the file
    :param vmcoreinfo: VMCOREINFO of the kernel, from
        :func:`vmemscope.vmcoreinfo.parse`
    :param path: what errors call the file
    :raises TypesError: if it has no symbols, or belongs to another kernel
    """

    def __init__(self, text: bytes, vmcoreinfo: Mapping[str, str], path: str) -> None:
        self._vmcoreinfo: Final = vmcoreinfo
        self._path: Final = path
        self._start = MASK_64
        self._offset = 0
        super().__init__(text)

    def _check(self) -> None:
        stext = self.named("_stext")
        if not stext or not stext[0].address:
            raise TypesError(
                f"{self._path} has no address of _stext: it is no complete System.map",
                "distributions have the real one beside the debug symbols (Debian: package"
                " linux-image-RELEASE-dbg)",
            )
        release = self._vmcoreinfo.get("OSRELEASE", "of unknown release")
        try:
            here = symbol(self._vmcoreinfo, "_stext")
        except TargetError as e:
            raise TypesError(f"kernel {release} does not say where it is: {e.message}") from None
        self._start = min(entry.address for entry in (*stext, *self.named("_text")))
        self._offset = here - stext[0].address
        # VMCOREINFO has these addresses in all versions.
        for name in ("init_uts_ns", "swapper_pg_dir"):
            addresses = {entry.address for entry in self.named(name)}
            known = f"SYMBOL({name})" in self._vmcoreinfo
            if known and addresses and symbol(self._vmcoreinfo, name) not in addresses:
                raise TypesError(
                    f"{self._path} does not belong to kernel {release}: it has {name} elsewhere",
                    GIVE_SYMBOLS,
                )

    def _parse(self, line: bytes) -> SymbolEntry | None:
        entry = super()._parse(line)
        if entry is None or entry.address < self._start:
            return entry
        return entry._replace(address=entry.address + self._offset & MASK_64)
