# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Kallsyms
--------

Symbols of a kernel without its ``vmlinux``. The kernel keeps its symbol table
(``CONFIG_KALLSYMS``, with data symbols if ``CONFIG_KALLSYMS_ALL``) in its own
read-only data, as ``scripts/kallsyms.c`` wrote it, and since Linux 6.0
VMCOREINFO tells where the tables are. :class:`KallsymsImage` reads each table
whole and decodes only what is asked for; a symbol is found by name without
decoding any other.

On the running kernel, ``/proc/kallsyms`` says the same in text, also before
6.0: :class:`KallsymsText`. So does the ``System.map`` of a build, except for
where the kernel was put when it was booted: :class:`SystemMap`. Any other source
of names and addresses fits in through :class:`ListedSymbols`.
:func:`symbol_finder` makes a drgn symbol finder
of each of them.

Kallsyms has no sizes: that of a symbol here is the distance to the next one,
and a guess.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import drgn
import numpy as np
from numpy.typing import NDArray

from ..errors import TargetError, TypesError
from ..vmcoreinfo import symbol
from ._hints import GIVE_SYMBOLS, GIVE_VMLINUX

if TYPE_CHECKING:
    from drgn import Program, Symbol

__all__ = (
    "KallsymsImage",
    "KallsymsText",
    "ListedSymbols",
    "SymbolEntry",
    "SymbolTable",
    "SystemMap",
    "symbol_finder",
)


class SymbolEntry(NamedTuple):
    """A symbol: its name, kernel virtual address, and ``nm(1)`` type letter."""

    name: str
    address: int
    letter: str


class SymbolTable(Protocol):
    """What :func:`symbol_finder` makes a drgn symbol finder of."""

    def named(self, name: str) -> Sequence[SymbolEntry]:
        """Get all symbols with a name; static symbols may share theirs."""
        ...

    def containing(self, address: int) -> Sequence[tuple[SymbolEntry, int]]:
        """Get the symbols an address is in, each with its size in bytes."""
        ...

    def __iter__(self) -> Iterator[SymbolEntry]:
        """Iterate over all symbols."""
        ...


# Unlike everything else in an image, gaps between its parts (the per-CPU
# section, modules) would make for very large symbols. drgn has the same limit,
# so that both answer alike.
_MAX_SYMBOL_SIZE: Final = 0x10000

# Bounds for damaged images: 7.2 has 200,000 symbols in 3 MB of names.
_MAX_SYMBOLS: Final = 1 << 22
_MAX_NAMES_LEN: Final = 1 << 26
# KSYM_NAME_LEN is 512 since Linux 6.1; kallsyms.c has a buffer of four times that.
_MAX_NAME_LEN: Final = 2048

_MASK_64: Final = (1 << 64) - 1

# Symbols between two entries of kallsyms_markers.
_MARKER_STRIDE: Final = 256
# Entries of kallsyms_markers by which it is recognized.
_MARKERS_KNOWN: Final = 4

# Symbols whose names are looked at at a time.
_PIECE: Final = 1 << 13

# Weight of each character in the checksum of a name, by which it is looked for.
# The checksum is their sum, so that of a token is the sum for its characters.
# That of an anagram is the same, which costs one more comparison.
_WEIGHTS: Final = tuple(pow(0x9E3779B1, character, 1 << 32) for character in range(256))


def _weight(name: bytes) -> int:
    return sum(_WEIGHTS[character] for character in name) & 0xFFFFFFFF


class _ByAddress:
    # Symbols sorted by address, for any table that can decode one by its index.

    def __init__(self, addresses: NDArray[np.uint64]) -> None:
        self._order = np.argsort(addresses, kind="stable")
        self._addresses = addresses.take(self._order)

    def containing(self, address: int) -> tuple[list[int], int]:
        # Indices of the symbols with the closest address that is not above
        # the wanted one, and their size; no indices if it ends before.
        if not 0 <= address <= _MASK_64:
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


class KallsymsImage:
    """
    The kallsyms tables in the memory of a kernel.

    The tables are read on construction, a few megabytes in five reads.

    :param prog: program whose virtual memory can be read, of a known platform
    :param vmcoreinfo: its VMCOREINFO, as :func:`vmemscope.vmcoreinfo.parse`
        gives it
    :raises TypesError: if VMCOREINFO doesn't tell where the tables are (before
        Linux 6.0), if they can't be read, or if they are damaged
    """

    def __init__(self, prog: Program, vmcoreinfo: Mapping[str, str]) -> None:
        platform = prog.platform
        if platform is None:
            raise TypesError("the architecture of the target is not known")
        self._prog: Final = prog
        self._order: Final = "<" if platform.flags & drgn.PlatformFlags.IS_LITTLE_ENDIAN else ">"
        self._word_size: Final = 8 if platform.flags & drgn.PlatformFlags.IS_64_BIT else 4
        self._keys: Final = self._locate(vmcoreinfo)

        (count,) = struct.unpack(self._order + "I", self._read("kallsyms_num_syms", 4))
        if not 0 < count <= _MAX_SYMBOLS:
            raise self._error(f"there are {count} symbols")
        self._tokens: Final = self._read_tokens()
        self._names: Final = self._read_names(count)
        self._starts: Final = self._name_starts(count)
        self._weights: Final = self._name_weights()
        #: Kernel virtual address of each symbol.
        self._addresses: Final = self._read_addresses()
        self._by_address: _ByAddress | None = None

    @staticmethod
    def _error(what: str) -> TypesError:
        return TypesError(
            f"the kernel's symbol table (kallsyms) is damaged: {what}",
            GIVE_VMLINUX,
        )

    @staticmethod
    def _locate(vmcoreinfo: Mapping[str, str]) -> dict[str, int]:
        keys = {}
        for key, value in vmcoreinfo.items():
            if key.startswith(("SYMBOL(kallsyms_", "SYMBOL(_stext)")):
                try:
                    keys[key[len("SYMBOL(") : -1]] = int(value, 16) & _MASK_64
                except ValueError:
                    raise TypesError(f"VMCOREINFO has a {key} that is not an address") from None
        wanted = [
            "kallsyms_names",
            "kallsyms_num_syms",
            "kallsyms_token_index",
            "kallsyms_token_table",
            "_stext",
        ]
        if "kallsyms_addresses" not in keys:
            wanted.append("kallsyms_offsets")
        missing = [name for name in wanted if name not in keys]
        if missing:
            raise TypesError(
                f"kernel {vmcoreinfo.get('OSRELEASE', 'of unknown release')} does not say where "
                f"its symbol table is: VMCOREINFO has no SYMBOL({missing[0]}) "
                "(Linux 6.0 is the first that has)",
                GIVE_SYMBOLS,
            )
        return keys

    def _read(self, table: str, size: int) -> bytes:
        try:
            data: bytes = self._prog.read(self._keys[table], size)
        except (drgn.FaultError, OSError, OverflowError) as e:
            raise TypesError(
                f"cannot read the kernel's symbol table: {size} bytes of {table} at "
                f"0x{self._keys[table]:x}: {e}",
                GIVE_VMLINUX,
            ) from e
        return data

    def _room(self, table: str, most: int) -> int:
        # Bytes from one table to the next that VMCOREINFO knows.
        start = self._keys[table]
        return min([most, *(key - start for key in self._keys.values() if key > start)])

    def _read_tokens(self) -> list[bytes]:
        # kallsyms_token_index: where the expansion of each of the 256 codes
        # starts in kallsyms_token_table.
        index = struct.unpack(self._order + "256H", self._read("kallsyms_token_index", 512))
        size = self._room("kallsyms_token_table", max(index) + _MAX_NAME_LEN)
        table = self._read("kallsyms_token_table", size)
        tokens = []
        for code, start in enumerate(index):
            end = table.find(b"\0", start)
            if end < 0:
                raise self._error(f"token {code} does not end")
            tokens.append(table[start:end])
        return tokens

    def _read_names(self, count: int) -> bytes:
        # Its length is not known. In all kernels, other tables follow it.
        size = self._room("kallsyms_names", min(count * (_MAX_NAME_LEN + 2), _MAX_NAMES_LEN))
        return self._read("kallsyms_names", size)

    def _name_starts(self, count: int) -> NDArray[np.intp]:
        # An entry of kallsyms_names is the number of its codes, as ULEB128 of
        # one or two bytes, and the codes. Two bytes came with Linux 6.1
        # (73bbb94466fd "kallsyms: support "big" kernel symbols"); before, a
        # name was too short to have more than 127 codes.
        starts = self._starts_by_markers(count)
        if starts is None:
            starts = np.array(list(self._walk_names(count)), np.intp)
        return starts

    def _walk_names(self, count: int) -> Iterator[int]:
        names = self._names
        position = start = 0
        try:
            for _ in range(count):
                start = position
                yield start
                length = names[position]
                if length & 0x80:
                    position += 1
                    length = length & 0x7F | names[position] << 7
                position += 1 + length
        except IndexError:
            position = len(names) + 1
        if position > len(names):
            raise self._error(f"kallsyms_names ends inside the entry at byte {start}")

    def _starts_by_markers(self, count: int) -> NDArray[np.intp] | None:
        # kallsyms_markers, the offset in kallsyms_names of every 256th symbol,
        # follows kallsyms_names. With it, all stretches of 256 symbols can be
        # walked side by side, ten times faster than one after the other. Where
        # it is, is not known, but its first entries are.
        stretches = -(-count // _MARKER_STRIDE)
        if stretches < _MARKERS_KNOWN:
            return None
        first = list(self._walk_names((_MARKERS_KNOWN - 1) * _MARKER_STRIDE + 1))
        known = struct.pack(f"{self._order}{_MARKERS_KNOWN}I", *first[::_MARKER_STRIDE])
        at = self._names.find(known)
        if at < 0 or at + 4 * stretches > len(self._names):
            return None
        markers = np.frombuffer(self._names, self._order + "u4", stretches, at).astype(np.intp)

        names = np.frombuffer(self._names, np.uint8)
        starts = np.empty((_MARKER_STRIDE, stretches), np.intp)
        position = markers
        for step in range(_MARKER_STRIDE):
            starts[step] = position
            # Of what lies outside, any length will do: the last stretch is
            # shorter than the others, and the rest is checked below.
            length = names.take(position, mode="clip").astype(np.intp)
            long = length & 0x80
            if long.any():
                second = names.take(position + 1, mode="clip").astype(np.intp)
                length = np.where(long, (length & 0x7F | second << 7) + 1, length)
            position = position + 1 + length
        # The walk proves the markers: each stretch must end where the next starts.
        if (position[:-1] != markers[1:]).any():
            return None
        result = starts.T.ravel()[:count]
        return result if self._fits(int(result[-1])) else None

    def _fits(self, position: int) -> bool:
        # Whether all of an entry of kallsyms_names is inside.
        try:
            return self._codes_at(position)[1] <= len(self._names)
        except IndexError:
            return False

    def _codes_at(self, position: int) -> tuple[bytes, int]:
        # Codes of an entry of kallsyms_names, and where the next one starts.
        names = self._names
        length = names[position]
        position += 1
        if length & 0x80:
            length = length & 0x7F | names[position] << 7
            position += 1
        return names[position : position + length], position + length

    def _name_weights(self) -> NDArray[np.uint32]:
        # Checksum of each name, see _WEIGHTS: add up those of the codes of all
        # names at once, in pieces that stay in the cache.
        names = np.frombuffer(self._names, np.uint8)
        table = np.array([_weight(token) for token in self._tokens], np.uint32)
        letters = np.array([_weight(token[:1]) for token in self._tokens], np.uint32)
        sums = np.empty(len(self._starts), np.uint32)
        for piece in range(0, len(self._starts), _PIECE):
            starts = self._starts[piece : piece + _PIECE]
            origin = int(starts[0])
            _, end = self._codes_at(int(starts[-1]))
            codes = names[origin:end]
            first = starts - origin
            weights = table.take(codes)
            # The length is not a code.
            weights[first] = 0
            long = codes.take(first) >= 0x80
            after = first + 1
            weights[after[long]] = 0
            after += long
            into = sums[piece : piece + _PIECE]
            np.add.reduceat(weights, first, out=into)
            # The first character is the type letter, and no part of the name.
            into -= letters.take(codes.take(after, mode="clip"))
        return sums

    def _read_addresses(self) -> NDArray[np.uint64]:
        # There have been four encodings of addresses; VMCOREINFO tells them
        # apart in part only. It gives the address of _stext, by which it shows
        # (kernel/kallsyms.c, kallsyms_sym_address()).
        count = len(self._starts)
        if "kallsyms_addresses" in self._keys:
            # Until 6.10, without CONFIG_KALLSYMS_BASE_RELATIVE.
            data = self._read("kallsyms_addresses", count * self._word_size)
            return np.frombuffer(data, f"{self._order}u{self._word_size}").astype(np.uint64)

        data = self._read("kallsyms_offsets", 4 * count)
        offsets = np.frombuffer(data, self._order + "i4").astype(np.int64)
        relative_base = 0
        if "kallsyms_relative_base" in self._keys:
            data = self._read("kallsyms_relative_base", self._word_size)
            relative_base = int.from_bytes(data, "little" if self._order == "<" else "big")
        stext = self._keys["_stext"]
        indices = self._indices("_stext")
        for addresses in self._decodings(offsets, relative_base):
            addresses &= np.uint64((1 << 8 * self._word_size) - 1)
            if any(int(addresses[index]) == stext for index in indices):
                return addresses
        raise self._error(
            f"no known encoding of addresses gives 0x{stext:x} for _stext"
            if indices
            else "it has no _stext"
        )

    def _decodings(
        self, offsets: NDArray[np.int64], relative_base: int
    ) -> Iterator[NDArray[np.uint64]]:
        wrapped = offsets.astype(np.uint64)
        base = np.full(1, relative_base, np.uint64)
        if relative_base:
            # Until 6.19, an offset is unsigned.
            yield base + (wrapped & np.uint64(0xFFFFFFFF))
            # x86 until 6.14, CONFIG_KALLSYMS_ABSOLUTE_PERCPU: one that is not
            # negative is no offset, but the address itself.
            yield np.where(offsets >= 0, wrapped, base - np.uint64(1) - wrapped)
        else:
            # Since 7.0 (a081b5789255 "kallsyms: Get rid of kallsyms relative
            # base"), relative to the address of the offset itself.
            places = np.arange(len(offsets), dtype=np.uint64) * np.uint64(4)
            yield places + np.uint64(self._keys["kallsyms_offsets"]) + wrapped

    def _indices(self, name: str) -> list[int]:
        encoded = name.encode(errors="surrogateescape")
        candidates = np.flatnonzero(self._weights == np.uint32(_weight(encoded)))
        return [index for index in candidates.tolist() if self._decode(index)[1:] == encoded]

    def _decode(self, index: int) -> bytes:
        # Type letter and name.
        codes, _ = self._codes_at(int(self._starts[index]))
        tokens = [self._tokens[code] for code in codes]
        if not 1 < sum(map(len, tokens)) <= _MAX_NAME_LEN:
            raise self._error(f"name of symbol {index} is empty or too long")
        return b"".join(tokens)

    def _entry(self, index: int) -> SymbolEntry:
        name = self._decode(index).decode(errors="backslashreplace")
        return SymbolEntry(name[1:], int(self._addresses[index]), name[0])

    def __len__(self) -> int:
        """Number of symbols."""
        return len(self._starts)

    def __iter__(self) -> Iterator[SymbolEntry]:
        """Iterate over all symbols, in the kernel's order."""
        return (self._entry(index) for index in range(len(self)))

    def named(self, name: str) -> list[SymbolEntry]:
        """Get all symbols with a name."""
        return [self._entry(index) for index in self._indices(name)]

    def containing(self, address: int) -> list[tuple[SymbolEntry, int]]:
        """Get the symbols at the closest address that is not above *address*."""
        if self._by_address is None:
            self._by_address = _ByAddress(self._addresses)
        indices, size = self._by_address.containing(address)
        return [(self._entry(index), size) for index in indices]


class ListedSymbols:
    """
    A table of symbols made of a list of them.

    The seam for other sources: addresses are those of the running kernel, with
    any KASLR offset already added.
    """

    def __init__(self, entries: Iterable[SymbolEntry]) -> None:
        self._entries: Final = list(entries)
        self._by_name: dict[str, list[SymbolEntry]] = {}
        for entry in self._entries:
            self._by_name.setdefault(entry.name, []).append(entry)
        self._by_address: _ByAddress | None = None

    @classmethod
    def from_mapping(cls, addresses: Mapping[str, int]) -> ListedSymbols:
        """Make a table of names and kernel virtual addresses."""
        return cls(SymbolEntry(name, address, "?") for name, address in addresses.items())

    def __iter__(self) -> Iterator[SymbolEntry]:
        """Iterate over all symbols, in the order of the list."""
        return iter(self._entries)

    def named(self, name: str) -> list[SymbolEntry]:
        """Get all symbols with a name."""
        return self._by_name.get(name, [])

    def containing(self, address: int) -> list[tuple[SymbolEntry, int]]:
        """Get the symbols at the closest address that is not above *address*."""
        if self._by_address is None:
            addresses = [entry.address & _MASK_64 for entry in self._entries]
            self._by_address = _ByAddress(np.array(addresses, np.uint64))
        indices, size = self._by_address.containing(address)
        return [(self._entries[index], size) for index in indices]


class KallsymsText:
    """
    The text of ``/proc/kallsyms``: ``address letter name``, one a line.

    Of the symbols that are not vmlinux's, which have the name of their module
    in brackets behind them, none are found.

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
            address = int(fields[0], 16) & _MASK_64
        except ValueError:
            return None
        return SymbolEntry(
            fields[2].decode(errors="backslashreplace"),
            address,
            fields[1][:1].decode(errors="replace"),
        )

    def __iter__(self) -> Iterator[SymbolEntry]:
        """Iterate over all symbols, in the order of the text."""
        return (entry for line in self._text.splitlines() if (entry := self._parse(line)))

    def named(self, name: str) -> list[SymbolEntry]:
        """Get all symbols with a name."""
        result = []
        pattern = b" " + name.encode(errors="surrogateescape") + b"\n"
        found = self._text.find(pattern)
        while found >= 0:
            start = self._text.rfind(b"\n", 0, found) + 1
            entry = self._parse(self._text[start : found + len(pattern) - 1])
            if entry is not None and entry.name == name:
                result.append(entry)
            found = self._text.find(pattern, found + 1)
        return result

    def containing(self, address: int) -> list[tuple[SymbolEntry, int]]:
        """Get the symbols at the closest address that is not above *address*."""
        if self._listed is None:
            self._listed = ListedSymbols(self)
        return self._listed.containing(address)


class SystemMap(KallsymsText):
    """
    The text of a ``System.map``, or of a ``/proc/kallsyms`` that was saved.

    KASLR moves the kernel as a whole, by the distance between ``_stext`` in the
    text and in VMCOREINFO. Per-CPU variables and absolute symbols, which come
    before the image, stay where they are.

    :param text: the file
    :param vmcoreinfo: of the kernel that it is for, as
        :func:`vmemscope.vmcoreinfo.parse` gives it
    :param path: what to call it in errors
    :raises TypesError: if it has no symbols, or belongs to another kernel
    """

    def __init__(self, text: bytes, vmcoreinfo: Mapping[str, str], path: str) -> None:
        self._vmcoreinfo: Final = vmcoreinfo
        self._path: Final = path
        self._start = _MASK_64
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
        # Other addresses that VMCOREINFO has had in all versions.
        for name in ("init_uts_ns", "swapper_pg_dir"):
            addresses = {entry.address for entry in self.named(name)}
            told = f"SYMBOL({name})" in self._vmcoreinfo
            if told and addresses and symbol(self._vmcoreinfo, name) not in addresses:
                raise TypesError(
                    f"{self._path} does not belong to kernel {release}: it has {name} elsewhere",
                    GIVE_SYMBOLS,
                )

    def _parse(self, line: bytes) -> SymbolEntry | None:
        entry = super()._parse(line)
        if entry is None or entry.address < self._start:
            return entry
        return entry._replace(address=entry.address + self._offset & _MASK_64)


def _binding_and_kind(letter: str) -> tuple[drgn.SymbolBinding, drgn.SymbolKind]:
    # nm(1). Lower case is a local symbol for most letters, but kallsyms makes
    # some global ones lower case too, so that it says nothing.
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
    Make a drgn symbol finder of a table of symbols.

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
            # Of aliases, the one that other files can see; sorting is stable.
            matches = sorted(matches, key=lambda match: not match[0].letter.isupper())[:1]
        return [_to_drgn(entry, size) for entry, size in matches]

    return find
