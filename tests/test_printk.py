# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The kernel's log is read as drgn's helper reads it, and a damaged one ends.

Expected are the scenario's messages, and the records that ``get_printk_records()`` finds.
"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from drgn import Program, offsetof
from drgn.helpers.linux.printk import get_printk_records

from vmemscope.kernel import printk
from vmemscope.kernel.printk import Log, _block, read_log
from vmemscope.machine import Kernel
from vmemscope.text import printable

from .kernels import KERNELS, image, write

#: bytes of text in the simulated ring
RING = 8192


def messages(*texts: str) -> str:
    """Return a scenario whose log has messages, a second apart."""
    return "\n" + "".join(
        f'[[message]]\ntime = {10 + number}\ntext = "{text}"\nlevel = {number % 8}\n'
        f"caller = {number if number % 2 else (1 << 31) + number}\n"
        for number, text in enumerate(texts)
    )


def opened(text: str, kernel: str, directory: Path) -> Program:
    return Kernel.open_core(write(image(text, kernel), directory)).prog


def same_as_drgn(prog: Program, log: Log) -> bool:
    ours = {one.seq: one for one in log.messages if one.text}
    records = {one.seq: one for one in get_printk_records(prog) if one.text}
    assert records.keys() == ours.keys()
    other = [
        seq
        for seq, one in records.items()
        if printable(one.text.expandtabs()) != ours[seq].text.replace("\n", "\\n")
    ]
    # drgn 0.3 takes the id before a text that starts at the beginning of the ring for text.
    assert len(other) <= 1
    for seq in other:
        assert records[seq].text[8:] == ours[seq].text.encode()[: len(records[seq].text) - 8]
    return all(
        (one.timestamp, one.level) == (ours[seq].time, ours[seq].level)
        for seq, one in records.items()
    )


@pytest.mark.parametrize("kernel", [*KERNELS, "7.2@s390x", "7.2@ppc64le-64k", "6.12@arm64"])
def test_the_log_has_all_messages(kernel: str, tmp_path: Path) -> None:
    prog = opened(messages("first", "<b>\\u001b[2J", "", "two\\nlines", "a\\tb"), kernel, tmp_path)
    log = read_log(prog)
    assert log.missed == ()
    first, escaped, empty, lines, tab = log.messages[-5:]
    assert (first.text, first.seconds, first.level, first.caller) == ("first", 10, 0, "C0")
    assert escaped.text == "<b>\\x1b[2J"
    assert (escaped.level, escaped.caller) == (1, "T1")
    assert empty.text == ""
    assert lines.text == "two\nlines"
    assert tab.text == "a       b"
    assert [one.seq for one in log.messages] == list(range(len(log.messages)))
    assert log.overwritten == 0
    assert same_as_drgn(prog, log)


@pytest.mark.parametrize(("count", "size"), [(300, 1), (300, 90), (40, 700), (200, 248)])
def test_old_messages_make_way(count: int, size: int, tmp_path: Path) -> None:
    """The ring's descriptors, or its text, went round."""
    texts = [f"{number} ".ljust(size + number % 7, "x") for number in range(count)]
    prog = opened(messages(*texts), "6.12", tmp_path)
    log = read_log(prog)
    assert log.missed == ()
    assert log.overwritten > 0
    kept = len(log.messages)
    assert [one.text for one in log.messages] == texts[-kept:]
    # As many as fit: each has its id before it, and is padded to words.
    room = sum(-(-(len(text) + 8) // 8) * 8 for text in texts[-kept - 1 :])
    assert kept in (256, 255) or room > RING - size - 16
    assert same_as_drgn(prog, log)


@pytest.mark.parametrize("size", [64, 1 << 13])
def test_text_at_the_end_of_the_ring(size: int) -> None:
    """A block may end where the ring ends (7.x), or start again at the beginning."""
    end = 5 * size
    assert _block(end - 32, end, size) == (size - 24, 24)
    assert _block(end - 32, end + 48, size) == (8, 40)
    assert _block(end - 64, end - 32, size) == ((size - 64) % size + 8, 24)
    # The first wrap counts up to zero.
    top = (1 << 64) - size
    assert _block(top, top + 16, size) == (8, 8)
    assert _block((1 << 64) - 16, 24, size) == (8, 16)
    assert _block(3, 3, size) == (0, 0)
    for begin, following in ((0, 0), (64, 32), (0, 4), (0, 3 * size), (5, 64)):
        assert _block(begin, following, size) is None


def test_newest_records_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prog = opened(messages(*map(str, range(40))), "7.2", tmp_path)
    monkeypatch.setattr(printk, "MAX_RECORDS", 5)
    log = read_log(prog)
    assert [one.text for one in log.messages] == ["35", "36", "37", "38", "39"]
    assert len(log.missed) == 1


def damaged(prog: Program, member: str, value: int, size: int = 8) -> Log:
    """Read the log with a member of the ring changed."""
    ring = prog["prb"]
    address = ring.value_() + offsetof(ring.type_.type, member)
    data = value.to_bytes(size, "little")
    prog.add_memory_segment(address, size, lambda a, n, o, p: data[o : o + n], False)
    return read_log(prog)


@pytest.mark.parametrize(
    ("member", "value", "size"),
    [
        ("desc_ring.count_bits", 0, 4),
        ("desc_ring.count_bits", 0xFFFF_FFFF, 4),
        ("text_data_ring.size_bits", 31, 4),
        ("text_data_ring.size_bits", 2, 4),
        ("desc_ring.tail_id.counter", 5, 8),
        ("desc_ring.head_id.counter", 1 << 61, 8),
        ("desc_ring.descs", 0, 8),
        ("desc_ring.infos", 0xFFFF_FFFF_FFFF_FFF0, 8),
        ("text_data_ring.data", 8, 8),
    ],
)
def test_a_damaged_ring_is_reported(member: str, value: int, size: int, tmp_path: Path) -> None:
    log = damaged(opened(messages("x"), "6.12", tmp_path), member, value, size)
    assert log.missed
    assert all(text.startswith("the log (") for text in log.missed)


def test_a_damaged_record_costs_itself(tmp_path: Path) -> None:
    prog = opened(messages("one", "two", "three"), "6.12", tmp_path)
    ring = prog["prb"]
    last = ring.desc_ring.head_id.counter.value_() & (1 << ring.desc_ring.count_bits) - 1
    lpos = ring.desc_ring.descs[last - 1].text_blk_lpos
    data = struct.pack("<QQ", lpos.begin.value_(), lpos.begin.value_())
    prog.add_memory_segment(lpos.address_, 16, lambda a, n, o, p: data[o : o + n], False)
    log = read_log(prog)
    assert [one.text for one in log.messages[-2:]] == ["one", "three"]
    assert log.missed == ("the log (1 record that can't be followed)",)


def test_a_kernel_without_variables_has_no_log(tmp_path: Path) -> None:
    core = write(image('\noff = ["KALLSYMS_ALL"]\n', "6.12"), tmp_path)
    prog = Program()
    prog.set_core_dump(core)
    assert read_log(prog).missed == ("the log (the kernel's types or symbols do not describe it)",)
