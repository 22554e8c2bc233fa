# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Every format that a dump of a real kernel comes in, whole, filtered and cut off.

A guest's memory is dumped once, by QEMU, and written anew by makedumpfile in each
format. What the tool says of each is compared with the oracle, which read
the whole dump, and against what it says of the others. Then frames are taken out,
files are cut off, and a guest crashes for a dump that QEMU has no part in.
"""

from __future__ import annotations

import functools
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from drgn import FaultError, Program
from drgn.helpers.linux.mm import follow_phys, pfn_to_page

from tests import oracle
from vmemscope import attach_btf

from . import test_pgmap
from .crash import CrashingGuest
from .guest import Guest
from .makedumpfile import makedumpfile, with_snappy
from .packages import get_kernel
from .proc_vmcore import with_kernel_addresses, without_frames
from .targets import GuestTargets
from .test_pgmap import vmemscope

#: what makedumpfile can write: its options. Level 31 leaves out pages of zeros, of
#: the page cache, of processes, and free ones; 23 keeps those of processes.
FORMATS = {
    "elf": ("-E", "-d", "0"),
    "elf-31": ("-E", "-d", "31"),
    "stored-23": ("-d", "23"),
    "zlib-31": ("-c", "-d", "31"),
    "lzo": ("-l", "-d", "0"),
    "lzo-31": ("-l", "-d", "31"),
    "zstd-23": ("-z", "-d", "23"),
    "flattened-31": ("-F", "-z", "-d", "31"),
}
#: of a real /proc/vmcore
KDUMP_FORMATS = ("elf-31", "zstd-23", "lzo-31")
PAGE = 4096


class Dumps:
    """
    The memory of one guest as files of all formats, each made when it is first asked for.

    :param directory: for dumps; belongs to the caller
    """

    def __init__(self, guest: GuestTargets, directory: Path) -> None:
        self.guest = guest
        self._directory = directory
        self._audited: dict[Path, tuple[dict[str, Any], int]] = {}

    @functools.cached_property
    def prog(self) -> Program:
        """The whole dump, with DWARF."""
        return oracle.open_core(self.guest.vmcore, self.guest.vmlinux)

    @functools.cached_property
    def proc_vmcore(self) -> Path:
        """The whole dump, with the headers that ``/proc/vmcore`` has."""
        page_offset = self.prog["page_offset_base"].value_()
        path = self._directory / "proc-vmcore"
        return with_kernel_addresses(self.guest.vmcore, path, page_offset)

    def path(self, name: str) -> Path:
        """Return a file of a format."""
        path = self._directory / name
        if not path.exists():
            if name == "snappy-23":
                with_snappy(self.path("stored-23"), path)
            else:
                makedumpfile(self.proc_vmcore, path, *FORMATS[name])
        return path

    def audit(self, path: Path, *options: str) -> tuple[dict[str, Any], int]:
        """Return what the tool says of a file, and its exit status."""
        if path not in self._audited or options:
            result = run(path, *options)
            assert result.stdout, result.stderr
            audited = json.loads(result.stdout), result.returncode
            if options:
                return audited
            self._audited[path] = audited
        return self._audited[path]


def run(path: Path | str, *options: str) -> subprocess.CompletedProcess[str]:
    return vmemscope("pgmap", "--all", "--format", "json", "-c", str(path), *options)


@pytest.fixture(scope="module")
def dumps(guest: GuestTargets) -> Iterator[Dumps]:
    with tempfile.TemporaryDirectory(prefix="vmemscope-formats-") as directory:
        yield Dumps(guest, Path(directory))


def reported(document: dict[str, Any]) -> dict[str, Any]:
    """What all views of one guest must say alike: all but what could not be read."""
    return {
        "pgmaps": [
            {key: value for key, value in pgmap.items() if key != "rules"}
            for pgmap in document["pgmaps"]
        ],
        "findings": document["findings"],
        "summary": {
            key: document["summary"][key]
            for key in (
                *("pagemaps", "vmemmap_pages", "backing_frames", "saved_bytes", "savable_bytes"),
                *("errors", "warnings", "notes", "refcounts_checked", "compounds"),
            )
        },
    }


def errors(document: dict[str, Any]) -> set[tuple[str, str | None]]:
    """All findings, each by its rule and where it is."""
    groups = [document["findings"], *(pgmap["findings"] for pgmap in document["pgmaps"])]
    return {(one["rule"], one["vaddr"]) for group in groups for one in group}


def assert_nothing_missing_is_a_finding(
    document: dict[str, Any], status: int, whole: dict[str, Any]
) -> None:
    """What is said of a part of a dump is also said of the whole, and that it is a part."""
    assert errors(document) <= errors(whole)
    known = {pgmap["address"]: pgmap for pgmap in whole["pgmaps"]}
    for pgmap in document["pgmaps"]:
        same = known[pgmap["address"]]
        assert pgmap["vmemmap"]["unmapped"] == same["vmemmap"]["unmapped"] == 0
        if not pgmap["vmemmap"]["unreadable"] and pgmap["ranges"]:
            assert pgmap["frames"] == same["frames"]
            assert pgmap["state"] == same["state"]
    assert document["summary"]["not_read"]
    assert status == (1 if document["summary"]["errors"] else 4)


def assert_one_line(result: subprocess.CompletedProcess[str]) -> None:
    """It could not be read, and that was said."""
    assert (result.returncode, result.stdout) == (3, "")
    *notes, error = result.stderr.splitlines()
    assert error.startswith("vmemscope: error: ")
    assert all(line.startswith("vmemscope: note: ") for line in notes)


def lost_pagemaps(dumps: Dumps, path: Path) -> bool:
    """Return whether a file lacks a page that leads to pagemaps, going by drgn alone."""
    prog = oracle.open_core(path, dumps.guest.vmlinux)
    try:
        found = [pgmap.read_().type.value_() for pgmap in oracle.for_each_pgmap(prog)]
    except FaultError:
        return True
    return len(found) < len(dumps.guest.oracle)


class TestWhole:
    @pytest.mark.parametrize("name", [*FORMATS, "snappy-23"])
    def test_every_number_is_the_oracles(self, dumps: Dumps, name: str) -> None:
        path = dumps.path(name)
        document, status = dumps.audit(path)
        whole, whole_status = dumps.audit(dumps.guest.vmcore)
        series = dumps.guest.guest.kernel.series
        if not_read(document) != not_read(whole) and series == "7.2" and name.endswith("-31"):
            # Of the tail pages of a slab in 7.1 and later, makedumpfile 1.7.8 takes
            # the first for one of a process: "compound_head" is called "compound_info".
            # What is on such a page is different each time.
            if lost_pagemaps(dumps, path):
                lines = not_read(document)
                assert any("XArray" in one or "dev_pagemap" in one for one in lines)
            assert_nothing_missing_is_a_finding(document, status, whole)
            return
        # In ELF files, makedumpfile leaves out no less than 256 pages in a row: nothing
        # that is audited, but the end of the section table, where nothing is.
        assert not_read(document) == not_read(whole)
        assert document["pgmaps"] == whole["pgmaps"]
        assert status == whole_status
        assert reported(document) == reported(whole)
        test_pgmap.test_every_number_is_the_oracles(dumps.guest, (document, status))

    def test_every_format_of_this_qemu(self, dumps: Dumps, tmp_path: Path) -> None:
        """Debian's QEMU has no lzo and no snappy; others have more formats."""
        guest = dumps.guest
        expected = reported(dumps.audit(guest.kdump)[0])
        for name in set(guest.guest.dump_formats()) - {"elf", "kdump-zlib", "win-dmp"}:
            path = tmp_path / name
            guest.guest.dump(path, name)  # type: ignore[arg-type]
            assert reported(dumps.audit(path)[0]) == expected
            path.unlink()

    def test_all_views_agree(self, dumps: Dumps) -> None:
        """Of one guest: ELF, kdump, makedumpfile's and QMP, with BTF and with DWARF."""
        guest = dumps.guest
        dwarf = ("-s", str(guest.vmlinux))
        qmp = vmemscope("pgmap", "--all", "--format", "json", "--qemu", f"unix:{guest.qmp}")
        qmp_dwarf = vmemscope(
            "pgmap", "--all", "--format", "json", "--qemu", f"unix:{guest.qmp}", *dwarf
        )
        views = {
            "ELF, BTF": dumps.audit(guest.vmcore)[0],
            "ELF, DWARF": dumps.audit(guest.vmcore, *dwarf)[0],
            "kdump, BTF": dumps.audit(guest.kdump)[0],
            "kdump, DWARF": dumps.audit(guest.kdump, *dwarf)[0],
            "makedumpfile, ELF, BTF": dumps.audit(dumps.path("elf"))[0],
            "makedumpfile, zstd, BTF": dumps.audit(dumps.path("zstd-23"))[0],
            "makedumpfile, zstd, DWARF": dumps.audit(dumps.path("zstd-23"), *dwarf)[0],
            "QMP, BTF": json.loads(qmp.stdout),
            "QMP, DWARF": json.loads(qmp_dwarf.stdout),
        }
        expected = reported(views["ELF, BTF"])
        for name, document in views.items():
            assert reported(document) == expected, name

    def test_frames_on_the_device_are_not_in_a_dump_of_ram(self, dumps: Dumps) -> None:
        document, status = dumps.audit(dumps.guest.vmcore)
        (truth,) = [truth for truth in dumps.guest.oracle if truth["altmap"]]
        (line,) = not_read(document)
        assert "which lie on the device" in line
        assert truth["name"] in line
        assert status in (1, 4)
        # The whole of QEMU's memory has them.
        assert not_read(dumps.audit(dumps.guest.kdump)[0]) == []


def not_read(document: dict[str, Any]) -> list[str]:
    lines: list[str] = document["summary"]["not_read"]
    return lines


#: what the audit reads on its way: where each of it is in physical memory
PLACES = (
    *("pgd", "p4d", "pud", "pmd", "pte", "head page", "tail pages", "struct page of a frame"),
    *("struct dev_pagemap", "XArray node", "section table", "section root", "resource"),
)


def places(dumps: Dumps) -> dict[str, int]:
    """Find a frame of everything that the audit reads of a deduplicated pagemap."""
    prog, truth = dumps.prog, dumps.guest.oracle[0]
    init_mm = prog["init_mm"].address_of_()
    vmemmap = pfn_to_page(prog, truth["ranges"][0][0] // PAGE).value_()
    at = {
        "head page": truth["pfns"][0] * PAGE,
        "tail pages": truth["pfns"][1] * PAGE,
        "struct page of a frame": pfn_to_page(prog, truth["pfns"][0]).value_(),
        "struct dev_pagemap": truth["address"],
        "XArray node": prog["pgmap_array"].xa_head.value_() - 2,
        "section table": prog["mem_section"].value_(),
        "section root": prog["mem_section"][0].value_(),
        "resource": prog["iomem_resource"].child.value_(),
        "pgd": init_mm.pgd.value_(),
    }
    for name, address in at.items():
        if address >> 63:
            at[name] = int(follow_phys(init_mm, address).value_())
    table = at["pgd"]
    for name, shift in (("p4d", 48), ("pud", 39), ("pmd", 30), ("pte", 21)):
        table = prog.read_u64(table + (vmemmap >> shift & 511) * 8, True) & 0x000F_FFFF_FFFF_F000
        at[name] = table
    return {name: address & -PAGE for name, address in at.items()}


class TestFiltered:
    @pytest.mark.parametrize("place", PLACES)
    def test_left_out_of_an_elf_file(self, dumps: Dumps, place: str) -> None:
        """makedumpfile -E, had it left out this frame: not a word of zeros."""
        frame = places(dumps)[place]
        whole, _ = dumps.audit(dumps.guest.vmcore)
        path = dumps.proc_vmcore
        without_frames(path, [frame])
        try:
            # The premise: for drgn, it is a frame of zeros, which it is not.
            prog = Program()
            prog.set_core_dump(str(path))
            assert prog.read(frame, PAGE, True) == bytes(PAGE)
            assert dumps.prog.read(frame, PAGE, True) != bytes(PAGE)
            result = run(path)
        finally:
            without_frames(path, [])
        assert "Traceback" not in result.stderr
        if result.stdout:
            document = json.loads(result.stdout)
            assert_nothing_missing_is_a_finding(document, result.returncode, whole)
        else:
            # Without the top of the page tables, there are no types and no sections.
            assert place in ("pgd", "p4d", "section table", "section root")
            assert_one_line(result)

    def test_flattened_elf_is_refused(self, dumps: Dumps, tmp_path: Path) -> None:
        path = makedumpfile(dumps.proc_vmcore, tmp_path / "vmcore", "-F", "-E", "-d", "31")
        result = run(path)
        assert_one_line(result)
        assert "makedumpfile -R" in result.stderr
        path.unlink()


class TestCutOff:
    @pytest.mark.parametrize("keep", [0.99, 0.5, 0.0001])
    @pytest.mark.parametrize(
        "name", ["elf-31", "stored-23", "zlib-31", "lzo-31", "zstd-23", "flattened-31", "qemu"]
    )
    def test_nothing_missing_is_a_finding(
        self, dumps: Dumps, tmp_path: Path, name: str, keep: float
    ) -> None:
        path = dumps.guest.kdump if name == "qemu" else dumps.path(name)
        cut = tmp_path / "vmcore"
        with path.open("rb") as source, cut.open("wb") as target:
            os.sendfile(target.fileno(), source.fileno(), 0, int(path.stat().st_size * keep))
        result = run(cut)
        cut.unlink()
        if name == "elf-31" and result.stdout:
            whole, _ = dumps.audit(dumps.guest.vmcore)
            document = json.loads(result.stdout)
            assert_nothing_missing_is_a_finding(document, result.returncode, whole)
        else:
            assert_one_line(result)
            assert "cut off or damaged" in result.stderr or name == "elf-31"


#: what the second kernel runs before it saves the dump, and prints of each
IN_SECOND_KERNEL = ("pgmap", "memmap", "hugetlb")
COMMANDS = "\n".join(
    f"PYTHONPATH={shlex.quote(str(Path(__file__).parents[2]))} {shlex.quote(sys.executable)}"
    f" -m vmemscope {words} --format json -c /proc/vmcore 2>/run/errors; status=$?;"
    " cat /run/errors; echo status $status"
    for words in IN_SECOND_KERNEL
)


class Crashed(GuestTargets):
    """A guest that is no more, and the dump of it that its second kernel made."""

    #: what the second kernel printed
    output: str

    def __init__(self, guest: Guest, directory: Path, vmcore: Path) -> None:
        super().__init__(guest, directory)
        # Asked for as long as there is somebody to ask.
        self.report  # noqa: B018
        self._vmcore = vmcore

    @functools.cached_property
    def vmcore(self) -> Path:
        return self._vmcore


@pytest.fixture(scope="module")
def crashed(series: str) -> Iterator[Dumps]:
    with tempfile.TemporaryDirectory(prefix="vmemscope-crash-") as name:
        directory = Path(name)
        with CrashingGuest(get_kernel(series), directory) as guest:
            targets = Crashed(guest, directory, directory / "vmcore")
            status, targets.output = guest.crash(targets.vmcore, COMMANDS)
            assert status == 0
        yield CrashedDumps(targets, directory)


class CrashedDumps(Dumps):
    @functools.cached_property
    def proc_vmcore(self) -> Path:
        return self.guest.vmcore


class TestKdump:
    """``/proc/vmcore`` as the kernel itself makes it, with the kernel's image in it twice."""

    def test_every_number_is_the_oracles(self, crashed: Dumps) -> None:
        document, status = crashed.audit(crashed.guest.vmcore)
        test_pgmap.test_target(crashed.guest, "elf-btf", (document, status))
        test_pgmap.test_every_number_is_the_oracles(crashed.guest, (document, status))
        test_pgmap.test_expected_frames_and_state(crashed.guest, (document, status))
        test_pgmap.test_findings_are_what_drgn_sees(crashed.guest, "elf-btf", (document, status))
        (line,) = not_read(document)
        assert "which lie on the device" in line

    def test_audits_in_the_second_kernel(self, crashed: Dumps) -> None:
        assert isinstance(crashed.guest, Crashed)
        output = crashed.guest.output
        for words in IN_SECOND_KERNEL:
            document, end = json.JSONDecoder().raw_decode(output)
            output = output[end:].lstrip()
            assert document["target"]["kind"] == "core"
            assert document["target"]["path"] == "/proc/vmcore"
            copied = vmemscope(*words.split(), "--format", "json", "-c", str(crashed.guest.vmcore))
            whole = json.loads(copied.stdout)
            for one in (document, whole):
                del one["target"]["path"]
                one["timings"] = None
            assert document == whole
            said = f"{copied.stderr}status {copied.returncode}\n"
            assert output.startswith(said)
            output = output.removeprefix(said)
        assert output == ""

    @pytest.mark.parametrize("name", [None, "zstd-23", "flattened-31"])
    def test_the_registers_of_the_crash(self, crashed: Dumps, name: str | None) -> None:
        """They are where panic() saved them (crash_setup_regs()); SysRq is about no memory."""
        path = crashed.guest.vmcore if name is None else crashed.path(name)
        document = json.loads(vmemscope("report", "--format", "json", "-c", str(path)).stdout)
        registers = {one["name"]: int(one["value"], 16) for one in document["cpu"]["registers"]}
        prog = Program()
        prog.set_core_dump(crashed.guest.vmcore)
        attach_btf(prog)
        assert prog.symbol(registers["RIP"]).name == "__crash_kexec"
        assert document["cpu"]["cpu"] == prog["panic_cpu"].counter.value_()
        assert document["log"]["messages"] > 100
        assert document["log"]["events"] == []
        assert document["pages"] == []

    @pytest.mark.parametrize("name", KDUMP_FORMATS)
    def test_makedumpfile(self, crashed: Dumps, name: str) -> None:
        TestWhole().test_every_number_is_the_oracles(crashed, name)
