# SPDX-License-Identifier: LGPL-2.1-or-later
"""
All audits of kernels of other architectures, compared with QEMU's MMU number by number.

Each guest is audited through an ELF dump of its RAM, a kdump file with its devices
in it, and its QMP socket, with types from BTF alone and with no help as to where
VMCOREINFO is. What to expect is what :mod:`.mmu` saw, and the kernel's rules.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .arch_faults import faults_in, planted
from .arch_formats import FORMATS, FORMATS_FULL, is_refused, is_right, made
from .devices import MIB, devices_of
from .guest import Guest
from .makedumpfile import MakedumpfileError
from .packages import get_kernel
from .targets import GuestTargets

VIEWS = ("elf", "kdump", "qemu")
TYPES = {"devdax": "generic", "fsdax": "fsdax"}
#: names of the architectures: Debian's and the tool's
NAMES = {"arm64": "arm64", "ppc64el": "ppc64le", "riscv64": "riscv64", "s390x": "s390x"}
#: those that select ARCH_WANT_OPTIMIZE_DAX_VMEMMAP
DEDUPLICATE = {"ppc64el", "riscv64"}

#: kernels by flavour and series, short and in full: all that Debian has with
#: ZONE_DEVICE, which excludes 6.12 of s390x
SHORT = (("arm64", "7.2"), ("riscv64", "7.2"), ("powerpc64le", "7.2"), ("s390x", "7.2"))
FULL = (
    *(("arm64", "7.2"), ("riscv64", "7.2"), ("arm64", "6.12"), ("riscv64", "6.12")),
    *(("arm64-16k", "6.12"), ("arm64-16k", "7.2"), ("s390x", "7.2")),
    *(("powerpc64le", "6.12"), ("powerpc64le", "7.2")),
    *(("powerpc64le-64k", "6.12"), ("powerpc64le-64k", "7.2")),
)
#: flavours in whose guests the tool is run, too, on /proc/kcore. They come first in the
#: lists above: pytest groups the tests of one guest by its position.
INSIDE = ("arm64", "riscv64")
Documents = dict[tuple[str, ...], tuple[dict[str, Any], int]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run everything on each kernel."""
    if "foreign" in metafunc.fixturenames:
        keys = FULL if metafunc.config.getoption("full") else SHORT
        if metafunc.function is test_inside:
            keys = tuple(key for key in keys if key[0] in INSIDE)
        metafunc.parametrize("foreign", keys, indirect=True, ids="-".join, scope="module")
    if "written" in metafunc.fixturenames:
        full = metafunc.config.getoption("full")
        metafunc.parametrize("written", FORMATS_FULL if full else FORMATS)


@pytest.fixture(scope="module")
def foreign(request: pytest.FixtureRequest) -> Iterator[GuestTargets]:
    """Each kernel in turn, with devices and huge pages."""
    flavour, series = request.param
    # As for the other guests' dumps: not below pytest's directory.
    with (
        tempfile.TemporaryDirectory(prefix="vmemscope-dumps-") as directory,
        Guest(
            get_kernel(series, flavour),
            devices_of(flavour, series),
            parameters=["hugetlb_free_vmemmap=on"],
            host_files=flavour in INSIDE,
            vmcoreinfo=False,
        ) as guest,
    ):
        # s390x has none without EDAT1, which TCG lacks.
        guest.run("echo 8 > /proc/sys/vm/nr_hugepages", check=False)
        targets = GuestTargets(guest, Path(directory))
        # Before the tool connects: it may stop the guest for a moment.
        assert targets.witness["release"] == guest.release
        yield targets


@pytest.fixture(scope="module")
def documents(foreign: GuestTargets) -> Documents:
    """Documents and exit statuses by command and view, each made once."""
    return {}


@pytest.fixture(params=VIEWS)
def view(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def vmemscope(*options: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, as its user does."""
    return subprocess.run(
        [sys.executable, "-m", "vmemscope", *options], capture_output=True, text=True, timeout=300
    )


def answer(
    foreign: GuestTargets, documents: Documents, view: str, *command: str
) -> tuple[dict[str, Any], int]:
    """Return the document of a command, and its exit status."""
    key = (view, *command)
    if key not in documents:
        target = {
            "elf": lambda: ["-c", str(foreign.vmcore)],
            "kdump": lambda: ["-c", str(foreign.kdump)],
            "qemu": lambda: ["--qemu", f"unix:{foreign.qmp}"],
        }[view]()
        result = vmemscope(*command, "--format", "json", *target)
        assert "Traceback" not in result.stderr
        assert result.stdout, result.stderr
        documents[key] = json.loads(result.stdout), result.returncode
    return documents[key]


def number(text: str) -> int:
    return int(text, 16)


def deduplicated(foreign: GuestTargets, truth: dict[str, Any]) -> bool:
    """Return whether the kernel deduplicates a device's memory map (vmemmap_can_optimize())."""
    size = foreign.witness["struct_page_size"] << truth["vmemmap_shift"]
    return (
        foreign.witness["arch"] in DEDUPLICATE
        and truth["map"] == "mem"
        and size // foreign.witness["page_size"] > 2
    )


def due(foreign: GuestTargets, truth: dict[str, Any]) -> int:
    """Return the frames of a device's memory map by the kernel's rules."""
    if not deduplicated(foreign, truth):
        return len(truth["frames"])
    # A head and a tail to each compound page.
    size = foreign.witness["page_size"] << truth["vmemmap_shift"]
    start, end = truth["range"]
    return 2 * ((end + 1 - start) // size)


def has_the_ppc64_bug(foreign: GuestTargets) -> bool:
    """
    Return whether this kernel populates the memory map of compound pages wrongly.

    6.12 for ppc64el does with 4K pages, 6.12.107 at least: for each page of struct pages
    it advances by one frame, not by those that the page describes
    (arch/powerpc/mm/book3s64/radix_pgtable.c: vmemmap_populate_compound_pages()).
    """
    kernel = foreign.guest.kernel
    return (kernel.flavour, kernel.series) == ("powerpc64le", "6.12") and any(
        truth["backing"] != due(foreign, truth) for truth in foreign.witness["pgmaps"]
    )


def test_the_witness_is_of_some_use(foreign: GuestTargets) -> None:
    """The premise of the rest: everything is mapped, and what shall be shared is."""
    witness = foreign.witness
    assert len(witness["pgmaps"]) == len(foreign.devices)
    for truth in (*witness["pgmaps"], *witness["ram"], *witness["hugetlb"]):
        assert truth["mapped"] == len(truth["frames"])
        assert truth["mapped"] > 0
    if not has_the_ppc64_bug(foreign):
        for truth in witness["pgmaps"]:
            assert truth["backing"] == due(foreign, truth)
    if witness["arch"] == "riscv64":
        # Optimized, and yet nothing protects the pages that tails share.
        assert all(huge["backing"] < huge["mapped"] for huge in witness["hugetlb"])
        assert all(huge["writable"] == huge["mapped"] for huge in witness["hugetlb"])


def test_target(foreign: GuestTargets, documents: Documents, view: str) -> None:
    document, _ = answer(foreign, documents, view, "pgmap", "--all")
    target = dict(document["target"])
    assert target.pop("path")
    assert target == {
        "kind": "qemu" if view == "qemu" else "core",
        "osrelease": foreign.release,
        "arch": NAMES[foreign.witness["arch"]],
        "page_size": foreign.witness["page_size"],
        "struct_page_size": foreign.witness["struct_page_size"],
        "types": "btf",
    }


def check_numbers(document: dict[str, Any], witness: dict[str, Any]) -> None:
    """Compare every number of the pagemaps."""
    page_size = witness["page_size"]
    assert len(document["pgmaps"]) == len(witness["pgmaps"])
    for pgmap, truth in zip(document["pgmaps"], witness["pgmaps"], strict=True):
        vmemmap, frames = pgmap["vmemmap"], pgmap["frames"]
        pages = len(truth["frames"])
        assert pgmap["name"] == truth["name"]
        assert pgmap["type"] == TYPES[truth["mode"]]
        assert [[number(r["start"]), number(r["end"])] for r in pgmap["ranges"]] == [truth["range"]]
        assert pgmap["vmemmap_shift"] == truth["vmemmap_shift"]
        assert pgmap["compound_size"] == truth["align"]
        assert (pgmap["altmap"] is not None) == (truth["map"] == "dev")
        assert number(vmemmap["start"]) == truth["first"]
        assert number(vmemmap["end"]) == truth["first"] + pages * page_size
        assert vmemmap["pages"] == pages
        assert vmemmap["mapped"] == truth["mapped"]
        assert (vmemmap["unmapped"], vmemmap["unreadable"]) == (truth["unmapped"], 0)
        assert frames["backing"] == truth["backing"]
        assert [(int(k), v) for k, v in frames["sharing"].items()] == truth["sharing"]
        assert pgmap["saved_bytes"] == (truth["mapped"] - truth["backing"]) * page_size
        assert frames["on_device"] == (pages if truth["map"] == "dev" else 0)
        assert frames["elsewhere"] == 0


def test_every_number_is_the_witness_s(
    foreign: GuestTargets, documents: Documents, view: str
) -> None:
    document, _ = answer(foreign, documents, view, "pgmap", "--all")
    check_numbers(document, foreign.witness)


def test_inside(foreign: GuestTargets) -> None:
    """``-k`` in the guest, with Debian's Python and drgn for its architecture."""
    command = "$PYTHON -m vmemscope pgmap --all --format json -k 2>/run/errors"
    result = foreign.guest.run_python(f"{command} || {{ echo; cat /run/errors; }}", timeout=600)
    assert result.stdout.startswith("{"), result.stdout
    document, end = json.JSONDecoder().raw_decode(result.stdout)
    assert result.stdout[end:].strip() == ""
    assert document["target"]["kind"] == "live"
    assert document["summary"]["errors"] == document["summary"]["warnings"] == 0
    check_numbers(document, foreign.witness)


def test_expected_frames_and_state(foreign: GuestTargets, documents: Documents, view: str) -> None:
    document, _ = answer(foreign, documents, view, "pgmap", "--all")
    arch = NAMES[foreign.witness["arch"]]
    for pgmap, truth in zip(document["pgmaps"], foreign.witness["pgmaps"], strict=True):
        assert pgmap["frames"]["expected"] == due(foreign, truth)
        if deduplicated(foreign, truth):
            if not has_the_ppc64_bug(foreign):
                assert (pgmap["state"], pgmap["reason"]) == ("deduplicated", None)
            continue
        assert pgmap["state"] == "not-optimized"
        if truth["map"] == "dev":
            assert "altmap" in pgmap["reason"]
        elif not truth["vmemmap_shift"]:
            assert "base pages" in pgmap["reason"]
        elif foreign.witness["arch"] not in DEDUPLICATE:
            assert f"{arch} does not deduplicate" in pgmap["reason"]
        else:
            assert pgmap["reason"]


def test_findings(foreign: GuestTargets, documents: Documents, view: str) -> None:
    """A sound kernel has none; all that 6.12 for ppc64 has are symptoms of its bug."""
    document, status = answer(foreign, documents, view, "pgmap", "--all")
    findings = [
        (finding["severity"], finding["rule"])
        for one in (document, *document["pgmaps"])
        for finding in one["findings"]
    ]
    if has_the_ppc64_bug(foreign):
        bugs = {bug["pgmap"]: bug for bug in document["bugs"]}
        assert {bug["bug"] for bug in bugs.values()} == {"radix-population"}
        for one in document["pgmaps"]:
            explained = {
                symptom["rule"] for symptom in bugs.get(one["address"], {}).get("symptoms", ())
            }
            assert {finding["rule"] for finding in one["findings"]} == explained
        assert status == 1
        return
    assert [one for one in findings if one[0] != "note"] == []
    assert document["summary"]["errors"] == document["summary"]["warnings"] == 0
    # The altmap's frames are on the device, and not in a dump of RAM.
    altmap = any(truth["map"] == "dev" for truth in foreign.witness["pgmaps"])
    assert status == (4 if altmap and view == "elf" else 0)


def test_page(foreign: GuestTargets, documents: Documents, view: str) -> None:
    """A head, tails in several pages of the memory map, the last page; RAM."""
    witness = foreign.witness
    page_size, size = witness["page_size"], witness["struct_page_size"]
    per_page = page_size // size
    # A process for each page takes its time: all devices from one view.
    devices = witness["pgmaps"] if view == "elf" else witness["pgmaps"][:1]
    for truth in (*devices, *witness["ram"]):
        start, end = truth["range"]
        first, count = start // page_size, (end + 1 - start) // page_size
        indices = {0, 1, per_page + 1, 2 * per_page, count // 2 + 1, count - 1}
        for index in sorted(indices if view == "elf" else {per_page + 1}):
            what = f"{first + index:#x}"
            document, _ = answer(foreign, documents, view, "page", "--pfn", what)
            assert document["pfn"] == first + index
            assert number(document["page"]["address"]) == truth["first"] + index * size
            assert document["frame"]["pfn"] == truth["frames"][index // per_page], what
            if "vmemmap_shift" not in truth:
                assert document["pgmap"] is None
                continue
            assert document["pgmap"]["name"] == truth["name"]
            # Compound pages begin behind what is reserved for the altmap.
            if (shift := truth["vmemmap_shift"]) and truth["map"] == "mem":
                if has_the_ppc64_bug(foreign) and index % (1 << shift) >= 2 * per_page:
                    continue  # was never written to
                compound = document["page"]["compound"]
                head = index >> shift << shift
                assert compound["role"] == ("head" if index == head else "tail")
                assert compound["head_pfn"] == first + head


def test_hugetlb(foreign: GuestTargets, documents: Documents, view: str) -> None:
    document, status = answer(foreign, documents, view, "hugetlb")
    page_size = foreign.witness["page_size"]
    by_size: dict[int, list[dict[str, Any]]] = {}
    for huge in foreign.witness["hugetlb"]:
        by_size.setdefault(huge["pages"] * page_size, []).append(huge)
    hstates = {one["size"]: one for one in document["hstates"] if one["folios"]}
    assert hstates.keys() == by_size.keys()
    for size, pages in by_size.items():
        hstate = hstates[size]
        # Several that are smaller than a page of the memory map lie in one.
        mapping = {
            huge["first"] // page_size + i: pfn
            for huge in pages
            for i, pfn in enumerate(huge["frames"])
        }
        frames, mapped = set(mapping.values()), len(mapping)
        assert (hstate["folios"], hstate["free"]) == (len(pages), len(pages))
        assert hstate["pages"] == len(mapping)
        assert hstate["mapped"] == mapped
        assert hstate["frames"] == len(frames)
        assert hstate["saved_bytes"] == (mapped - len(frames)) * page_size
        optimized = [huge for huge in pages if huge["backing"] < huge["mapped"]]
        assert hstate["optimized"] == len(optimized)
        assert document["hvo"]["protected"] == (foreign.witness["arch"] != "riscv64")
        if not document["hvo"]["protected"]:
            # All are writable: those that share a frame count, all of a folio but its head's.
            assert hstate["read_only"] == sum(len(huge["frames"]) - 1 for huge in optimized)
        elif all("writable" in huge for huge in pages):
            assert hstate["read_only"] == mapped - sum(huge["writable"] for huge in pages)
    severities = {finding["severity"] for finding in document["findings"]}
    assert severities <= {"note"}
    assert status == 0


def test_memory_map(foreign: GuestTargets, documents: Documents, view: str) -> None:
    document, _ = answer(foreign, documents, view, "memmap")
    witness = foreign.witness
    boot = [area for area in document["areas"] if area["kind"] in ("zone", "unknown")]
    frames = {pfn for one in witness["boot"] for pfn in one["frames"]}
    assert sum(area["mapped"] for area in boot) == sum(one["mapped"] for one in witness["boot"])
    assert sum(area["frames"] for area in boot) == len(frames)
    maps = {area["name"]: area for area in document["areas"] if area["kind"] == "pagemap"}
    for truth in witness["pgmaps"]:
        area = maps.pop(truth["name"])
        assert area["pages"] == len(truth["frames"])
        assert area["mapped"] == truth["mapped"]
        assert area["frames"] == truth["backing"]
    assert maps == {}
    counters = {counter["name"]: counter for counter in document["counters"]}
    for name, value in witness["memmap"].items():
        assert counters[name]["value"] == value
    assert document["leaks"] == []
    assert [one for one in document["findings"] if one["severity"] != "note"] == []


def test_faults(foreign: GuestTargets) -> None:
    """Each fault is found where it is, and nothing else."""
    if has_the_ppc64_bug(foreign):
        return
    core = foreign.vmcore
    faults = list(faults_in(core, foreign.witness))
    assert len(faults) == 6
    for fault in faults:
        with planted(core, fault):
            result = vmemscope("pgmap", "--all", "--format", "json", "-c", str(core))
        document = json.loads(result.stdout)
        found = [
            (finding["rule"], number(finding["vaddr"]))
            for pgmap in document["pgmaps"]
            for finding in pgmap["findings"]
        ]
        assert found == [(fault.rule, fault.vaddr)], fault.what
        assert result.returncode == 1


def test_makedumpfile(
    foreign: GuestTargets, documents: Documents, tmp_path: Path, written: str
) -> None:
    """
    What makedumpfile of the guest's architecture wrote says the same as QEMU's dump.

    What it left out is not read, and never a finding.
    """
    format = FORMATS_FULL[written]
    path = tmp_path / "vmcore"
    if is_refused(foreign.guest.kernel.flavour, format):
        with pytest.raises(MakedumpfileError):
            made(foreign, format, path)
        return
    made(foreign, format, path)
    whole = is_right(foreign.guest.kernel.flavour, format)
    for command in (("pgmap", "--all"), ("memmap",), ("hugetlb",)):
        result = vmemscope(*command, "--format", "json", "-c", str(path))
        assert "Traceback" not in result.stderr
        expected, status = answer(foreign, documents, "elf", *command)
        if not result.stdout:
            assert not whole
            *_, error = result.stderr.splitlines()
            assert (result.returncode, error.startswith("vmemscope: error: ")) == (3, True)
            assert "filtered" in result.stderr
            continue
        document = json.loads(result.stdout)
        if comparable(document) == comparable(expected):
            assert result.returncode == status
            continue
        # From level 8 on, makedumpfile 1.7.8 may leave out what leads to pagemaps of 7.1 and later.
        assert not whole or (format.level & 8 and foreign.guest.kernel.series != "6.12")
        # The bug of 6.12 for ppc64 is an error of the whole, too.
        assert result.returncode == (1 if document["summary"].get("errors") else 4)
        assert document["summary"]["not_read"]
        assert severities(document) <= severities(expected)


def comparable(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document without what differs between two dumps of the same memory."""
    target = {key: value for key, value in document["target"].items() if key != "path"}
    return {**document, "target": target, "timings": None}


def severities(document: dict[str, Any]) -> set[tuple[str, str, str | None]]:
    """Return all findings of an audit: severity, rule and place."""
    groups = [document["findings"], *(one["findings"] for one in document.get("pgmaps", ()))]
    return {(one["severity"], one["rule"], one["vaddr"]) for group in groups for one in group}


def test_no_view_needs_a_device(foreign: GuestTargets, tmp_path: Path) -> None:
    """VMCOREINFO is found in memory, and is the one that the guest itself has."""
    path = tmp_path / "vmcoreinfo"
    result = vmemscope("vmcoreinfo", "-c", str(foreign.vmcore), "-o", str(path))
    assert result.returncode == 0, result.stderr
    assert path.read_bytes() == foreign.guest.vmcoreinfo()


def test_dump_that_is_cut_off(foreign: GuestTargets, tmp_path: Path) -> None:
    """Whatever is left is audited; nothing that is missing becomes an error."""
    whole = foreign.vmcore.stat().st_size
    for keep in (0.9, 0.5, 0.1):
        cut = tmp_path / "vmcore"
        with foreign.vmcore.open("rb") as source, cut.open("wb") as target:
            for _ in range(int(whole * keep) // MIB):
                target.write(source.read(MIB))
        result = vmemscope("pgmap", "--all", "--format", "json", "-c", str(cut))
        assert "Traceback" not in result.stderr
        if not result.stdout:
            assert result.returncode == 3
            continue
        document = json.loads(result.stdout)
        assert document["summary"]["not_read"]
        if not has_the_ppc64_bug(foreign):
            assert document["summary"]["errors"] == 0
            assert result.returncode == 4


def test_what_changes_is_reported(foreign: GuestTargets, tmp_path: Path) -> None:
    """
    ``--watch`` and ``diff`` name the device that went, and no other. The last test of a guest:
    the device does not come back.
    """
    truth = next(one for one in foreign.witness["pgmaps"] if one["vmemmap_shift"])
    name, target = truth["name"], ("--qemu", f"unix:{foreign.qmp}")
    before, after, shown = tmp_path / "before", tmp_path / "after", tmp_path / "shown"
    first = vmemscope("pgmap", "--format", "json", "-o", str(before), *target)
    assert first.returncode == has_the_ppc64_bug(foreign)
    with (
        shown.open("w") as out,
        subprocess.Popen(
            [sys.executable, "-m", "vmemscope", "pgmap", "--all", "--watch", "0.5", *target],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            # A shell lets what runs in its background ignore it, and so would this.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as watching,
    ):
        try:
            _until(lambda: shown.read_text().count("audit ") >= 2)
            foreign.guest.run(f"echo {name} > /sys/bus/dax/drivers/device_dax/unbind")
            _until(lambda: "gone: " in shown.read_text())
        finally:
            watching.send_signal(signal.SIGINT)
            timer = threading.Timer(60, watching.kill)
            timer.start()
            _, errors = watching.communicate()
            timer.cancel()
    assert "Traceback" not in errors
    gone = [line for line in shown.read_text().splitlines() if "gone: " in line]
    assert [line for line in gone if name in line]
    assert not [line for line in shown.read_text().splitlines() if "new: error" in line]
    vmemscope("pgmap", "--format", "json", "-o", str(after), *target)
    result = vmemscope("diff", str(before), str(after), "--format", "json")
    document = json.loads(result.stdout)
    assert [one["name"] for one in document["pgmaps"]["gone"]] == [name]
    assert document["worse"] == []
    assert result.returncode == 0
    names = [one["name"] for one in json.loads(after.read_text())["pgmaps"]]
    assert names == [one["name"] for one in foreign.witness["pgmaps"] if one["name"] != name]


def _until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
