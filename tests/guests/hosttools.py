# SPDX-License-Identifier: LGPL-2.1-or-later
"""The programs that the host needs to boot a guest, as Debian packages."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Iterable

from .machines import MACHINES

__all__ = ("HOST_PACKAGES", "HostToolsError", "ensure_host_packages")

#: Debian package: what the harness wants of it
HOST_PACKAGES = {
    "busybox-static": "the guest's shell and everything that goes with it",
    "daxctl": "lists the guest's dax devices",
    "ndctl": "makes the guest's namespaces",
    "zstd": "unpacks modules that are compressed with it",
}


class HostToolsError(Exception):
    """Programs are missing on the host, and could not be installed."""


def _missing(wanted: Iterable[str]) -> list[str]:
    if shutil.which("dpkg-query") is None:
        raise HostToolsError("the guests need a Debian host: there is no dpkg here")
    # Asked package by package: one unknown name makes the exit status of the
    # whole query a failure, which says nothing about the others.
    return [
        package
        for package in sorted(wanted)
        if subprocess.run(
            ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package],
            capture_output=True,
            text=True,
        ).stdout
        != "installed"
    ]


@functools.cache
def ensure_host_packages(arch: str = "amd64") -> None:
    """
    Install the packages that are missing, when run as root.

    :param arch: Debian's name of the guest's architecture
    :raises HostToolsError: if some are missing and can't be installed; the
        message is the command that would do it
    """
    wanted = {*HOST_PACKAGES, *MACHINES[arch].host_packages}
    missing = _missing(wanted)
    if not missing:
        return
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    if os.geteuid() != 0:
        raise HostToolsError(f"packages are missing; as root: {' '.join(command)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # Somebody else may be installing something at the moment.
    wait = ["-o", "DPkg::Lock::Timeout=300"]
    for step in (["apt-get", *wait, "update"], [command[0], *wait, *command[1:]]):
        result = subprocess.run(step, env=environment, capture_output=True, text=True)
    # The status of update is left alone: an index of no concern may have failed.
    if result.returncode or (missing := _missing(wanted)):
        reason = result.stderr.strip() or result.stdout[-500:]
        raise HostToolsError(f"could not install {' '.join(missing)}: {reason}")
