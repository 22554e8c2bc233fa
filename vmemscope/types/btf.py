# SPDX-License-Identifier: LGPL-2.1-or-later
"""
BTF
---

A reader of BTF, the type information that a kernel carries in its own memory
(``CONFIG_DEBUG_INFO_BTF``), as ``Documentation/bpf/btf.rst`` and
``include/uapi/linux/btf.h`` define it. It returns the records of one BTF blob, by id
or by name. :mod:`vmemscope.types.finders` makes drgn types of them.

A blob is a header, a section of types and a section of strings. The types are
records of varying length without an index: the id of a type is its place in the
sequence, so a reader must step through the whole section before it can resolve an id.
:class:`Btf` does that once, with numpy (10 ms for the 125,000 types of a 7.2 kernel),
and decodes a record only when it is asked for.

The BTF of a module is *split*: its ids and string offsets continue those of the base,
which is vmlinux. A :class:`Btf` with a *base* resolves both.

The blob comes from the target's memory, so it may be damaged: damage raises
:class:`BtfError`, and no loop is longer than the blob.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .btf_records import TAIL_WORDS, BtfKind, Enumerator, Member, Parameter, Record
from .btf_sections import BtfError, BtfHeader, Strings

__all__ = ("Btf",)

Buffer: TypeAlias = bytes | bytearray | memoryview


# Bits 16-23 and 29-30 of info are unused and zero up to Linux 7.1; since then they
# belong to vlen and kind.
_VLEN_MASK: Final = 0xFFFFFF
_KIND_SHIFT: Final = 24
_KIND_MASK: Final = 0x7F

# Records between two steps of the loop in _record_offsets(), and words that it
# processes at a time.
_STRIDE_LOG2: Final = 3
_CHUNK_WORDS: Final = 1 << 15


class Btf:
    """
    One BTF blob, indexed by id and by name.

    :param data: the blob, header first; bytes after its last section are ignored
    :param base: the BTF whose ids and strings this BTF continues
    :param name: the kernel's name of the blob, for errors: ``vmlinux``, ``nd_pmem``
    :raises BtfError: if the blob is damaged, or has an unknown kind of record that its
        header does not describe
    """

    def __init__(self, data: Buffer, base: Btf | None = None, name: str = "vmlinux") -> None:
        self.name: Final = name
        self.base: Final = base
        #: Id of the first type of this blob (id 0 is void, and the base's).
        self.start_id: Final[int] = 1 if base is None else base.end_id

        self._data: Final = data if isinstance(data, bytes) else bytes(data)
        header = BtfHeader.parse(self._data, name)
        #: "little" or "big", as the magic says; that of the target.
        self.byteorder: Final = header.byteorder
        if base is not None and base.byteorder != self.byteorder:
            raise self._error("its byte order is not that of its base")
        strings = self._data[header.strings.start : header.strings.stop]
        self._check_strings(strings)
        self._strings: Final[Strings] = Strings(strings, 0 if base is None else base._strings.end)

        dtype = np.dtype("<u4" if self.byteorder == "little" else ">u4")
        words = np.frombuffer(self._data, dtype, len(header.types) // 4, header.types.start)
        self._words: Final[NDArray[np.uint32]] = words.astype(np.uint32, copy=False)
        layout = self._data[header.layout.start : header.layout.stop]
        self._at: Final = self._record_offsets(*self._record_sizes(layout))
        #: One more than the id of the last type.
        self.end_id: Final[int] = self.start_id + len(self._at)
        info = self._words.take(self._at + 1)
        self._kinds: Final = (info >> _KIND_SHIFT).astype(np.uint8) & _KIND_MASK

        names = self._words.take(self._at)
        if len(names) and int(names.max()) >= self._strings.end:
            bad = int(np.argmax(names >= self._strings.end))
            raise self._error(f"name of type {self.start_id + bad} is outside the string section")
        # Ids in the order of their names' offsets; stable, so that the ids of
        # one name ascend.
        self._by_name: Final = np.argsort(names, kind="stable")
        self._sorted_names: Final = names.take(self._by_name)
        self._partial_ints: dict[int, tuple[int, int]] | None = None
        self._enumerator_index: tuple[NDArray[np.uint32], NDArray[np.intp]] | None = None

        # Before Linux 6.0, pahole did not set kind_flag on a signed enum: all values
        # were signed. A BTF in which no enum has the flag is of that kind.
        enums = self._kinds == BtfKind.ENUM
        self._enum_flags: Final = bool(((info >> 31) & enums).any())

    def _error(self, what: str) -> BtfError:
        return BtfError(f"BTF of {self.name} is damaged: {what}")

    def _unknown(self, type_id: int, kind: int) -> BtfError:
        return BtfError(
            f"BTF of {self.name} is newer than this version of vmemscope, or damaged: "
            f"type {type_id} is of unknown kind {kind}"
        )

    def _check_strings(self, section: bytes) -> None:
        # The same rules as the kernel's btf_parse_str_sec().
        if not section:
            if self.base is None:
                raise self._error("string section is empty")
            return
        if section[-1]:
            raise self._error("last string doesn't end")
        if self.base is None and section[0]:
            raise self._error("first string is not empty")

    def _record_sizes(self, layout: bytes) -> tuple[bytes, bytes]:
        # By the kind_flag and kind byte of info: words of a record without vlen (0 if
        # the kind is unknown), and words for each of vlen. They are tables for
        # bytes.translate(), the fastest way to translate all records.
        fixed = bytearray(1 << 8)
        each = bytearray(1 << 8)
        # struct btf_layout: u8 info_sz, u8 elem_sz, u16 flags; one a kind.
        for kind in range(1, min(len(layout) // 4, _KIND_MASK + 1)):
            info_size, elem_size = layout[4 * kind], layout[4 * kind + 1]
            if info_size % 4 or elem_size % 4:
                raise self._error(f"layout of kind {kind} is not in 32-bit words")
            fixed[kind] = 3 + info_size // 4
            each[kind] = elem_size // 4
        for known, (info_words, elem_words) in TAIL_WORDS.items():
            fixed[known] = 3 + info_words
            each[known] = elem_words
        # The same with kind_flag set.
        fixed[128:] = fixed[:128]
        each[128:] = each[:128]
        return bytes(fixed), bytes(each)

    def _record_offsets(self, fixed: bytes, each: bytes) -> NDArray[np.intp]:
        # Where each record starts, in words. Each record has its length, so this is a
        # walk, and in plain Python it takes most of the time of an attach. Instead,
        # assume that a record starts at every word, compute where the next record
        # would start, and compose that map with itself, so that the loop takes only
        # every 8th step. numpy then fills in the steps between. Pieces stay in the cache.
        words = self._words
        kind_bytes = words.view(np.uint8)[3 if sys.byteorder == "little" else 0 :: 4]
        count = len(words)
        numbers = np.arange(_CHUNK_WORDS + 1)
        result = []
        records = 0
        offset = 0
        while offset < count:
            # Places in this piece at which all of struct btf_type fits.
            places = min(_CHUNK_WORDS, count - 2 - offset)
            if places <= 0:
                raise self._error(f"type section ends inside type {self.start_id + records}")
            info = words[offset + 1 : offset + 1 + places]
            kinds = kind_bytes[offset + 1 : offset + 1 + places].tobytes()
            fixed_words = np.frombuffer(kinds.translate(fixed), np.uint8)
            sizes = (info & _VLEN_MASK).astype(np.intp)
            sizes *= np.frombuffer(kinds.translate(each), np.uint8)
            sizes += fixed_words
            # places stands for "outside this piece". A record of unknown size leads
            # there too, so only the last record can be one.
            following = numbers[: places + 1].copy()
            following[:-1] += sizes
            following[:-1][fixed_words == 0] = places
            np.minimum(following, places, out=following)

            stride = following
            for _ in range(_STRIDE_LOG2):
                stride = stride.take(stride)
            step = memoryview(stride)
            coarse: list[int] = []
            place = 0
            while place < places:
                coarse.append(place)
                place = step[place]
            columns = [np.array(coarse, np.intp)]
            for _ in range((1 << _STRIDE_LOG2) - 1):
                columns.append(following.take(columns[-1]))
            found = np.stack(columns, axis=1).ravel()
            found = found[: int(np.searchsorted(found, places))]
            result.append(found + offset)
            records += len(found)

            last = int(found[-1])
            if not fixed_words[last]:
                raise self._unknown(self.start_id + records - 1, kinds[last] & _KIND_MASK)
            offset += last + int(sizes[last])
        if offset > count:
            raise self._error(f"type section ends inside type {self.start_id + records - 1}")
        return np.concatenate(result) if result else np.empty(0, np.intp)

    def __len__(self) -> int:
        """Return the number of types, without those of the base and without void."""
        return len(self._at)

    def string(self, offset: int) -> str:
        """
        Return a string of the string section, or of the base's.

        :raises BtfError: if *offset* is outside both
        """
        if offset < self._strings.start and self.base is not None:
            return self.base.string(offset)
        if not self._strings.start <= offset < self._strings.end:
            raise self._error(f"string offset 0x{offset:x} is outside the string section")
        return self._strings.get(offset)

    def record(self, type_id: int) -> Record:
        """
        Return the type with an id; the id may be one of the base's.

        :raises BtfError: if no type has the id
        """
        if type_id < self.start_id:
            if self.base is not None:
                return self.base.record(type_id)
            if type_id == 0:
                return Record(0, BtfKind.VOID, False, 0, 0, None, 0)
        if not self.start_id <= type_id < self.end_id:
            raise self._error(f"there is no type {type_id}, the last one is {self.end_id - 1}")
        at = int(self._at[type_id - self.start_id])
        name, info, size_or_type = self._words[at : at + 3].tolist()
        number = (info >> _KIND_SHIFT) & _KIND_MASK
        try:
            kind = BtfKind(number)
        except ValueError:
            raise self._unknown(type_id, number) from None
        return Record(
            type_id,
            kind,
            bool(info >> 31),
            info & _VLEN_MASK,
            size_or_type,
            self.string(name) if name else None,
            at + 3,
        )

    def _layer(self, type_id: int) -> Btf:
        # The blob that has the record, and the words that follow it.
        layer = self
        while type_id < layer.start_id and layer.base is not None:
            layer = layer.base
        return layer

    def _tail(self, record: Record, per_item: int) -> Iterator[tuple[int, ...]]:
        # Items of per_item words that follow a record. The walk of the section has
        # checked that all of them are inside.
        words: list[int] = self._words[record.tail : record.tail + record.vlen * per_item].tolist()
        return zip(*[iter(words)] * per_item, strict=True)

    def word(self, record: Record) -> int:
        """Return the word that follows an INT, a VAR or a DECL_TAG."""
        return int(self._layer(record.id)._words[record.tail])

    @property
    def partial_ints(self) -> dict[int, tuple[int, int]]:
        """
        The INTs that do not fill their bytes, with the base's: id -> offset, size in bits.

        Only old encoders use them, for bit-fields.
        """
        if self._partial_ints is None:
            found = {} if self.base is None else dict(self.base.partial_ints)
            for type_id in self.ids(BtfKind.INT):
                record = self.record(type_id)
                word = self.word(record)
                # BTF_INT_OFFSET(), BTF_INT_BITS()
                offset, bits = word >> 16 & 0xFF, word & 0xFF
                if bits != 8 * record.size_or_type:
                    found[type_id] = offset, bits
            self._partial_ints = found
        return self._partial_ints

    def array(self, record: Record) -> tuple[int, int]:
        """
        Return element type id and number of elements of an ARRAY.

        BTF encodes ``[0]`` and ``[]`` alike, with no elements.
        """
        words = self._layer(record.id)._words
        return int(words[record.tail]), int(words[record.tail + 2])

    def members(self, record: Record) -> list[Member]:
        """
        Return the members of a STRUCT or UNION.

        :raises BtfError: if the name of one is outside the string section
        """
        layer = self._layer(record.id)
        result = []
        for name, type_id, offset in layer._tail(record, 3):
            bits = 0
            if record.kind_flag:
                # BTF_MEMBER_BITFIELD_SIZE(), BTF_MEMBER_BIT_OFFSET()
                bits, offset = offset >> 24, offset & 0xFFFFFF
            result.append(
                Member(layer.string(name) if name else None, type_id, offset, bits or None)
            )
        return result

    def parameters(self, record: Record) -> list[Parameter]:
        """
        Return the parameters of a FUNC_PROTO.

        :raises BtfError: if the name of one is outside the string section
        """
        layer = self._layer(record.id)
        return [
            Parameter(layer.string(name) if name else None, type_id)
            for name, type_id in layer._tail(record, 2)
        ]

    def is_signed(self, record: Record) -> bool:
        """Return whether the values of an ENUM or ENUM64 are signed."""
        if record.kind_flag:
            return True
        layer = self._layer(record.id)
        if layer._enum_flags or record.kind != BtfKind.ENUM:
            return False
        return any(value >> 31 for _, value in layer._tail(record, 2))

    def enumerators(self, record: Record) -> list[Enumerator]:
        """
        Return the enumerators of an ENUM or ENUM64.

        :raises BtfError: if the name of one is outside the string section
        """
        layer = self._layer(record.id)
        signed = self.is_signed(record)
        result = []
        if record.kind == BtfKind.ENUM:
            for name, value in layer._tail(record, 2):
                if signed and value >> 31:
                    value -= 1 << 32
                result.append(Enumerator(layer.string(name), value))
        else:
            for name, low, high in layer._tail(record, 3):
                value = low | high << 32
                if signed and value >> 63:
                    value -= 1 << 64
                result.append(Enumerator(layer.string(name), value))
        return result

    def _string_offsets(self, name: str) -> list[int]:
        if not name:
            # Anonymous.
            return []
        offsets = self._strings.offsets(name)
        return offsets if self.base is None else self.base._string_offsets(name) + offsets

    def find(self, name: str, *kinds: BtfKind) -> int | None:
        """
        Find the first type with a name and of one of some kinds; not in the base.

        The strings of the base are searched: a module's type can share its name with
        something in vmlinux.

        :return: type id, or ``None`` if there is none
        """
        return next(self.find_all(name, *kinds), None)

    def find_all(self, name: str, *kinds: BtfKind) -> Iterator[int]:
        """
        Yield the ids of all types with a name and of one of some kinds.
        """
        for offset in self._string_offsets(name):
            # A plain int would have numpy convert the whole array to int64.
            key = np.uint32(offset)
            first = int(np.searchsorted(self._sorted_names, key, "left"))
            last = int(np.searchsorted(self._sorted_names, key, "right"))
            for index in self._by_name[first:last].tolist():
                if self._kinds[index] in kinds:
                    yield self.start_id + index

    def ids(self, *kinds: BtfKind) -> list[int]:
        """Return the ids of all types of some kinds, ascending."""
        wanted = np.zeros(_KIND_MASK + 1, np.bool_)
        wanted[list(kinds)] = True
        result: list[int] = (np.flatnonzero(wanted[self._kinds]) + self.start_id).tolist()
        return result

    def find_enumerator(self, name: str) -> tuple[int, int] | None:
        """
        Find the first enumerator with a name.

        :return: id of its ENUM or ENUM64, and its value; ``None`` if there is none
        """
        if self._enumerator_index is None:
            self._enumerator_index = self._index_enumerators()
        names, indices = self._enumerator_index
        for offset in self._string_offsets(name):
            found = indices[names == offset]
            if len(found):
                record = self.record(self.start_id + int(found.min()))
                for enumerator in self.enumerators(record):
                    if enumerator.name == name:
                        return record.id, enumerator.value
        return None

    def _index_enumerators(self) -> tuple[NDArray[np.uint32], NDArray[np.intp]]:
        # For every enumerator: the offset of its name, and the index of its enum.
        names = []
        owners = []
        for kind, per_item in ((BtfKind.ENUM, 2), (BtfKind.ENUM64, 3)):
            indices = np.flatnonzero(self._kinds == kind)
            at = self._at.take(indices)
            counts = (self._words.take(at + 1) & _VLEN_MASK).astype(np.intp)
            # 0, 1, ... counts[0] - 1, 0, 1, ... counts[1] - 1, ...
            ends = np.cumsum(counts)
            total = int(ends[-1]) if len(ends) else 0
            place = np.arange(total) - np.repeat(ends - counts, counts)
            names.append(self._words.take(np.repeat(at + 3, counts) + place * per_item))
            owners.append(np.repeat(indices, counts))
        return np.concatenate(names), np.concatenate(owners)
