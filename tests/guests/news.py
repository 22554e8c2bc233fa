# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Look at the kernel that Debian's experimental has: the next release candidate, when there is one.

    python -m tests.guests.news

It boots that kernel with the devices of a guest by hand, audits a dump of it with all commands,
and prints what it found. Nothing that it finds breaks a build: a kernel that nobody promised
to be sound, and that may share tail pages in a new way, is news.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .devices import FIVE_DEVICES
from .guest import Guest, GuestError
from .hosttools import HostToolsError
from .packages import (
    SERIES,
    Candidate,
    Kernel,
    KernelNotFoundError,
    get_candidate,
    newest_of,
)

__all__ = ("main",)

SUITE = "experimental"
COMMANDS = (("pgmap", "--all"), ("memmap",), ("hugetlb", "--folios"))


def is_new(release: str) -> bool:
    """Return whether a kernel is newer than all series that the tests know."""

    def version(text: str) -> list[int]:
        return [int(one) for one in re.findall(r"\d+", text)[:2]]

    return version(release) > max(map(version, SERIES))


def look_at(found: Candidate) -> None:
    """Boot a kernel, and print what all commands say of it."""
    kernel: Kernel = get_candidate(found)
    with tempfile.TemporaryDirectory(prefix="vmemscope-news-") as directory:
        core = Path(directory) / "vmcore"
        with Guest(kernel, FIVE_DEVICES) as guest:
            guest.dump(core)
        for command in COMMANDS:
            done = subprocess.run(
                [sys.executable, "-m", "vmemscope", *command, "-c", str(core), "--format", "json"],
                capture_output=True,
                text=True,
            )
            print(f"news: vmemscope {' '.join(command)}: exit status {done.returncode}")
            print("".join(f"  {line}\n" for line in summed(done)), end="")


def summed(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return what a command found, a line for each rule, or what it said instead."""
    try:
        document: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return done.stderr.splitlines()[-5:]
    owners = [document, *document.get("pgmaps", ())]
    found = [(one.get("name"), f) for one in owners for f in one["findings"]]
    lines = [f"{f['severity']} {f['rule']} {name or ''}: {f['message']}" for name, f in found]
    states = [f"{one['name']}: {one['state']}" for one in document.get("pgmaps", ())]
    return [*states, *(document["summary"].get("not_read") or ()), *lines]


def main() -> int:
    """Look it up and look at it; return 0, whatever it is."""
    try:
        found = newest_of(SUITE)
        if found is None or not is_new(found.release):
            which = "no kernel" if found is None else f"{found.release}, which is not newer"
            print(f"news: {SUITE} has {which}")
            return 0
        print(f"news: {SUITE} has {found.release} ({found.version})", flush=True)
        look_at(found)
    except (GuestError, HostToolsError, KernelNotFoundError, OSError) as error:
        print(f"news: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
