# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The kernel's log, a lockless ring buffer.

Source: ``kernel/printk/printk_ringbuffer.c``, ``kernel/printk/printk.c``. A record has a
descriptor and an info, at the same place of two arrays, and a block of text in a third:
the record's id, then the text, padded to words. A block that would cross the end of the
ring starts at its beginning, and leaves only its id at the end. Old records make way for
new ones; a message that is longer than the ring allows is cut.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .scenario import Message

if TYPE_CHECKING:
    from .kernel_image import KernelImage
    from .objects import KernelMemory, Struct

__all__ = ("boot_messages", "fill", "write_log")

#: log2 of the bytes of text, and of the records (CONFIG_LOG_BUF_SHIFT, PRB_AVGBITS is 5)
_TEXT_BITS = 13
_DESC_BITS = _TEXT_BITS - 5
_WORD = 8
#: DESC_STATE: the state of a descriptor is in its two highest bits
_STATE_SHIFT = 62
_ID_MASK = (1 << _STATE_SHIFT) - 1
#: DESC0_ID(), BLK0_LPOS(): the first wrap counts up to zero
_FIRST_ID = (-(1 << _DESC_BITS) - 1) & _ID_MASK
_FIRST_LPOS = -(1 << _TEXT_BITS) & ((1 << 64) - 1)
_LONG = (1 << 64) - 1
#: FAILED_LPOS, and NO_LPOS of a record without text
_FAILED, _NO_TEXT = 1, 3
_PAGE = re.compile(r"\{page:(0x[0-9a-f]+)\}")
_DIRECT = re.compile(r"\{direct:(0x[0-9a-f]+)\}")


def boot_messages(release: str) -> list[Message]:
    """Return what every kernel says when it boots."""
    return [
        Message(0.0, f"Linux version {release} (simulated) #1 SMP PREEMPT_DYNAMIC", 5),
        Message(0.0, "Command line: BOOT_IMAGE=/vmlinuz root=/dev/vda1 ro", 6),
        Message(0.021, "Zone ranges:", 6),
        Message(0.021, "  Device   empty", 6),
        Message(0.310, "HugeTLB: registered 2.00 MiB page size, pre-allocated 0 pages", 6),
        Message(0.310, "HugeTLB: 28 KiB vmemmap can be freed for a 2.00 MiB page", 6),
        Message(1.204, "Run /init as init process", 6),
    ]


def fill(text: str, image: KernelImage) -> str:
    """Put in addresses: ``{page:PFN}`` of a struct page, ``{direct:PHYS}`` in the direct map."""
    addresses = image.memory.addresses
    text = _PAGE.sub(lambda found: f"{addresses.pfn_to_page(int(found[1], 16)):016x}", text)
    return _DIRECT.sub(lambda found: f"{addresses.va(int(found[1], 16)):016x}", text)


def write_log(image: KernelImage, messages: Iterable[Message]) -> None:
    """Write the ring with messages in it, and the variables that lead to it."""
    memory, layouts = image.memory, image.memory.layouts
    descs, infos, text = (
        _array(image, name, size)
        for name, size in (
            ("_printk_rb_static_descs", layouts.sizeof("prb_desc") << _DESC_BITS),
            ("_printk_rb_static_infos", layouts.sizeof("printk_info") << _DESC_BITS),
            ("__log_buf", 1 << _TEXT_BITS),
        )
    )
    ring = image.define_struct("printk_rb_static", "printk_ringbuffer", static=True)
    image.define_word("prb", ring.va, static=True)
    ring["desc_ring.count_bits"], ring["desc_ring.descs"] = _DESC_BITS, descs
    ring["desc_ring.infos"], ring["text_data_ring.size_bits"] = infos, _TEXT_BITS
    ring["text_data_ring.data"] = text
    finalized = layouts.constant("desc_finalized")
    newline = layouts.constant("LOG_NEWLINE")
    size, mask = 1 << _TEXT_BITS, (1 << _TEXT_BITS) - 1
    # The first descriptor is there from the start: reusable, and without text.
    count, reusable = 1 << _DESC_BITS, layouts.constant("desc_reusable")
    head_id, head, tail = _FIRST_ID, _FIRST_LPOS, _FIRST_LPOS
    first = _desc(memory, descs, head_id)
    first["state_var.counter"] = reusable << _STATE_SHIFT | head_id
    first["text_blk_lpos.begin"] = first["text_blk_lpos.next"] = _FAILED
    #: id and end of text of each record that a descriptor, or a block, is left of
    ids, blocks = deque([head_id]), deque[tuple[int, int]]()
    for number, message in enumerate(messages):
        data = fill(message.text, image).encode("utf-8", "surrogateescape")[: size // 4]
        room = -(-(len(data) + _WORD) // _WORD) * _WORD if data else 0
        head_id = head_id + 1 & _ID_MASK
        following = head + room & _LONG
        if head >> _TEXT_BITS != following >> _TEXT_BITS:
            # get_next_lpos(): it would cross the end.
            following = (following & ~mask) + room & _LONG
        # desc_reserve(), data_alloc(): old records go, until there is room of both kinds.
        if len(ids) == count:
            gone = ids.popleft()
            while blocks and (gone - blocks[0][0] & _ID_MASK) < count:
                tail = _make_reusable(memory, descs, reusable, *blocks.popleft())
        while blocks and (following - tail & _LONG) > size:
            tail = _make_reusable(memory, descs, reusable, *blocks.popleft())
        begin, end = (head, following) if data else (_NO_TEXT, _NO_TEXT)
        if data:
            memory.write_int(text + (head & mask), head_id)
            at = head & mask if head >> _TEXT_BITS == following >> _TEXT_BITS else 0
            memory.write_int(text + at, head_id)
            memory.write(text + at + _WORD, data)
            head = following
            blocks.append((head_id, head))
        ids.append(head_id)
        desc = _desc(memory, descs, head_id)
        desc["text_blk_lpos.begin"], desc["text_blk_lpos.next"] = begin, end
        desc["state_var.counter"] = finalized << _STATE_SHIFT | head_id
        at = infos + (head_id & count - 1) * layouts.sizeof("printk_info")
        info = memory.struct("printk_info", at)
        info["seq"], info["ts_nsec"] = number, round(message.time * 1e9)
        info["text_len"], info["level"] = len(data), message.level
        info["flags"], info["caller_id"] = newline, message.caller
    ring["desc_ring.head_id.counter"], ring["desc_ring.tail_id.counter"] = head_id, ids[0]
    ring["text_data_ring.head_lpos.counter"] = head
    ring["text_data_ring.tail_lpos.counter"] = tail


def _array(image: KernelImage, name: str, size: int) -> int:
    """Define an array; all of it is in the dump."""
    va = image.define(name, size, "bss", 64, static=True)
    image.memory.write(va, bytes(size))
    return va


def _desc(memory: KernelMemory, descs: int, number: int) -> Struct:
    index = number & (1 << _DESC_BITS) - 1
    return memory.struct("prb_desc", descs + index * memory.layouts.sizeof("prb_desc"))


def _make_reusable(
    memory: KernelMemory, descs: int, reusable: int, number: int, following: int
) -> int:
    """``data_push_tail()``: give up a record; return where the text of the next starts."""
    _desc(memory, descs, number)["state_var.counter"] = reusable << _STATE_SHIFT | number
    return following
