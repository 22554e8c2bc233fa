# SPDX-License-Identifier: LGPL-2.1-or-later
"""BTF and kallsyms with anything anywhere: read, or refused in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_memory import ENCODINGS, KernelMemory
from test_types_btf import every_kind
from test_types_kallsyms import some_symbols

from vmemscope.errors import TypesError
from vmemscope.types.btf import Btf
from vmemscope.types.btf_records import BtfKind
from vmemscope.types.kallsyms import KallsymsImage

#: the same examples in every run
SAME = settings(max_examples=1000, deadline=None, derandomize=True, database=None)

BTF = every_kind()[0].build()

#: pieces of data that replace what was there: where, as a part of the whole, and what
DAMAGE = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.one_of(
            st.binary(min_size=1, max_size=8),
            st.sampled_from([bytes(4), b"\xff" * 4, b"\xff\xff\xff\x7f", b"\x01\0\0\0"]),
        ),
    ),
    max_size=4,
)


def damaged(data: bytes, damage: list[tuple[float, bytes]]) -> bytes:
    raw = bytearray(data)
    for where, new in damage:
        at = int(where * len(raw))
        raw[at : at + len(new)] = new[: len(raw) - at]
    return bytes(raw)


@contextmanager
def refused() -> Iterator[None]:
    """Whatever is wrong, it is a TypesError that says what."""
    try:
        yield
    except TypesError as e:
        if not str(e):
            raise AssertionError("an error without a word") from e


def read_all(btf: Btf) -> None:
    """Read whatever there is to be read."""
    for type_id in range(btf.end_id):
        try:
            record = btf.record(type_id)
            if record.kind in (BtfKind.STRUCT, BtfKind.UNION):
                btf.members(record)
            elif record.kind == BtfKind.FUNC_PROTO:
                btf.parameters(record)
            elif record.kind in (BtfKind.ENUM, BtfKind.ENUM64):
                btf.enumerators(record)
            elif record.kind == BtfKind.ARRAY:
                btf.array(record)
        except TypesError:
            continue
    assert isinstance(btf.partial_ints, dict)
    for name in ("page", "PG_head", "NO", "", "nothing"):
        btf.find(name, BtfKind.STRUCT)
        btf.find_enumerator(name)


@SAME
@given(DAMAGE, st.floats(0, 1))
def test_btf(damage, left):
    data = damaged(BTF, damage)
    with refused():
        read_all(Btf(data[: int(left * len(data))] if left < 0.3 else data))


@SAME
@given(st.binary(max_size=200))
def test_btf_of_anything(data):
    header = BTF[:24]
    for text in (data, header + data, header[:8] + data):
        with refused():
            read_all(Btf(text))


@settings(SAME, max_examples=150)
@given(DAMAGE, st.sampled_from(ENCODINGS), st.data())
def test_kallsyms(damage, encoding, data):
    memory = KernelMemory()
    memory.add_kallsyms(some_symbols(64), encoding)
    table = data.draw(st.sampled_from(sorted(one for one in memory.keys if "kallsyms" in one)))
    start = int(memory.keys[table], 16)
    for where, new in damage:
        memory.patch(start + int(where * 256) // 4 * 4, new)
    with refused():
        symbols = KallsymsImage(memory.program(), memory.keys)
        assert len(list(symbols)) == len(symbols)
        symbols.named("init_mm")
        symbols.containing(0xFFFFFFFF81000044)
