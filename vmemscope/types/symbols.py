# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Symbols
-------

:func:`symbol_finder` makes a drgn symbol finder of any :class:`SymbolTable`. The tables
of a kernel are in :mod:`.kallsyms` and :mod:`.symbol_text`; :class:`ListedSymbols` takes
names and addresses of any other source.

No table has sizes: the size of a symbol is the distance to the next one, a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import drgn
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from drgn import Program, Symbol

__all__ = (
    "MASK_64",
    "PROMOTED",
    "ByAddress",
    "ListedSymbols",
    "SymbolEntry",
    "SymbolTable",
    "symbol_finder",
)

# Gaps between parts of an image (the per-CPU section, modules) would make very large
# symbols. drgn has the same limit.
_MAX_SYMBOL_SIZE: Final = 0x10000

MASK_64: Final = (1 << 64) - 1

#: Between the name and a hash, in the names of static functions and variables that clang
#: made global (ThinLTO; kernel/kallsyms.c: cleanup_symbol_name(), 6.6 to 6.10).
PROMOTED: Final = ".llvm."


class SymbolEntry(NamedTuple):
    """A symbol: its name, kernel virtual address, and ``nm(1)`` type letter."""

    name: str
    address: int
    letter: str


class SymbolTable(Protocol):
    """A table for :func:`symbol_finder`."""

    def named(self, name: str) -> Sequence[SymbolEntry]:
        """Return all symbols with a name; static symbols may share a name."""
        ...

    def containing(self, address: int) -> Sequence[tuple[SymbolEntry, int]]:
        """Return the symbols that an address is in, each with its size in bytes."""
        ...

    def __iter__(self) -> Iterator[SymbolEntry]:
        """Yield all symbols."""
        ...


class ByAddress:
    """
    Symbols sorted by address, for tables that decode a symbol by its index.

    :param addresses: addresses of all symbols (uint64, shape ``(n,)``)
    """

    def __init__(self, addresses: NDArray[np.uint64]) -> None:
        self._order = np.argsort(addresses, kind="stable")
        self._addresses = addresses.take(self._order)

    def containing(self, address: int) -> tuple[list[int], int]:
        """
        Return the symbols with the closest address that is not above *address*.

        :return: their indices, none if they end before *address*; and their size in bytes
        """
        if not 0 <= address <= MASK_64:
            return [], 0
        # A plain int would have numpy convert the whole array to float.
        key = np.uint64(address)
        stop = int(np.searchsorted(self._addresses, key, "right"))
        if not stop:
            return [], 0
        start_address = int(self._addresses[stop - 1])
        start = int(np.searchsorted(self._addresses, np.uint64(start_address), "left"))
        size = 0
        if stop < len(self._addresses):
            size = int(self._addresses[stop]) - start_address
            if size >= _MAX_SYMBOL_SIZE:
                size = 0
        if address != start_address and address - start_address >= size:
            return [], 0
        return self._order[start:stop].tolist(), size


class ListedSymbols:
    """
    A table of symbols from a list.

    Addresses are those of the booted kernel, with the KASLR offset.
    """

    def __init__(self, entries: Iterable[SymbolEntry]) -> None:
        self._entries: Final = list(entries)
        self._by_name: dict[str, list[SymbolEntry]] = {}
        for entry in self._entries:
            self._by_name.setdefault(entry.name, []).append(entry)
        self._by_address: ByAddress | None = None

    @classmethod
    def from_mapping(cls, addresses: Mapping[str, int]) -> ListedSymbols:
        """Make a table from names and kernel virtual addresses."""
        return cls(SymbolEntry(name, address, "?") for name, address in addresses.items())

    def __iter__(self) -> Iterator[SymbolEntry]:
        """Yield all symbols, in the order of the list."""
        return iter(self._entries)

    def named(self, name: str) -> list[SymbolEntry]:
        """Return all symbols with a name."""
        return self._by_name.get(name, [])

    def containing(self, address: int) -> list[tuple[SymbolEntry, int]]:
        """Return the symbols at the closest address not above *address*, with sizes."""
        if self._by_address is None:
            addresses = [entry.address & MASK_64 for entry in self._entries]
            self._by_address = ByAddress(np.array(addresses, np.uint64))
        indices, size = self._by_address.containing(address)
        return [(self._entries[index], size) for index in indices]


def _binding_and_kind(letter: str) -> tuple[drgn.SymbolBinding, drgn.SymbolKind]:
    # nm(1). A lower-case letter means a local symbol, but kallsyms has some global
    # symbols in lower case, too, so it does not prove that.
    lower = letter.lower()
    if letter == "u":
        binding = drgn.SymbolBinding.UNIQUE
    elif lower in ("v", "w"):
        binding = drgn.SymbolBinding.WEAK
    elif letter.isupper():
        binding = drgn.SymbolBinding.GLOBAL
    else:
        binding = drgn.SymbolBinding.UNKNOWN
    if lower == "t":
        return binding, drgn.SymbolKind.FUNC
    if lower in ("b", "c", "d", "g", "r", "s", "v"):
        return binding, drgn.SymbolKind.OBJECT
    return binding, drgn.SymbolKind.UNKNOWN


def _to_drgn(entry: SymbolEntry, size: int) -> Symbol:
    return drgn.Symbol(entry.name, entry.address, size, *_binding_and_kind(entry.letter))


def symbol_finder(
    table: SymbolTable,
) -> Callable[[Program, str | None, int | None, bool], Sequence[Symbol]]:
    """
    Make a drgn symbol finder from a table of symbols.

    :return: callable for :meth:`drgn.Program.register_symbol_finder()`
    """

    def size_of(entry: SymbolEntry) -> int:
        return next((size for found, size in table.containing(entry.address) if found == entry), 0)

    def find(prog: Program, name: str | None, address: int | None, one: bool) -> Sequence[Symbol]:
        if address is not None:
            matches = [
                (entry, size)
                for entry, size in table.containing(address)
                if name is None or entry.name == name
            ]
        elif name is not None:
            matches = [(entry, size_of(entry)) for entry in table.named(name)]
        else:
            matches = [(entry, size_of(entry)) for entry in table]
        if one:
            # Of aliases, take a global one; sorting is stable.
            matches = sorted(matches, key=lambda match: not match[0].letter.isupper())[:1]
        return [_to_drgn(entry, size) for entry, size in matches]

    return find
