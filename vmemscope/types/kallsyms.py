# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Kallsyms
--------

Symbols of a kernel without its ``vmlinux``. The kernel has its symbol table
(``CONFIG_KALLSYMS``, with data symbols if ``CONFIG_KALLSYMS_ALL``) in its read-only
data, as ``scripts/kallsyms.c`` wrote it. Since Linux 6.0, VMCOREINFO has the addresses
of the tables. :class:`KallsymsImage` reads each table whole, and finds a symbol by
name without decoding the others.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Final

import drgn
import numpy as np
from numpy.typing import NDArray

from ..errors import TypesError
from ..target.reads import READ_ERRORS
from ._hints import GIVE_SYMBOLS, GIVE_VMLINUX
from .symbols import MASK_64, PROMOTED, ByAddress, SymbolEntry

if TYPE_CHECKING:
    from drgn import Program

__all__ = ("KallsymsImage",)

# Bounds for damaged images: 7.2 has 200,000 symbols in 3 MB of names.
_MAX_SYMBOLS: Final = 1 << 22
_MAX_NAMES_LEN: Final = 1 << 26
# KSYM_NAME_LEN is 512 since Linux 6.1; kallsyms.c has a buffer of four times that.
_MAX_NAME_LEN: Final = 2048

# Symbols between two entries of kallsyms_markers.
_MARKER_STRIDE: Final = 256
# Entries by which kallsyms_markers is recognized.
_MARKERS_KNOWN: Final = 4

# Symbols whose names are processed at a time.
_PIECE: Final = 1 << 13

# The start of linux_banner, which names the compiler.
_BANNER_SIZE: Final = 512

# Weight of each character in the checksum of a name. The checksum is the sum of the
# weights, so the checksum of a token is that of its characters. An anagram has the same
# checksum, and costs one more comparison.
_WEIGHTS: Final = tuple(pow(0x9E3779B1, character, 1 << 32) for character in range(256))


def _weight(name: bytes) -> int:
    return sum(_WEIGHTS[character] for character in name) & 0xFFFFFFFF


class KallsymsImage:
    """
    The kallsyms tables in the memory of a kernel.

    The constructor reads them, a few megabytes in five reads.

    :param prog: program whose virtual memory can be read, of a known platform
    :param vmcoreinfo: its VMCOREINFO, from :func:`vmemscope.vmcoreinfo.parse`
    :raises TypesError: if VMCOREINFO does not have the addresses of the tables (before
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
        self._weights: Final = self._name_sums(_weight)
        #: Kernel virtual address of each symbol.
        self._addresses: Final = self._read_addresses()
        self._by_address: ByAddress | None = None

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
                    keys[key[len("SYMBOL(") : -1]] = int(value, 16) & MASK_64
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
        except READ_ERRORS as e:
            raise TypesError(
                f"cannot read the kernel's symbol table: {size} bytes of {table} at "
                f"0x{self._keys[table]:x}: {e}",
                # Without the page tables that lead there, a vmlinux is no help.
                f"{GIVE_VMLINUX}, or a dump that leaves less out",
            ) from e
        return data

    def _room(self, table: str, most: int) -> int:
        # Bytes from one table to the next that VMCOREINFO has.
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
        # Its length is unknown. In all kernels, other tables follow it.
        size = self._room("kallsyms_names", min(count * (_MAX_NAME_LEN + 2), _MAX_NAMES_LEN))
        return self._read("kallsyms_names", size)

    def _name_starts(self, count: int) -> NDArray[np.intp]:
        # An entry of kallsyms_names is the number of its codes, as ULEB128, and the
        # codes. The number has one byte, or two since Linux 6.1 (73bbb94466fd
        # "kallsyms: support "big" kernel symbols").
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
        # kallsyms_markers, the offset in kallsyms_names of every 256th symbol, follows
        # kallsyms_names. With it, numpy walks all stretches of 256 symbols side by side,
        # ten times faster than one after the other. Its address is unknown, but its
        # first entries are known.
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
            # The last stretch is shorter: any length will do outside. The checks
            # below find all other stretches that leave the table.
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
        # Whether a whole entry of kallsyms_names is inside.
        try:
            return self._codes_at(position)[1] <= len(self._names)
        except IndexError:
            return False

    def _codes_at(self, position: int) -> tuple[bytes, int]:
        # Codes of an entry of kallsyms_names, and where the next entry starts.
        names = self._names
        length = names[position]
        position += 1
        if length & 0x80:
            length = length & 0x7F | names[position] << 7
            position += 1
        return names[position : position + length], position + length

    def _name_sums(self, weight: Callable[[bytes], int]) -> NDArray[np.uint32]:
        # Sum of the weights of each name's characters: the sum of those of its codes, for
        # all names at once, in pieces that stay in the cache.
        names = np.frombuffer(self._names, np.uint8)
        table = np.array([weight(token) for token in self._tokens], np.uint32)
        letters = np.array([weight(token[:1]) for token in self._tokens], np.uint32)
        sums = np.empty(len(self._starts), np.uint32)
        for piece in range(0, len(self._starts), _PIECE):
            starts = self._starts[piece : piece + _PIECE]
            origin = int(starts[0])
            _, end = self._codes_at(int(starts[-1]))
            codes = names[origin:end]
            first = starts - origin
            weights = table.take(codes)
            # The length is no code.
            weights[first] = 0
            long = codes.take(first) >= 0x80
            after = first + 1
            weights[after[long]] = 0
            after += long
            into = sums[piece : piece + _PIECE]
            np.add.reduceat(weights, first, out=into)
            # The first character is the type letter, not part of the name.
            into -= letters.take(codes.take(after, mode="clip"))
        return sums

    def _read_addresses(self) -> NDArray[np.uint64]:
        # There are four encodings of addresses (kernel/kallsyms.c:
        # kallsyms_sym_address()). The right one gives the address of _stext that
        # VMCOREINFO has.
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
            # x86 until 6.14, CONFIG_KALLSYMS_ABSOLUTE_PERCPU: an offset that is not
            # negative is the address itself.
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
        """Return the number of symbols."""
        return len(self._starts)

    def __iter__(self) -> Iterator[SymbolEntry]:
        """Yield all symbols, in the kernel's order."""
        return (self._entry(index) for index in range(len(self)))

    def named(self, name: str) -> list[SymbolEntry]:
        """Return all symbols with a name; if there is none, those that clang renamed."""
        return [self._entry(at) for at in self._indices(name) or self._promoted.get(name, [])]

    @cached_property
    def _promoted(self) -> dict[str, list[int]]:
        # Indices by the name in the source. Kernels by other compilers have none, so their
        # names are not searched: each has a few that audits ask for in vain.
        for banner in self._indices("linux_banner"):
            try:
                text = self._prog.read(int(self._addresses[banner]), _BANNER_SIZE)
            except READ_ERRORS:
                continue
            if b"clang" not in text.partition(b"\0")[0]:
                return {}
        found: dict[str, list[int]] = {}
        dots = self._name_sums(lambda token: token.count(b"."))
        for index in np.flatnonzero(dots >= PROMOTED.count(".")).tolist():
            name, promoted, _ = self._entry(index).name.partition(PROMOTED)
            if promoted:
                found.setdefault(name, []).append(index)
        return found

    def containing(self, address: int) -> list[tuple[SymbolEntry, int]]:
        """Return the symbols at the closest address not above *address*, with sizes."""
        if self._by_address is None:
            self._by_address = ByAddress(self._addresses)
        indices, size = self._by_address.containing(address)
        return [(self._entry(index), size) for index in indices]
