# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the benchmarks run on: guests with one devdax, and simulated kernels in sparse dumps."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vmemscope.machine import Kernel

__all__ = ("foreign", "guest", "simulated")


@contextmanager
def simulated(size: int, align: int) -> Iterator[tuple[Kernel, list[str]]]:
    """
    Make a dump with one devdax.

    :param size: of it in bytes
    :param align: of its compound pages in bytes
    :return: the kernel, and the options that vmemscope opens it with
    """
    from .sparse import write_sparse

    with tempfile.TemporaryDirectory(prefix="vmemscope-bench-") as scratch:
        path = Path(scratch) / "vmcore"
        write_sparse(path, size, align)
        yield Kernel.open_core(str(path)), ["-c", str(path)]


@contextmanager
def foreign(arch: str) -> Iterator[tuple[Kernel, list[str]]]:
    """Make a dump of another architecture with one devdax of 1 TiB, otherwise as above."""
    from .foreign import write_foreign

    with tempfile.TemporaryDirectory(prefix="vmemscope-bench-") as scratch:
        path = Path(scratch) / "vmcore"
        write_foreign(path, arch)
        yield Kernel.open_core(str(path)), ["-c", str(path)]


@contextmanager
def guest(size: int, align: int) -> Iterator[tuple[Kernel, list[str]]]:
    """Boot a guest with 8 GiB of RAM and one devdax, otherwise as :func:`simulated`."""
    from tests.guests.devices import Nvdimm
    from tests.guests.guest import Guest
    from tests.guests.packages import get_kernel

    device = Nvdimm(size=size, align=align)
    with Guest(get_kernel("6.12"), [device], memory=8 << 30) as running:
        # A QMP socket serves one client at a time.
        yield Kernel.open_qemu(f"unix:{running.qmp}"), []
