# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Linux 5.10: it has BTF, but does not say where its symbols are, and has no compound pagemaps.

From outside it takes a ``System.map`` or a ``vmlinux``; the kernel that runs the
tool finds its symbols itself.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from . import test_pgmap
from .devices import MIB, Nvdimm
from .guest import Guest
from .packages import get_kernel
from .targets import GuestTargets
from .test_pgmap import vmemscope
from .test_running import inside

DEVICES = (
    Nvdimm(size=384 * MIB, align=2 * MIB),
    Nvdimm(size=256 * MIB, align=2 * MIB, map="dev"),
    Nvdimm(size=192 * MIB, mode="fsdax"),
)


@pytest.fixture(scope="module")
def guest() -> Iterator[GuestTargets]:
    with (
        tempfile.TemporaryDirectory(prefix="vmemscope-dumps-") as directory,
        Guest(get_kernel("5.10"), DEVICES, host_files=True) as booted,
    ):
        yield GuestTargets(booted, Path(directory))


VIEWS: dict[str, Callable[[GuestTargets], list[str]]] = {
    "elf": lambda guest: ["-c", str(guest.vmcore)],
    "qemu": lambda guest: ["--qemu", guest.qmp],
}
SYMBOLS: dict[str, Callable[[GuestTargets], list[str]]] = {
    "vmlinux": lambda guest: ["-s", str(guest.vmlinux)],
    "system-map": lambda guest: ["--system-map", str(guest.guest.kernel.system_map)],
}


def check(guest: GuestTargets, document: dict[str, Any], status: int) -> None:
    """Hold a document against the oracle, but for what this kernel has not."""
    for pgmap in document["pgmaps"]:
        assert pgmap["vmemmap_shift"] is None
        # The oracle has 0 for it.
        pgmap["vmemmap_shift"] = 0
    test_pgmap.test_every_number_is_the_oracles(guest, (document, status))
    assert document["summary"]["compounds"] == 0
    # The struct pages that lie on the device are in no dump of RAM, and not in /proc/kcore.
    (on_device,) = [pgmap["name"] for pgmap in document["pgmaps"] if pgmap["altmap"]]
    lacks = document["target"]["kind"] != "qemu"
    assert [line.rpartition(":")[0] for line in document["summary"]["not_read"]] == [
        f"base pages, which lie on the device, of {on_device}"
    ] * lacks
    assert document["summary"]["refcounts_unreadable"] == 0
    assert [pgmap["type"] for pgmap in document["pgmaps"]] == ["generic", "generic", "fsdax"]
    for pgmap in document["pgmaps"]:
        assert pgmap["state"] == "not-optimized"
        assert ("altmap" if pgmap["altmap"] else "before 5.17") in pgmap["reason"]
        assert pgmap["frames"]["expected"] == pgmap["vmemmap"]["pages"]
        assert pgmap["findings"] == []
    assert status == (4 if lacks else 0)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("symbols", SYMBOLS)
def test_is_the_oracles(guest: GuestTargets, view: str, symbols: str) -> None:
    options = [*VIEWS[view](guest), *SYMBOLS[symbols](guest)]
    result = vmemscope("pgmap", "--all", "--format", "json", *options)
    assert result.stdout, result.stderr
    document = json.loads(result.stdout)
    assert document["target"]["types"] == {"vmlinux": "dwarf", "system-map": "btf"}[symbols]
    check(guest, document, result.returncode)


def test_live_needs_nothing(guest: GuestTargets) -> None:
    result = inside(guest.guest, "pgmap", "--all", "--format", "json")
    assert result.stdout.startswith("{"), result.stdout
    document = json.loads(result.stdout)
    assert (document["target"]["kind"], document["target"]["types"]) == ("live", "btf")
    check(guest, document, result.returncode)


def test_saved_kallsyms_will_do(guest: GuestTargets, tmp_path: Path) -> None:
    kallsyms = tmp_path / "kallsyms"
    kallsyms.write_text(guest.guest.run("cat /proc/kallsyms").stdout)
    options = [*VIEWS["elf"](guest), "--system-map", str(kallsyms)]
    result = vmemscope("pgmap", "--all", "--format", "json", *options)
    assert result.stdout, result.stderr
    check(guest, json.loads(result.stdout), result.returncode)


@pytest.mark.parametrize("view", VIEWS)
def test_says_what_it_needs(guest: GuestTargets, view: str) -> None:
    result = vmemscope("pgmap", "--all", "--quiet", *VIEWS[view](guest))
    assert (result.returncode, result.stdout) == (3, "")
    assert re.fullmatch(
        rf"vmemscope: error: kernel {re.escape(guest.release)} does not say where its symbol table"
        r" is.*--system-map.*-s\n",
        result.stderr,
    )


def test_placeholder_of_a_system_map(guest: GuestTargets) -> None:
    """Debian has the real one beside the debug symbols, and says so in the file in /boot."""
    kernel = guest.guest.kernel
    placeholder = kernel.directory / "root" / "boot" / f"System.map-{kernel.release}"
    result = vmemscope("pgmap", "-c", str(guest.vmcore), "--system-map", str(placeholder))
    assert (result.returncode, result.stdout) == (3, "")
    assert re.fullmatch(r"vmemscope: error: .*no complete System.map; .*-dbg\).*\n", result.stderr)


def test_system_map_of_another_kernel(guest: GuestTargets) -> None:
    other = get_kernel("6.1").system_map
    result = vmemscope("pgmap", "-c", str(guest.vmcore), "--system-map", str(other))
    assert (result.returncode, result.stdout) == (3, "")
    assert re.fullmatch(
        rf"vmemscope: error: .* does not belong to kernel {re.escape(guest.release)}.*\n",
        result.stderr,
    )
