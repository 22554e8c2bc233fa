# SPDX-License-Identifier: LGPL-2.1-or-later
"""
``vmemscope hugetlb`` on real kernels, compared with an oracle and the guest's own numbers.

Two guests for each kernel. A small one has folios from before the optimization was
switched on and from after, free and in use; it is audited while it runs and in a
dump, and then faults are patched into that dump. A large one has a
page of 1 GiB from boot as well.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from drgn import Program

from tests import oracle, oracle_hugetlb
from tests.patched import HUGETLB_FAULTS, damaged, patched
from vmemscope.audits.hugetlb import audit
from vmemscope.machine import Kernel

from .devices import GIB, MIB, Nvdimm
from .guest import Guest
from .packages import get_kernel

SYSFS = "/sys/kernel/mm/hugepages"
SWITCH = "/proc/sys/vm/hugetlb_optimize_vmemmap"
NR = f"{SYSFS}/hugepages-2048kB/nr_hugepages"
COUNTERS = ("nr_hugepages", "free_hugepages", "resv_hugepages", "surplus_hugepages")
#: folios from before the switch was turned on, from after, and in use
BEFORE, AFTER, USED = 3, 8, 2
#: vmemmap pages of a folio of 2 MiB
PAGES = 8
#: What is reported of sound folios, since the kernel can't give them back: 6.12.114 and later
#: lost reset_struct_pages(). TestGivenBack has the proof.
BROKEN: dict[str, set[str]] = {"6.12": {"hugetlb-restore"}}


def vmemscope(*options: str) -> tuple[dict[str, Any], int]:
    """Run the command line as its user does: the document, and the exit status."""
    result = subprocess.run(
        [sys.executable, "-m", "vmemscope", "hugetlb", "--format", "json", "--folios", *options],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.stdout, result.stderr
    return json.loads(result.stdout), result.returncode


def counters(guest: Guest) -> dict[str, dict[str, int]]:
    """Return what the guest itself counts, by size."""
    output = guest.run(
        f"cd {SYSFS}; for size in *; do for name in {' '.join(COUNTERS)}; do"
        " echo $size $name $(cat $size/$name); done; done"
    ).stdout
    found: dict[str, dict[str, int]] = {}
    for size, name, value in re.findall(r"^(\S+) (\S+) (\d+)$", output, re.M):
        found.setdefault(size, {})[name] = int(value)
    return found


def memmap_pages(guest: Guest) -> int:
    """Return how many pages of memory map the guest counts, 0 if it does not."""
    return sum(guest.report().memmap.values())


def free_memory(guest: Guest) -> int:
    """Return the bytes of memory that the guest has free."""
    match = re.search(r"^MemFree: +(\d+) kB$", guest.run("cat /proc/meminfo").stdout, re.M)
    assert match
    return int(match[1]) << 10


@dataclass
class Small:
    """A guest of 1 GiB, and what was seen of it on the way."""

    guest: Guest
    core: Path
    #: while the optimization was off
    off: tuple[dict[str, Any], int]
    #: with the optimization on, live
    on: tuple[dict[str, Any], int]
    counters_off: dict[str, dict[str, int]]
    counters_on: dict[str, dict[str, int]]
    #: pages that the guest's own counters of memory map fell by
    fell: int
    vmlinux: Path
    prog: Program
    #: of the dump, each made when it is first asked for
    views: dict[str, tuple[dict[str, Any], int]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def small(series: str) -> Iterator[Small]:
    """A guest whose optimization was off and is on."""
    with (
        tempfile.TemporaryDirectory(prefix="vmemscope-dumps-") as directory,
        Guest(get_kernel(series), (Nvdimm(size=128 * MIB),)) as guest,
    ):
        qemu = f"unix:{guest.qmp}"
        guest.run(f"echo 0 > {SWITCH}; echo {BEFORE} > {NR}")
        off, counters_off = vmemscope("--qemu", qemu), counters(guest)
        before = memmap_pages(guest)
        guest.run(f"echo 1 > {SWITCH}; echo {BEFORE + AFTER} > {NR}")
        guest.run(
            "mkdir /huge; mount -t hugetlbfs none /huge;"
            f" busybox fallocate -l {USED * 2 * MIB} /huge/file"
        )
        on, counters_on = vmemscope("--qemu", qemu), counters(guest)
        fell = before - memmap_pages(guest)
        core = Path(directory) / "vmcore"
        guest.dump(core)
        core.chmod(0o600)
        vmlinux = guest.kernel.vmlinux
        prog = oracle.open_core(core, vmlinux)
        yield Small(guest, core, off, on, counters_off, counters_on, fell, vmlinux, prog)


@pytest.fixture(scope="module")
def truth(small: Small) -> dict[str, Any]:
    """What the oracle makes of the dump."""
    return oracle_hugetlb.audit(small.prog)


# Of a fixture with parameters that lives longer than a test, pytest would make guests
# again and again to try every combination.
@pytest.fixture(params=("qemu-btf", "elf-btf", "elf-dwarf"))
def view(request: pytest.FixtureRequest, small: Small) -> tuple[dict[str, Any], int]:
    """What the tool says of the small guest, by target."""
    name = str(request.param)
    if name == "qemu-btf":
        return small.on
    if name not in small.views:
        symbols = ["-s", str(small.vmlinux)] if name == "elf-dwarf" else []
        small.views[name] = vmemscope("-c", str(small.core), *symbols)
    return small.views[name]


def test_off(small: Small) -> None:
    document, status = small.off
    assert status == 0
    assert document["findings"] == []
    assert document["hvo"]["enabled"] is False
    assert document["summary"]["folios"] == BEFORE
    assert document["summary"]["optimized"] == 0
    assert document["summary"]["read_only"] == 0
    assert document["summary"]["saved_bytes"] == 0
    assert document["summary"]["savable_bytes"] == BEFORE * (PAGES - 1) * 4096
    hold_counters_against(document, small.counters_off)


def hold_counters_against(document: dict[str, Any], counted: dict[str, dict[str, int]]) -> None:
    """Compare with /sys/kernel/mm/hugepages."""
    assert {one["name"] for one in document["hstates"]} == set(counted)
    for one in document["hstates"]:
        own = counted[one["name"]]
        assert one["nr_huge_pages"] == one["folios"] == own["nr_hugepages"]
        assert one["free_huge_pages"] == one["free"] == own["free_hugepages"]
        assert one["resv_huge_pages"] == own["resv_hugepages"]
        assert one["surplus_huge_pages"] == own["surplus_hugepages"]
        assert (one["elsewhere"], one["unreadable"]) == (0, 0)


def hold_folios_against(document: dict[str, Any], truth: dict[str, Any]) -> None:
    """Compare every number with the oracle's."""
    assert len(document["folios"]) == len(truth["folios"])
    for one, real in zip(document["folios"], truth["folios"], strict=True):
        read_only = [pfn for pfn, writable in real["pages"] if not writable]
        assert int(one["page"], 16) == real["page"]
        for key in ("pfn", "hstate", "size", "state", "flagged"):
            assert one[key] == real[key], key
        assert one["node"] == real["nid"]
        assert one["pages"] == len(real["pages"])
        assert one["read_only"] == len(read_only)
        assert one["head_pfn"] == real["pages"][0][0]
        assert one["tail_pfn"] == (read_only[0] if read_only else None)
        # The premise of the comparison: the real kernel keeps its own rules.
        assert len(set(read_only)) <= 1
        assert len(read_only) in (0, len(real["pages"]) - 1)
        assert bool(read_only) == real["flagged"]
    for one in document["hstates"]:
        pages = [
            pfn
            for real in truth["folios"]
            if real["hstate"] == one["name"]
            for pfn, _ in real["pages"]
        ]
        assert one["pages"] == one["mapped"] == len(pages)
        assert one["frames"] == len(set(pages))
        assert one["saved_bytes"] == (len(pages) - len(set(pages))) * 4096
    assert {
        (one["node"], one["zone"], one["order"]): one["pfn"] for one in document["shared_tails"]
    } == truth["tails"]
    assert document["hvo"]["enabled"] is truth["enabled"]


def test_every_number_is_the_oracles(
    view: tuple[dict[str, Any], int], truth: dict[str, Any], small: Small
) -> None:
    document, status = view
    broken = BROKEN.get(small.guest.kernel.series, set())
    assert {finding["rule"] for finding in document["findings"]} == broken
    assert status == bool(broken)
    assert document["summary"]["not_read"] == []
    hold_folios_against(document, truth)
    hold_counters_against(document, small.counters_on)
    (size,) = [one for one in document["hstates"] if one["folios"]]
    assert (size["folios"], size["in_use"]) == (BEFORE + AFTER, USED)
    assert size["flagged"] == size["optimized"] == AFTER
    assert size["savable_bytes"] == BEFORE * (PAGES - 1) * 4096


def test_all_read_only_pages_are_seen(view: tuple[dict[str, Any], int], small: Small) -> None:
    pages = oracle_hugetlb.read_only_pages(small.prog)
    assert len(pages) == AFTER * (PAGES - 1) == view[0]["summary"]["read_only"]


def test_generation(small: Small, truth: dict[str, Any]) -> None:
    document = small.on[0]
    if small.guest.kernel.series != "7.2":
        assert document["hvo"] == {
            "built_in": True, "enabled": True, "key": AFTER, "shared_tails": False, "never": None,
            "protected": True,
        }  # fmt: skip
        assert document["shared_tails"] == []
    else:
        assert document["hvo"] == {
            "built_in": True, "enabled": True, "key": None, "shared_tails": True, "never": None,
            "protected": True,
        }  # fmt: skip
        (tail,) = document["shared_tails"]
        assert tail["folios"] == AFTER
        assert tail["refcount"] == truth["refcounts"][tail["pfn"]] == 1


def test_the_guest_counts_what_is_saved(small: Small) -> None:
    """nr_memmap_pages and nr_memmap_boot_pages fell by the pages that went (6.11+)."""
    if small.guest.kernel.series == "6.1":
        assert small.fell == 0
    else:
        # The frame of the shared tail pages is in no counter.
        assert small.fell == AFTER * (PAGES - 1)


# Faults in the dump.


@pytest.mark.parametrize("name", HUGETLB_FAULTS)
def test_fault_is_reported(name: str, small: Small) -> None:
    """Each fault is found at its address, and nothing else is."""
    fault = HUGETLB_FAULTS[name]
    series = small.guest.kernel.series
    if fault.only and series not in fault.only:
        return
    changes, expected = patched(small.prog, fault)
    with damaged(small.core, changes):
        report = audit(Kernel.open_core(str(small.core)))
    assert not report.partial
    found = {(finding.rule, finding.vaddr) for finding in report.findings}
    at = small.prog.symbol("vmemmap_restore_pte").address
    broken = {(rule, at) for rule in BROKEN.get(series, ())}
    assert found == {(one.rule, one.vaddr) for one in expected} | broken


def test_faults_were_put_back(small: Small) -> None:
    reported, _ = vmemscope("-c", str(small.core))
    broken = BROKEN.get(small.guest.kernel.series, set())
    assert {finding["rule"] for finding in reported["findings"]} == broken


def test_the_code_is_reported_where_it_is(small: Small, view: tuple[dict[str, Any], int]) -> None:
    at = {one["vaddr"] for one in view[0]["findings"] if one["rule"] == "hugetlb-restore"}
    address = hex(small.prog.symbol("vmemmap_restore_pte").address)
    assert at == ({address} if small.guest.kernel.series in BROKEN else set())


class TestGivenBack:
    """What becomes of folios when the pool is made smaller; the last audit of the small guest."""

    def test_it_is_as_told(self, small: Small, truth: dict[str, Any]) -> None:
        guest = small.guest
        # More than a processor keeps to itself (pcp lists have pages of 2 MiB, too).
        folios = 100
        guest.run(f"rm /huge/file; dmesg -c > /dev/null; echo {folios} > {NR}")
        assert guest.run(f"cat {NR}").stdout.strip() == str(folios)
        before = free_memory(guest)
        guest.run(f"echo 0 > {NR}")
        log = guest.run("dmesg").stdout
        got = free_memory(guest) - before
        lost = guest.kernel.series in BROKEN
        assert ("corrupted mapping in tail page" in log) == lost
        assert (got < folios * MIB) == lost


# Pages of 1 GiB.


@pytest.fixture(scope="module")
def large(series: str) -> Iterator[Guest]:
    """A guest with a page of 1 GiB that it took at boot."""
    parameters = ("hugetlb_free_vmemmap=on", "hugepagesz=1G", "hugepages=1", "hugepagesz=2M")
    with Guest(get_kernel(series), (), memory=4 * GIB, parameters=parameters) as guest:
        guest.run(f"echo {BEFORE} > {NR}")
        yield guest


def test_gigantic_page_from_boot(large: Guest) -> None:
    document, status = vmemscope("--qemu", f"unix:{large.qmp}")
    truth = oracle_hugetlb.audit(oracle.open_qemu(large.qmp, large.kernel.vmlinux))
    hold_folios_against(document, truth)
    hold_counters_against(document, counters(large))
    by_size = {one["size"]: one for one in document["hstates"]}
    assert by_size[GIB]["optimized"] == 1
    assert by_size[2 * MIB]["optimized"] == BEFORE
    assert by_size[GIB]["pages"] == 4096
    assert document["summary"]["read_only"] == 4095 + BEFORE * (PAGES - 1)
    found = {(finding["rule"], finding["severity"]) for finding in document["findings"]}
    if large.kernel.series != "7.2":
        broken = BROKEN.get(large.kernel.series, set())
        assert (found, status) == ({(rule, "error") for rule in broken}, bool(broken))
    else:
        # Really broken: memmap_init() went over the tail pages that all share a frame
        # after they had been made tail pages, and gave them a reference count.
        assert (found, status) == ({("hugetlb-shared-tail", "error")}, 1)
        (tail,) = [one for one in document["shared_tails"] if one["order"] == 18]
        assert {finding["pfn"] for finding in document["findings"]} == {tail["pfn"]}
    # And so it goes when the page is freed.
    large.run("dmesg -c > /dev/null")
    before = free_memory(large)
    large.run(f"echo 0 > {SYSFS}/hugepages-1048576kB/nr_hugepages", timeout=300)
    log = large.run("dmesg").stdout
    assert ("nonzero _refcount" in log) == (large.kernel.series == "7.2")
    assert ("corrupted mapping in tail page" in log) == ("hugetlb-restore" in dict(found))
    assert (free_memory(large) - before < 900 * MIB) == bool(found)
