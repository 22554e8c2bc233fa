# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Real kernels that vmemscope refuses, in one line: ppc64 with the hash MMU.

Debian's kernel uses it with ``disable_radix``. Its page tables do not map its memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .devices import MIB
from .guest import Guest
from .packages import get_kernel
from .targets import GuestTargets
from .test_arch import vmemscope


@pytest.fixture(scope="module")
def refused() -> Iterator[GuestTargets]:
    with (
        tempfile.TemporaryDirectory(prefix="vmemscope-dumps-") as directory,
        Guest(
            get_kernel("7.2", "powerpc64le"),
            (),
            memory=512 * MIB,
            parameters=["disable_radix"],
            vmcoreinfo=False,
        ) as guest,
    ):
        yield GuestTargets(guest, Path(directory))


def test_hash_mmu(refused: GuestTargets, tmp_path: Path) -> None:
    """Of a dump, a kdump file and a running guest, with a note given and without."""
    assert "Hash" in refused.guest.run("grep MMU /proc/cpuinfo").stdout
    note = tmp_path / "note"
    note.write_bytes(refused.guest.vmcoreinfo())
    targets = (
        *(("-c", str(path)) for path in (refused.vmcore, refused.kdump)),
        ("--qemu", f"unix:{refused.qmp}"),
    )
    for target in targets:
        for given in ((), ("--vmcoreinfo", str(note))):
            result = vmemscope("pgmap", *target, *given)
            assert (result.returncode, result.stdout) == (3, "")
            assert result.stderr == (
                "vmemscope: error: ppc64 with the hash MMU is not supported; supported: radix\n"
            )
