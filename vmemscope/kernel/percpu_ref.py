# SPDX-License-Identifier: LGPL-2.1-or-later
"""
``struct percpu_ref``: a reference count with a counter for each CPU.

Source: ``lib/percpu-refcount.c``. The count is the sum of the per-CPU counters and the
shared counter, less the bias and the initial reference. ``percpu_ref_kill()`` sets
flags in the pointer before the count drops for good.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from drgn import Object, TypeKind, sizeof
from msgspec import Struct

from ..target.reads import READ_ERRORS
from . import word_of

if TYPE_CHECKING:
    from drgn import Program
    from numpy.typing import NDArray

__all__ = ("PERCPU_REF_DEAD", "RefCount", "read_references")

# include/linux/percpu-refcount.h: an anonymous enum
_PERCPU_REF_ATOMIC = 1 << 0
PERCPU_REF_DEAD = 1 << 1
_FLAGS = _PERCPU_REF_ATOMIC | PERCPU_REF_DEAD

#: lib/percpu-refcount.c: PERCPU_COUNT_BIAS, and the reference of percpu_ref_init()
_BIAS = 1 << 63
_INITIAL = 1

_WORD = 1 << 64

#: CPUs that are read; CONFIG_NR_CPUS is 8192 at most
_MAX_CPUS = 8192


class RefCount(Struct, frozen=True):
    """The references that a ``struct percpu_ref`` counts."""

    #: without the initial reference; ``None`` if it is not known
    count: int | None
    #: why it is not known, a clause without a full stop
    reason: str | None = None
    #: whether memory can't be read
    unreadable: bool = False


def read_references(prog: Program, address: int) -> RefCount:
    """
    Count the references to a pagemap.

    The counters are read twice, and must be equal: a running kernel may take a reference
    on one CPU and drop it on another between two reads.

    :param address: virtual address of the ``struct dev_pagemap``
    """
    try:
        return _read(prog, Object(prog, "struct dev_pagemap", address=address))
    except READ_ERRORS:
        return RefCount(None, "its reference count could not be read", unreadable=True)
    except (AttributeError, LookupError):
        return RefCount(None, "types or variables of per-CPU counters are missing")


def _read(prog: Program, pgmap: Object) -> RefCount:
    ref = pgmap.ref
    if ref.type_.kind == TypeKind.POINTER:
        # Before b80892ca022e ("memremap: remove support for external pgmap
        # refcounts") (in v5.17) a driver could use its own count, which counts other
        # references, too: nd_pmem used its request queue's.
        if ref.value_() != pgmap.internal_ref.address_of_().value_():
            return RefCount(None, "the reference count is its driver's own")
        ref = ref[0]
    pointer = ref.percpu_count_ptr.value_()
    if pointer & _FLAGS:
        return RefCount(None, "the reference count was killed: it is being torn down")
    # In struct percpu_ref itself before 2b0d3d3e4fcf ("percpu_ref: reduce memory
    # footprint of percpu_ref in fast path") (in v5.10).
    data = ref.data[0] if ref.type_.has_member("data") else ref
    offsets = _cpu_offsets(prog)
    if not len(offsets):
        return RefCount(None, "no CPU is possible")
    first = _sum(prog, pointer, offsets)
    shared = data.count.counter.value_()
    if not np.array_equal(first, _sum(prog, pointer, offsets)):
        return RefCount(None, "references were taken or dropped while they were counted")
    total = (int(np.sum(first, dtype=np.uint64)) + shared - _BIAS - _INITIAL) % _WORD
    return RefCount(total - _WORD if total >> 63 else total)


def _sum(prog: Program, pointer: int, offsets: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Read the counter of each CPU (uint64, shape ``(n,)``)."""
    addresses = (offsets + np.uint64(pointer)).tolist()
    return np.array([prog.read_u64(address) for address in addresses], dtype=np.uint64)


def _cpu_offsets(prog: Program) -> NDArray[np.uint64]:
    """
    Return ``__per_cpu_offset`` of each possible CPU (uint64, shape ``(n,)``).

    ``percpu_ref`` sums up the counters of all possible CPUs.

    :raises LookupError: if the kernel lacks the variables (CONFIG_SMP=n)
    """
    mask = prog["__cpu_possible_mask"]
    size = min(sizeof(mask.type_), _MAX_CPUS // 8)
    # Words, lowest bit first: as bytes of little-endian words, that is their order.
    words = np.frombuffer(prog.read(mask.address_, size), word_of(prog)).astype("<u8")
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")
    cpus = np.flatnonzero(bits)
    if not len(cpus):
        return np.zeros(0, np.uint64)
    raw = prog.read(prog["__per_cpu_offset"].address_, 8 * (int(cpus[-1]) + 1))
    return np.frombuffer(raw, word_of(prog)).astype(np.uint64)[cpus]
