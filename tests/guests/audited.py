# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Boot a guest of the matrix, dump it, and audit the dump in both ways.

In: a :class:`~tests.guests.matrix.Key`. Out: a :class:`Audited`, with what the
command line says of the dump by BTF alone, and what the oracle says by DWARF (by BTF,
too, where Debian has no debug symbols any more).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drgn import Program
from drgn.helpers.linux.mm import pfn_to_page

import vmemscope
from tests import oracle

from .devices import Placed
from .guest import Guest, Report
from .matrix import BOOTS, Boot, Key
from .packages import Kernel, get_kernel

__all__ = ("Audited", "Auditing")


@dataclass(frozen=True)
class Audited:
    """A guest that was booted, and all that was seen of it."""

    key: Key
    kernel: Kernel
    release: str
    devices: tuple[Placed, ...]
    report: Report
    #: what :attr:`.Boot.steps` returned
    notes: dict[str, Any]
    #: the guest's console
    console: str
    #: what ``vmemscope pgmap --all --format json`` printed, and its exit status
    document: dict[str, Any]
    status: int
    #: the dump with types, and what :func:`tests.oracle.audit` made of it; each
    #: has in addition the address of its first ``struct page`` as ``first``
    prog: Program
    truth: list[dict[str, Any]]

    @property
    def boot(self) -> Boot:
        """What was booted."""
        return BOOTS[self.key.boot]

    def pgmap_at(self, start: int) -> dict[str, Any] | None:
        """Return what the tool says of the pagemap with a range that starts at an address."""
        found = [
            pgmap
            for pgmap in self.document["pgmaps"]
            if any(int(one["start"], 16) == start for one in pgmap["ranges"])
        ]
        assert len(found) <= 1
        return found[0] if found else None

    def truth_at(self, start: int) -> dict[str, Any] | None:
        """Return what the oracle says of it."""
        found = [one for one in self.truth if any(first == start for first, _ in one["ranges"])]
        assert len(found) <= 1
        return found[0] if found else None


class Auditing:
    """Looks at guests, one at a time: their dumps are gigabytes."""

    def __init__(self) -> None:
        self._key: Key | None = None
        self._audited: Audited | BaseException | None = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        #: seconds that each step took, by guest
        self.seconds: dict[Key, dict[str, float]] = {}

    def at(self, key: Key) -> Audited:
        """Look at a guest, once while the same is asked for."""
        if key != self._key:
            self.close()
            self._key = key
            self._directory = tempfile.TemporaryDirectory(prefix="vmemscope-dumps-")
            try:
                self._audited = _look(
                    key, Path(self._directory.name) / "vmcore", self.seconds.setdefault(key, {})
                )
            except Exception as error:
                # Whoever else asks for it gets the same, without a boot.
                self._audited = error
        if isinstance(self._audited, BaseException):
            raise self._audited
        assert self._audited is not None
        return self._audited

    def close(self) -> None:
        """Remove the dump."""
        self._key = self._audited = None
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None


def _look(key: Key, core: Path, seconds: dict[str, float]) -> Audited:
    boot, kernel = BOOTS[key.boot], get_kernel(key.series)
    start = time.monotonic()

    def step(name: str) -> None:
        nonlocal start
        now = time.monotonic()
        seconds[name], start = now - start, now

    with Guest(
        kernel,
        boot.devices,
        cpu=key.cpu,
        memory=boot.memory,
        parameters=boot.parameters,
        qemu_arguments=boot.qemu_arguments,
    ) as guest:
        step("boot")
        notes = boot.steps(guest)
        report = guest.report()
        step("steps")
        guest.dump(core)
        console, release, devices = guest.console(), guest.release, guest.devices
        step("dump")
    result = subprocess.run(
        [sys.executable, "-m", "vmemscope", "pgmap", "--all", "--format", "json", "-c", str(core)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    if not result.stdout:
        raise AssertionError(f"vmemscope said nothing of {key}: {result.stderr}")
    step("vmemscope")
    if kernel.has_debug_symbols:
        prog = oracle.open_core(core, kernel.vmlinux)
    else:
        # Of the package under test only the types, which are the kernel's own BTF.
        prog = vmemscope.Kernel.open_core(str(core)).prog
    names = oracle.expected_names(report.iomem, report.namespaces)
    truth = [
        {**one, "first": pfn_to_page(prog, one["ranges"][0][0] // 4096).value_()}
        for one in oracle.audit(prog, names)
    ]
    step("oracle")
    return Audited(
        key=key,
        kernel=kernel,
        release=release,
        devices=devices,
        report=report,
        notes=notes,
        console=console,
        document=json.loads(result.stdout),
        status=result.returncode,
        prog=prog,
        truth=truth,
    )
