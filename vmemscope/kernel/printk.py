# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The kernel's log.

Source: ``kernel/printk/printk_ringbuffer.c`` (since 5.10). A record has a descriptor and an
info, at the same place of two arrays, and a block of text in a ring. A descriptor's state
holds the record's id, so that one that was reused is no record any more. drgn's
``get_printk_records()`` reads the same, but follows a damaged log without end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from drgn import offsetof

from ..target.reads import READ_ERRORS
from ..text import count, printable
from . import word_of

if TYPE_CHECKING:
    from drgn import Program
    from numpy.typing import NDArray

__all__ = ("MAX_RECORDS", "Log", "Message", "read_log")

#: records that are read, the newest; and bytes of text in the ring
MAX_RECORDS = 1 << 17
_MAX_TEXT = 64 << 20
#: bytes of a message that are kept; the kernel's own limit is 2048 (PRINTKRB_RECORD_MAX)
_MAX_MESSAGE = 2048
#: DESC_STATE(): the two highest bits of a descriptor's state
_STATE_SHIFT = 62
_ID_MASK = (1 << _STATE_SHIFT) - 1
#: bytes of a record's id before its text
_ID = 8
#: ``caller_id`` of an interrupt, which has the number of a CPU
_CPU = 1 << 31


class Message(NamedTuple):
    """A record of the log."""

    #: number since boot
    seq: int
    #: nanoseconds since boot
    time: int
    #: 0 (emergency) to 7 (debug)
    level: int
    #: who wrote it: ``T`` and a pid, or ``C`` and a CPU
    caller: str
    #: printable: all else is escaped, but for the ends of lines; tabs are spaces
    text: str

    @property
    def seconds(self) -> float:
        """Seconds since boot."""
        return self.time / 1e9


class Log(NamedTuple):
    """The log, as far as it could be read."""

    messages: tuple[Message, ...] = ()
    #: why it, or some of it, could not be read, each a clause without a full stop
    missed: tuple[str, ...] = ()

    @property
    def overwritten(self) -> int:
        """Messages that newer ones took the place of."""
        return self.messages[0].seq if self.messages else 0


def read_log(prog: Program) -> Log:
    """Read the newest :data:`MAX_RECORDS` records of the log, in their order."""
    try:
        ring = prog["prb"]
        finished = (
            prog.constant("desc_committed").value_(),
            prog.constant("desc_finalized").value_(),
        )
        layout = _Layout(prog)
    except (LookupError, TypeError, ValueError):
        return Log(missed=("the log (the kernel's types or symbols do not describe it)",))
    try:
        ring = ring[0].read_()
        descs, texts = ring.desc_ring, ring.text_data_ring
        bits, text_bits = descs.count_bits.value_(), texts.size_bits.value_()
        head, tail = descs.head_id.counter.value_(), descs.tail_id.counter.value_()
        places = descs.descs.value_(), descs.infos.value_(), texts.data.value_()
    except READ_ERRORS:
        return Log(missed=("the log (its ring buffer could not be read)",))
    except (AttributeError, LookupError, TypeError, ValueError):
        return Log(missed=("the log (the kernel's types do not describe it)",))
    if not 0 < bits <= 32 or not 3 <= text_bits <= 32 or 1 << text_bits > _MAX_TEXT:
        return Log(missed=("the log (the size of its ring buffer makes no sense)",))
    return _read(prog, layout, finished, (bits, text_bits), (head, tail), places)


class _Layout:
    """
    Where the members of descriptors and infos are.

    :raises LookupError: if the kernel's types lack them
    """

    def __init__(self, prog: Program) -> None:
        self.word = word_of(prog)
        desc, info = prog.type("struct prb_desc"), prog.type("struct printk_info")
        order = self.word[0]
        self.desc = np.dtype(
            {
                "names": ["state", "begin", "next"],
                "formats": [self.word] * 3,
                "offsets": [
                    offsetof(desc, one)
                    for one in ("state_var.counter", "text_blk_lpos.begin", "text_blk_lpos.next")
                ],
                "itemsize": desc.size,
            }
        )
        # The level shares its byte with flags: 5 bits before it where the first bit is the
        # lowest, else after it.
        self.level_shift = 5 if order == "<" else 0
        self.info = np.dtype(
            {
                "names": ["seq", "time", "length", "caller", "level"],
                "formats": [self.word, self.word, f"{order}u2", f"{order}u4", "u1"],
                "offsets": [
                    *(offsetof(info, one) for one in ("seq", "ts_nsec", "text_len", "caller_id")),
                    # The byte after the facility.
                    offsetof(info, "facility") + 1,
                ],
                "itemsize": info.size,
            }
        )


def _read(
    prog: Program,
    layout: _Layout,
    finished: tuple[int, int],
    bits: tuple[int, int],
    ids: tuple[int, int],
    places: tuple[int, int, int],
) -> Log:
    """
    Read the records of a ring.

    :param finished: states of a descriptor whose record is whole
    :param bits: log2 of the descriptors, and of the bytes of text
    :param ids: of the newest record, and of the oldest
    :param places: virtual addresses of descriptors, infos and text
    """
    slots, size = 1 << bits[0], 1 << bits[1]
    head, tail = ids[0] & _ID_MASK, ids[1] & _ID_MASK
    records = (head - tail & _ID_MASK) + 1
    missed = []
    if records > slots:
        missed.append("the log (the ids of its records make no sense)")
        records = slots
    if records > MAX_RECORDS:
        missed.append(f"the log (more than {MAX_RECORDS} records)")
        records = MAX_RECORDS
    numbers = np.uint64(head) - np.arange(records, dtype=np.uint64)[::-1] & np.uint64(_ID_MASK)
    index = (numbers & np.uint64(slots - 1)).astype(np.int64)
    descs = _array(prog, places[0], layout.desc, index, slots)
    infos = _array(prog, places[1], layout.info, index, slots)
    try:
        text = prog.read(places[2], size)
    except READ_ERRORS:
        text = None
    if descs is None or infos is None or text is None:
        return Log(missed=(*missed, "the log (its ring buffer could not be read)"))
    state = descs["state"].astype(np.uint64)
    whole = np.isin(state >> np.uint64(_STATE_SHIFT), np.array(finished, dtype=np.uint64))
    whole &= state & np.uint64(_ID_MASK) == numbers
    messages = []
    senseless = 0
    rows = zip(
        *(descs[name][whole].tolist() for name in ("begin", "next")),
        *(infos[name][whole].tolist() for name in layout.info.names or ()),
        strict=True,
    )
    for begin, following, seq, time, length, caller, level in rows:
        found = _block(begin, following, size)
        if found is None:
            senseless += 1
            continue
        start, room = found
        data = text[start : start + min(length, room, _MAX_MESSAGE)]
        messages.append(
            Message(
                seq,
                time,
                level >> layout.level_shift & 7,
                f"C{caller - _CPU}" if caller & _CPU else f"T{caller}",
                "\n".join(printable(line.expandtabs()) for line in data.split(b"\n")),
            )
        )
    if senseless:
        missed.append(f"the log ({count(senseless, 'record')} that can't be followed)")
    return Log(tuple(messages), tuple(missed))


def _array(
    prog: Program, address: int, dtype: np.dtype[np.void], index: NDArray[np.int64], count: int
) -> NDArray[np.void] | None:
    """
    Read elements of an array, ``None`` if they can't be read.

    :param index: of the elements: neighbours, which may go on from the end at the start
    :param count: elements in the array
    """
    found = []
    last = int(index[-1]) + 1
    pieces = [(last - len(index), last)]
    if pieces[0][0] < 0:
        pieces = [(count + pieces[0][0], count), (0, last)]
    try:
        for first, end in pieces:
            data = prog.read(address + first * dtype.itemsize, (end - first) * dtype.itemsize)
            found.append(np.frombuffer(data, dtype=dtype))
    except READ_ERRORS:
        return None
    return np.concatenate(found)


def _block(begin: int, following: int, size: int) -> tuple[int, int] | None:
    """
    Return where the text of a record starts in the ring, and how many bytes it can have.

    ``get_data()``: positions count on without end, and are taken modulo the size. An odd
    position stands for no text. A block that would cross the end starts at the beginning.

    :return: ``None`` for positions that no block can have
    """
    if begin & 1 and following & 1:
        return 0, 0
    wraps = (following - 1) // size - begin // size
    if begin < following and not wraps:
        start, room = begin % size, following - begin
    elif wraps in (1, 1 - (1 << 64) // size):
        start, room = 0, (following - 1) % size + 1
    else:
        return None
    return (start + _ID, room - _ID) if room >= _ID and not begin % _ID else None
