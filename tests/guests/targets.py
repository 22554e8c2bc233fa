# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ways to audit one guest, each made when it is first asked for."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from tests import oracle

from . import mmu
from .devices import Placed
from .guest import Guest, Report

__all__ = ("GuestTargets",)


class GuestTargets:
    """
    A running guest, its dumps, and what to expect of it.

    :param directory: for dumps; belongs to the caller
    """

    def __init__(self, guest: Guest, directory: Path) -> None:
        self.guest = guest
        self._directory = directory

    @property
    def release(self) -> str:
        """What ``uname -r`` prints."""
        return self.guest.release

    @property
    def devices(self) -> tuple[Placed, ...]:
        """The devices as the guest found them."""
        return self.guest.devices

    @property
    def qmp(self) -> str:
        """Path of a QMP socket that nobody is connected to."""
        return self.guest.qmp

    @functools.cached_property
    def vmcore(self) -> Path:
        """A dump as an ELF file, of RAM only: struct pages on an altmap are not in it."""
        return self._dump("elf")

    @functools.cached_property
    def kdump(self) -> Path:
        """A dump as a kdump file, with the contents of the nvdimms."""
        return self._dump("kdump-zlib")

    @functools.cached_property
    def vmlinux(self) -> Path:
        """The kernel's image with DWARF."""
        return self.guest.kernel.vmlinux

    @functools.cached_property
    def report(self) -> Report:
        """What the guest itself says."""
        return self.guest.report()

    @functools.cached_property
    def oracle(self) -> list[dict[str, Any]]:
        """What :func:`tests.oracle.audit` makes of :attr:`vmcore`."""
        names = oracle.expected_names(self.report.iomem, self.report.namespaces)
        return oracle.audit(oracle.open_core(self.vmcore, self.vmlinux), names)

    @functools.cached_property
    def witness(self) -> dict[str, Any]:
        """What :func:`.mmu.witness` makes of the guest."""
        return mmu.witness(self.guest)

    def _dump(self, format: Any) -> Path:
        path = self._directory / f"{self.release}.{format}"
        self.guest.dump(path, format)
        return path
