# SPDX-License-Identifier: LGPL-2.1-or-later
"""The harness and the oracle, compared with each other and against arithmetic."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from drgn import FaultError, Program, ProgramFlags

from tests import oracle

from . import hosttools, packages
from .devices import FIVE_DEVICES, GIB, KIB, MIB, LegacyPmem, Nvdimm, VirtioPmem, parse_device
from .guest import Guest, GuestError, LostGuestError
from .hosttools import HostToolsError, ensure_host_packages
from .packages import KernelNotFoundError, Source, get_kernel, machine_sources
from .targets import GuestTargets

#: What has to be in memory for each of FIVE_DEVICES, in order: first and last
#: physical address of the range, its vmemmap pages, {entries that map a frame:
#: frames}, size of the leaf entries in bytes. A compound page of 2 MiB has 8
#: vmemmap pages: one head, and 7 that map one tail frame. One of 1 GiB has 4096;
#: the last of the three is cut short.
EXPECTED = (
    (0x100000000, 0x11FFFFFFF, 2048, {1: 256, 7: 256}, 4 * KIB),
    (0x120000000, 0x14FFFFFFF, 3072, {1: 3072}, 2 * MIB),
    (0x150000000, 0x1FFFFFFFF, 11264, {1: 3, 4095: 2, 3071: 1}, 4 * KIB),
    (0x210000000, 0x21FFFFFFF, 1024, {1: 1024}, 2 * MIB),
    (0x220000000, 0x25FFFFFFF, 4096, {1: 4096}, 2 * MIB),
)


def vmcoreinfo(prog: Program) -> str:
    text: bytes = prog["VMCOREINFO"].string_()
    return text.decode()


class TestBoot:
    def test_release(self, guest: GuestTargets) -> None:
        assert guest.release.startswith(f"{guest.guest.kernel.series}.")
        assert guest.guest.run("uname -r").stdout.strip() == guest.release

    def test_vmcoreinfo(self, guest: GuestTargets) -> None:
        prog = oracle.open_core(guest.vmcore, guest.vmlinux)
        assert prog.flags & ProgramFlags.IS_LINUX_KERNEL
        assert f"OSRELEASE={guest.release}\n" in vmcoreinfo(prog)
        assert "NUMBER(pgtable_l5_enabled)=1\n" in vmcoreinfo(prog)

    def test_devices(self, guest: GuestTargets) -> None:
        assert [placed.device for placed in guest.devices] == list(FIVE_DEVICES)
        namespaces = {namespace["dev"]: namespace for namespace in guest.report.namespaces}
        assert len(namespaces) == len(FIVE_DEVICES)
        for placed, (start, *_) in zip(guest.devices, EXPECTED, strict=True):
            namespace = namespaces[placed.namespace]
            assert placed.start == start
            assert namespace["mode"] == placed.device.mode
            assert namespace["map"] == placed.device.map
            assert namespace["align"] == placed.device.align
            assert placed.name in (namespace.get("chardev"), namespace.get("blockdev"))
            assert f"{start:x}-" in guest.report.iomem
        dax = {device["chardev"] for device in guest.report.dax}
        assert dax == {placed.name for placed in guest.devices if placed.device.mode == "devdax"}

    def test_command_fails(self, guest: GuestTargets) -> None:
        result = guest.guest.run("echo one; echo two >&2; exit 3", check=False)
        assert (result.returncode, result.stdout) == (3, "one\ntwo\n")
        with pytest.raises(GuestError, match=r"exit status 3.*exit 3"):
            guest.guest.run("exit 3")

    def test_qmp_command_fails(self, guest: GuestTargets) -> None:
        with pytest.raises(GuestError, match="make-coffee"):
            guest.guest.execute("make-coffee")

    def test_dump_formats(self, guest: GuestTargets) -> None:
        assert {"elf", "kdump-zlib"} <= set(guest.guest.dump_formats())

    def test_no_ram_only_kdump(self, guest: GuestTargets, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="kdump"):
            guest.guest.dump(tmp_path / "dump", "kdump-zlib", ram_only=True)


class TestOracle:
    def test_ranges(self, guest: GuestTargets) -> None:
        assert [pgmap["ranges"] for pgmap in guest.oracle] == [
            [(start, end)] for start, end, *_ in EXPECTED
        ]

    def test_names(self, guest: GuestTargets) -> None:
        assert [pgmap["name"] for pgmap in guest.oracle] == [
            placed.name for placed in guest.devices
        ]

    def test_pgmap(self, guest: GuestTargets) -> None:
        kinds = [(pgmap["type"], pgmap["vmemmap_shift"]) for pgmap in guest.oracle]
        assert kinds == [
            ("MEMORY_DEVICE_GENERIC", 9),
            ("MEMORY_DEVICE_GENERIC", 9),
            ("MEMORY_DEVICE_GENERIC", 18),
            ("MEMORY_DEVICE_FS_DAX", 0),
            ("MEMORY_DEVICE_GENERIC", 0),
        ]
        altmaps = [pgmap["altmap"] for pgmap in guest.oracle]
        assert [altmap is not None for altmap in altmaps] == [False, True, False, False, False]
        # Two pages of info block, then the struct pages, and the data begins at
        # the next multiple of 2 MiB.
        assert altmaps[1] == {
            "base_pfn": 0x120000,
            "end_pfn": 0x14FFFF,
            "reserve": 2,
            "free": 0xDFE,
            "align": 0x1FE,
            "alloc": 0xC00,
        }

    def test_vmemmap(self, guest: GuestTargets) -> None:
        for pgmap, (_, _, pages, sharing, leaf_size) in zip(guest.oracle, EXPECTED, strict=True):
            frames = sum(sharing.values())
            assert pgmap["vmemmap_pages"] == pgmap["mapped"] == len(pgmap["pfns"]) == pages
            assert (pgmap["unmapped"], pgmap["unreadable"]) == (0, 0)
            assert pgmap["sharing"] == sharing
            assert pgmap["backing"] == len(pgmap["refcounts"]) == frames
            assert pgmap["saved_bytes"] == (pages - frames) * 4096
            assert set(pgmap["leaf_sizes"]) == {leaf_size}

    def test_refcounts(self, guest: GuestTargets) -> None:
        for index, pgmap in enumerate(guest.oracle):
            counts = Counter(pgmap["refcounts"].values())
            if pgmap["altmap"] is not None:
                # The struct pages of the device's own frames are on the device.
                assert counts == {None: 3072}
            elif EXPECTED[index][4] == 4 * KIB:
                assert pgmap["refcounts"] == Counter(pgmap["pfns"])
            else:
                # A block of 2 MiB is one allocation, counted in its first page.
                blocks = pgmap["backing"] // 512
                assert counts == {1: blocks, 0: blocks * 511}

    def test_kdump_and_qmp_agree(self, guest: GuestTargets) -> None:
        def refcounts(pgmaps: list[dict[str, object]]) -> list[object]:
            return [pgmap.pop("refcounts") for pgmap in pgmaps]

        names = {placed.start: placed.name for placed in guest.devices}
        from_elf = [dict(pgmap) for pgmap in guest.oracle]
        from_kdump = oracle.audit(oracle.open_core(guest.kdump, guest.vmlinux), names)
        prog = oracle.open_qemu(guest.qmp, guest.vmlinux)
        from_qmp = oracle.audit(prog, names)
        # Free the socket for the next one.
        del prog
        gc.collect()
        counts = refcounts(from_kdump)
        assert counts == refcounts(from_qmp)
        # Both have the device's memory, too.
        assert set(counts[1].values()) == {1}  # type: ignore[attr-defined]
        del counts[1]
        others = refcounts(from_elf)
        del others[1]
        assert others == counts
        assert from_elf == from_kdump == from_qmp

    def test_unreadable_table(self, guest: GuestTargets) -> None:
        # Take the page-table page away that maps the first 512 vmemmap pages.
        prog = oracle.open_core(guest.vmcore, guest.vmlinux)
        first = guest.oracle[0]
        vmemmap = prog["vmemmap"].value_() + (EXPECTED[0][0] // 4096) * 64
        table = prog["init_mm"].pgd.value_()
        physical = False
        for shift in (48, 39, 30, 21):
            entry = prog.read_u64(table + (vmemmap >> shift & 511) * 8, physical)
            table, physical = entry & 0xFFFFFFFFFF000, True

        def excluded(address: int, count: int, offset: int, physical: bool) -> bytes:
            raise FaultError("excluded", address)

        prog.add_memory_segment(table, 4096, excluded, physical=True)
        pgmap = oracle.audit(prog)[0]
        assert (pgmap["unreadable"], pgmap["unmapped"], pgmap["mapped"]) == (512, 0, 1536)
        assert pgmap["pfns"] == [None] * 512 + first["pfns"][512:]


def test_other_devices_and_loss() -> None:
    """4-level paging, RAM on both sides of 4 GiB, the other kinds of devices."""
    devices = (
        LegacyPmem(size=256 * MIB, addr=0x110000000, mode="fsdax"),
        VirtioPmem(size=384 * MIB),
        Nvdimm(size=128 * MIB, addr=0x200000000, mode="fsdax", map="dev"),
        Nvdimm(size=640 * MIB, mode="raw"),
    )
    kernel = get_kernel("6.1")
    with (
        tempfile.TemporaryDirectory() as directory,
        Guest(kernel, devices, cpu="qemu64", memory=3 * GIB) as guest,
    ):
        report = guest.report()
        guest.dump(Path(directory) / "vmcore")
        prog = oracle.open_core(Path(directory) / "vmcore", kernel.vmlinux)
        assert "NUMBER(pgtable_l5_enabled)=0\n" in vmcoreinfo(prog)
        names = oracle.expected_names(report.iomem, report.namespaces)
        pgmaps = {pgmap["name"]: pgmap for pgmap in oracle.audit(prog, names)}
        # The kernel maps no raw namespace of the NFIT.
        legacy, virtio, altmap, raw = guest.devices
        assert set(pgmaps) == {legacy.name, virtio.name, altmap.name}
        assert raw.info["mode"] == "raw"
        for placed in legacy, virtio, altmap:
            assert pgmaps[placed.name]["ranges"][0][0] == placed.start
        assert "Persistent Memory (legacy)" in report.iomem
        assert legacy.start == 0x110000000
        assert altmap.start == 0x200000000
        assert pgmaps[virtio.name]["sharing"] == {1: 192, 7: 192}
        assert pgmaps[altmap.name]["altmap"] is not None
        assert all(pgmap["unreadable"] == 0 for pgmap in pgmaps.values())

        # The page tables are below 4 GiB or above it, and all in the dump.
        assert "100000000-10fffffff : System RAM" in report.iomem

        # Last, because there is no guest any more after it.
        with pytest.raises(LostGuestError, match="Kernel panic - not syncing: sysrq"):
            guest.run("echo c > /proc/sysrq-trigger")


def test_no_answer() -> None:
    with Guest(get_kernel("6.1"), ()) as guest:
        assert guest.devices == ()
        assert guest.report().namespaces == []
        with pytest.raises(LostGuestError, match=r"no answer within 1 s to: sleep(.|\n)*Run /init"):
            guest.run("sleep 20", timeout=1)


def test_lost_at_boot() -> None:
    guest = Guest(get_kernel("6.1"), (), parameters=("rdinit=/nonexistent",))
    with pytest.raises(LostGuestError, match=r"while it booted(.|\n)*Kernel panic"):
        guest.__enter__()


def test_bad_qemu_option() -> None:
    guest = Guest(get_kernel("6.1"), (), qemu_arguments=("-nonsense",))
    with pytest.raises(LostGuestError, match=r"did not start\n(.|\n)*-nonsense"):
        guest.__enter__()


def test_by_hand() -> None:
    command = [sys.executable, "-m", "tests.guests", "--kernel", "6.1"]
    command += ["--device", "nvdimm,size=256M,align=4K"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if match := re.match(r"try: vmemscope .* --qemu unix:(.*)", line):
                break
        else:
            pytest.fail("there was no line to try")
        socket = Path(match[1])
        assert socket.is_socket()
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        finally:
            process.kill()
    assert process.returncode == 0
    assert not socket.parent.exists()


def test_devices_of_one_size() -> None:
    kernel = get_kernel("6.1")
    with pytest.raises(ValueError, match="size"):
        Guest(kernel, (Nvdimm(size=GIB), VirtioPmem(size=GIB)))


def test_parse_device() -> None:
    assert parse_device("nvdimm,size=512M,map=dev,addr=0x1e2000000") == Nvdimm(
        size=512 * MIB, map="dev", addr=0x1E2000000
    )
    assert parse_device("memmap,size=2G,addr=0x114000000,mode=fsdax") == LegacyPmem(
        size=2 * GIB, addr=0x114000000, mode="fsdax"
    )
    for text in ("floppy", "nvdimm", "nvdimm,size=1X", "nvdimm,size=1G,mode=x", "nvdimm,size"):
        with pytest.raises(ValueError):  # noqa: PT011
            parse_device(text)


def test_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosttools, "HOST_PACKAGES", {"dpkg": "is there", "no-such-package": ""})
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    ensure_host_packages.cache_clear()
    with pytest.raises(HostToolsError, match=r"as root: apt-get install .* no-such-package$"):
        ensure_host_packages()


class TestPackages:
    def test_machine_sources(self, tmp_path: Path) -> None:
        (tmp_path / "sources.list.d").mkdir()
        (tmp_path / "sources.list").write_text(
            "# deb http://not.example/debian sid main\n"
            "deb-src http://not.example/debian sid main\n"
            "deb [arch=amd64 signed-by=/k.gpg] http://one.example/debian sid main contrib # x\n"
        )
        (tmp_path / "sources.list.d" / "a.sources").write_text(
            "Types: deb deb-src\nURIs: http://two.example/debian\n"
            "# a comment\n"
            "Suites: trixie\n trixie-updates\nComponents: main\n"
            "\n\n"
            "Types: deb\nEnabled: no\nURIs: http://not.example/\nSuites: sid\nComponents: main\n"
        )
        assert machine_sources(tmp_path) == [
            Source(("http://one.example/debian",), ("sid",), ("main", "contrib"), "/k.gpg"),
            Source(("http://two.example/debian",), ("trixie", "trixie-updates"), ("main",)),
        ]

    def test_inline_key(self, tmp_path: Path) -> None:
        (tmp_path / "sources.list.d").mkdir()
        (tmp_path / "sources.list.d" / "a.sources").write_text(
            "Types: deb\nURIs: http://one.example/\nSuites: sid\nComponents: main\n"
            "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc=\n"
        )
        (source,) = machine_sources(tmp_path)
        assert source.signed_by == " -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc="

    def test_which_is_debian(self) -> None:
        other = Source(("http://other.example",), ("bookworm",), ("main",), "/other.gpg")
        debian = Source(
            ("http://one.example",), ("bookworm",), ("main",), "/debian-archive-keyring.gpg"
        )
        security = Source(("http://two.example",), ("bookworm-security",), ("main",))
        unrelated = Source(("http://three.example",), ("nodistro",), ("main",))
        nonfree = Source(("http://four.example",), ("bookworm",), ("non-free",))
        assert packages._archives([other, unrelated, nonfree, security, debian]) == (
            [debian, other],
            [security],
        )

    def test_no_debian_archive(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("VMEMSCOPE_CACHE", str(tmp_path))
        monkeypatch.setattr(packages, "machine_sources", lambda: [])
        with pytest.raises(KernelNotFoundError, match="names no Debian archive"):
            packages.look_up("6.1")

    def test_series_gone(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("VMEMSCOPE_CACHE", str(tmp_path))
        monkeypatch.setattr(packages._Suite, "update", lambda suite: None)
        depends = {"Depends": "linux-base, linux-image-8.0.1+deb14-amd64 (= 8.0.1-1)"}
        monkeypatch.setattr(packages._Suite, "show", lambda suite, package: depends)
        with pytest.raises(
            KernelNotFoundError, match=r"no 7\.2 kernel.*sid has 8\.0\.1.*forky has 8\.0\.1"
        ):
            packages.look_up("7.2")

    def test_retries(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        # An index that does not fit, once; then one that never does.
        monkeypatch.setenv("VMEMSCOPE_CACHE", str(tmp_path))
        pauses: list[float] = []
        monkeypatch.setattr("time.sleep", pauses.append)
        failures = [True]

        def update(suite: object) -> None:
            if not failures or failures.pop():
                raise subprocess.CalledProcessError(
                    100, ["apt-get", "update"], stderr="E: Hash Sum mismatch"
                )

        monkeypatch.setattr(packages._Suite, "update", update)
        with pytest.raises(KernelNotFoundError, match="Hash Sum mismatch"):
            packages.look_up("6.1")
        assert len(pauses) == len(packages._RETRIES)

        pauses.clear()
        failures[:] = [False, True]
        depends = {"Depends": "linux-image-6.1.0-1-amd64 (= 6.1.1-1)", "Version": "6.1.1-1"}
        monkeypatch.setattr(packages._Suite, "show", lambda suite, package: depends)
        assert packages.look_up("6.1").release == "6.1.0-1-amd64"
        assert pauses == [packages._RETRIES[0]]

    def test_a_mirror_that_never_answers(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        command = tmp_path / "apt-get"
        command.write_text("#!/bin/sh\nexec sleep 60\n")
        command.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        monkeypatch.setenv("VMEMSCOPE_CACHE", str(tmp_path))
        monkeypatch.setattr(packages, "_APT_SECONDS", 1)
        with pytest.raises(subprocess.CalledProcessError) as raised:
            packages._Suite("sid")._apt("apt-get", "update")
        assert raised.value.returncode == 124

    def test_nothing_half_downloaded(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        # The second of two packages vanishes from the mirror.
        monkeypatch.setenv("VMEMSCOPE_CACHE", str(tmp_path))
        monkeypatch.setattr(packages, "_RETRIES", ())
        found = packages.Candidate("sid", "7.2.1-amd64", "7.2.1-1", ("one", "two"))
        monkeypatch.setattr(packages, "_candidates", lambda series, flavour: iter([found]))

        def download(suite: object, packages: dict[str, str], directory: Path) -> list[Path]:
            assert packages == {"one": "7.2.1-1", "two": "7.2.1-1"}
            (directory / "one.deb").touch()
            raise subprocess.CalledProcessError(100, ["apt-get", "download"], stderr="E: 404")

        monkeypatch.setattr(packages._Suite, "download", download)
        get_kernel.cache_clear()
        with pytest.raises(KernelNotFoundError, match="404"):
            get_kernel("7.2")
        get_kernel.cache_clear()
        assert os.listdir(tmp_path) == ["lock"]
