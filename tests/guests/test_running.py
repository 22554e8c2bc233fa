# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A kernel that runs while it is audited: from inside, and over QMP.

One guest for each kernel. What the tool says is compared with the oracle on a
dump made at that moment; then devices come and go under it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from . import test_pgmap
from .devices import KIB, MIB, Nvdimm
from .guest import Guest
from .packages import get_kernel
from .targets import GuestTargets
from .test_pgmap import vmemscope

#: Sound on all kernels, and small: a guest without KVM audits itself slowly.
DEVICES = (
    Nvdimm(size=384 * MIB, align=2 * MIB),
    Nvdimm(size=256 * MIB, align=2 * MIB, map="dev"),
    Nvdimm(size=192 * MIB, mode="fsdax"),
    Nvdimm(size=320 * MIB, align=4 * KIB),
)
ROOT = Path(__file__).parents[2]
PYTHON = f"PYTHONPATH={shlex.quote(str(ROOT))} {shlex.quote(sys.executable)}"
NOBODY = 65534
#: of a program of another user that can read files, wherever on the host the
#: virtual environment is, and nothing else
AS_NOBODY = (
    *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
    *("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"),
)
#: seconds that a guest may take for what its host does in one
PATIENCE = 600
#: seconds that devices come and go while they are audited
SECONDS = 15


def inside(
    guest: Guest, *options: str, user: int = 0, timeout: float = PATIENCE
) -> subprocess.CompletedProcess[str]:
    """Run the command line in the guest, on the kernel that it runs on."""
    # Output of both kinds comes as one; an error has only one of them.
    command = f"{PYTHON} -m vmemscope {shlex.join(options)}"
    return guest.run_on_host_files(command, user=user, timeout=timeout, check=False)


@pytest.fixture(scope="module")
def running(series: str) -> Iterator[GuestTargets]:
    with (
        tempfile.TemporaryDirectory(prefix="vmemscope-dumps-") as directory,
        # Two CPUs: one for the audit, one for what changes.
        Guest(get_kernel(series), DEVICES, host_files=True, qemu_arguments=("-smp", "2")) as booted,
    ):
        yield GuestTargets(booted, Path(directory))


def same(document: dict[str, Any]) -> list[dict[str, Any]]:
    """What all ways to audit one guest must say alike: not which rules could be checked."""
    return [{**pgmap, "rules": None} for pgmap in document["pgmaps"]]


class TestAtRest:
    """Nothing comes or goes."""

    def test_live_is_the_oracles(self, running: GuestTargets) -> None:
        result = inside(running.guest, "pgmap", "--all", "--format", "json")
        assert result.stdout.startswith("{"), result.stdout
        document = json.loads(result.stdout)
        assert document["target"]["kind"] == "live"
        assert document["target"]["types"] == "btf"
        assert document["target"]["osrelease"] == running.release
        audited = document, result.returncode
        test_pgmap.test_every_number_is_the_oracles(running, audited)
        test_pgmap.test_expected_frames_and_state(running, audited)
        # Each frame of a base page, and the first of each large leaf.
        counted = sum(
            len(
                {
                    p
                    for p, size in zip(truth["pfns"], truth["leaf_sizes"], strict=True)
                    if size == 4096
                }
            )
            + truth["leaf_sizes"].count(2 << 20) // 512
            for truth in running.oracle
            if not truth["altmap"]
        )
        assert document["summary"]["refcounts_checked"] == counted
        assert document["summary"]["refcounts_unreadable"] == 0
        # The struct pages of the altmap are on the device, which /proc/kcore has not.
        (truth,) = [truth for truth in running.oracle if truth["altmap"]]
        heads = truth["vmemmap_pages"] * 64 - test_pgmap.offset(truth) >> truth["vmemmap_shift"]
        assert document["summary"]["compounds_unreadable"] == heads
        assert document["summary"]["not_read"] == [
            f"compound pages, which lie on the device, of {truth['name']}: {heads}"
        ]
        assert result.returncode == 4

        # The same from outside, where the device can be read.
        from_qmp = vmemscope("pgmap", "--all", "--format", "json", "--qemu", f"unix:{running.qmp}")
        assert from_qmp.returncode == 0, from_qmp.stderr
        from_dump = vmemscope("pgmap", "--all", "--format", "json", "-c", str(running.vmcore))
        assert same(document) == same(json.loads(from_qmp.stdout))
        assert same(document) == same(json.loads(from_dump.stdout))

    def test_live_without_root(self, running: GuestTargets) -> None:
        result = inside(running.guest, "pgmap", "--all", user=NOBODY)
        assert result.returncode == 3
        assert re.fullmatch(
            r"vmemscope: error: not permitted to read /proc/kcore; run as root.*\n", result.stdout
        )

    def test_qmp_says_how_long_the_guest_was_paused(self, running: GuestTargets) -> None:
        with running.guest.recorded_events() as events:
            result = vmemscope("pgmap", "--all", "--qemu", running.qmp)
        assert result.returncode == 0
        assert [name for name, _ in events] == ["STOP", "DUMP_COMPLETED", "RESUME"]
        paused = events[2][1] - events[0][1]
        reported = re.fullmatch(
            r"vmemscope: note: the guest was paused for ([0-9.]+) ms .*\n", result.stderr
        )
        assert reported is not None
        assert float(reported[1]) == pytest.approx(paused * 1000, abs=0.06)

    def test_qmp_saved_note_spares_the_pause(self, running: GuestTargets, tmp_path: Path) -> None:
        note = tmp_path / "note"
        with running.guest.recorded_events() as events:
            saved = vmemscope("vmcoreinfo", "--qemu", running.qmp, "-o", str(note))
        assert (saved.returncode, saved.stdout) == (0, "")
        assert events
        with running.guest.recorded_events() as events:
            result = vmemscope("pgmap", "--qemu", running.qmp, "--vmcoreinfo", str(note))
        assert (result.returncode, result.stderr) == (0, "")
        assert events == []

    def test_qmp_of_a_guest_that_is_stopped(self, running: GuestTargets) -> None:
        running.guest.execute("stop")
        try:
            result = vmemscope("pgmap", "--all", "--qemu", running.qmp)
            assert (result.returncode, result.stderr) == (0, "")
            assert running.guest.execute("query-status")["running"] is False
        finally:
            running.guest.execute("cont")

    def test_qmp_by_the_monitor_reads_memory_and_nothing_else(
        self, running: GuestTargets, tmp_path: Path
    ) -> None:
        """Another user may not read QEMU's memory: slow, said so, and each read recorded."""
        with recorded_monitor(running.qmp, tmp_path) as (path, commands):
            options = ("pgmap", "--all", "--format", "json", "--qemu", path)
            result = subprocess.run(
                [*AS_NOBODY, sys.executable, "-m", "vmemscope", *options],
                capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT,
            )  # fmt: skip
        assert result.returncode == 0, result.stderr
        assert "reads are slow: they go through the monitor" in result.stderr
        assert "process_vm_readv" in result.stderr
        fast = vmemscope("pgmap", "--all", "--format", "json", "--qemu", running.qmp)
        assert same(json.loads(result.stdout)) == same(json.loads(fast.stdout))

        reads = [
            (int(address, 16), int(count))
            for count, address in re.findall(r"xp /(\d+)xb (0x[0-9a-f]+)", "\n".join(commands))
        ]
        assert len(reads) > 1000
        allowed = [
            (int(start, 16), int(end, 16))
            for start, end in re.findall(
                r"^([0-9a-f]+)-([0-9a-f]+) : System RAM$", running.report.iomem, re.M
            )
        ]
        allowed += [pair for truth in running.oracle for pair in truth["ranges"]]
        outside = [
            (hex(address), count)
            for address, count in reads
            if not any(s <= address and address + count - 1 <= e for s, e in allowed)
        ]
        assert outside == []


@contextmanager
def recorded_monitor(qmp: str, directory: Path) -> Iterator[tuple[str, list[str]]]:
    """
    Stand between a monitor and its clients.

    :param qmp: path of the monitor's socket
    :return: path of a socket that everybody may use, and all that came in there
    """
    commands: list[str] = []

    def carry(source: socket.socket, target: socket.socket, record: bool) -> None:
        while True:
            # File descriptors go along with the bytes they came with.
            data, descriptors, _, _ = socket.recv_fds(source, 1 << 16, 4)
            if not data:
                break
            if record:
                commands.append(data.decode())
            socket.send_fds(target, [data], descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
        target.shutdown(socket.SHUT_WR)

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client, socket.socket(socket.AF_UNIX) as monitor:
                monitor.connect(qmp)
                back = threading.Thread(target=carry, args=(monitor, client, False))
                back.start()
                carry(client, monitor, True)
                back.join()

    # Not below pytest's directory, which is closed to others.
    with (
        tempfile.TemporaryDirectory(prefix="vmemscope-qmp-") as open_directory,
        socket.socket(socket.AF_UNIX) as listener,
    ):
        path = f"{open_directory}/qmp"
        os.chmod(open_directory, 0o755)
        listener.bind(path)
        os.chmod(path, 0o666)
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield path, commands
        finally:
            # Wakes accept() up.
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


#: Takes devices away from their drivers and gives them back. In between, there
#: is time for a pass that is not disturbed, but not for two.
CHURN = """
cd /sys/bus
dax=$1 namespace=$2
while [ ! -e /tmp/stop ]; do
	echo $dax >dax/drivers/device_dax/unbind
	echo $dax >dax/drivers/device_dax/bind
	echo x >>/tmp/cycles.dax
	usleep 50000
done &
while [ ! -e /tmp/stop ]; do
	echo $namespace >nd/drivers/nd_pmem/unbind
	echo $namespace >nd/drivers/nd_pmem/bind
	echo x >>/tmp/cycles.pmem
	usleep 200000
done &
"""

#: Audits again and again, in one process: Python takes long to start in a guest.
WATCH = """
import contextlib, io, json, sys, time
from vmemscope.cli.main import main
end, audits = time.monotonic() + float(sys.argv[1]), 0
while time.monotonic() < end or audits < 2:
    audits += 1
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["pgmap", "--all", "--format", "json"])
    print(json.dumps([status, out.getvalue(), err.getvalue()]))
"""


@pytest.fixture(scope="module")
def audits(running: GuestTargets) -> dict[str, list[tuple[int, str, str]]]:
    """What was said in the meantime, by way to audit: exit status, output, errors."""
    guest = running.guest
    dax, _, pmem, _ = running.devices
    # What the driver has is not the namespace but what its info block makes of it.
    (bound,) = guest.run(
        f"for d in /sys/bus/nd/drivers/nd_pmem/*; do [ -e $d/block/{pmem.name} ]"
        " && basename $(readlink -f $d); done; true"
    ).stdout.split()
    guest.run(f"set -- {dax.name} {bound}; ({CHURN}) >/tmp/churn.log 2>&1")
    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(
            guest.run_on_host_files,
            f"{PYTHON} -c {shlex.quote(WATCH)} {SECONDS}",
            timeout=PATIENCE,
        )
        over_qmp = []
        while not watching.done():
            result = vmemscope("pgmap", "--format", "json", "--qemu", running.qmp)
            over_qmp.append((result.returncode, result.stdout, result.stderr))
            # Leave the guest some time.
            time.sleep(1)
        output = watching.result().stdout
    guest.run("touch /tmp/stop; wait")
    cycles = guest.run("wc -l /tmp/cycles.*").stdout
    print(f"{running.release}: {cycles}, {len(over_qmp)} audits over QMP")
    assert all(int(n) > 5 for n in re.findall(r"^ *(\d+) /tmp", cycles, re.M))
    live = [tuple(json.loads(line)) for line in output.splitlines()]
    return {"live": live, "qmp": over_qmp}


class TestChanging:
    """Devices come and go: nothing that is on its way may be taken for wrong."""

    @pytest.mark.parametrize("way", ["live", "qmp"])
    def test_no_false_alarm(self, audits: dict[str, list[tuple[int, str, str]]], way: str) -> None:
        assert len(audits[way]) >= 2
        for status, output, errors in audits[way]:
            assert "Traceback" not in errors
            assert "error" not in errors
            document = json.loads(output)
            wrong = [
                (pgmap["name"], finding)
                for pgmap in document["pgmaps"]
                for finding in pgmap["findings"]
            ]
            assert wrong == []
            assert document["findings"] == []
            assert status in (0, 4)
            assert (status == 4) == bool(document["summary"]["not_read"])

    @pytest.mark.parametrize("way", ["live", "qmp"])
    def test_what_stays_is_reported(
        self, running: GuestTargets, audits: dict[str, list[tuple[int, str, str]]], way: str
    ) -> None:
        """Pagemaps that stay are reported in full, and those that come and go as they should be."""
        staying = {running.devices[1].name, running.devices[3].name}
        expected = {truth["name"]: truth["backing"] for truth in running.oracle}
        for _, output, _ in audits[way]:
            document = json.loads(output)
            assert staying <= {pgmap["name"] for pgmap in document["pgmaps"]}
            for pgmap in document["pgmaps"]:
                if pgmap["state"] == "unreadable":
                    assert pgmap["name"] not in staying
                    assert "set up or torn down" in pgmap["reason"]
                elif pgmap["name"] in expected:
                    assert pgmap["frames"]["backing"] == expected[pgmap["name"]]


class TestLast:
    """What can't be undone."""

    def test_live_under_lockdown(self, running: GuestTargets) -> None:
        lockdown = "/sys/kernel/security/lockdown"
        running.guest.run_on_host_files(f"echo confidentiality >{lockdown}")
        result = inside(running.guest, "pgmap", "--all")
        assert result.returncode == 3
        assert re.fullmatch(
            r"vmemscope: error: not permitted to read /proc/kcore; the kernel is locked down"
            r" \(confidentiality\).*\n",
            result.stdout,
        )


def test_what_keeps_a_guest_from_being_looked_at(tmp_path: Path) -> None:
    """
    No ``-device vmcoreinfo``, a socket that is in use, TCP.

    Against the first and the last, a note helps that was saved inside.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        tcp = f"127.0.0.1:{probe.getsockname()[1]}"
    with Guest(
        get_kernel("6.1"),
        (),
        host_files=True,
        vmcoreinfo=False,
        qemu_arguments=("-qmp", f"tcp:{tcp},server=on,wait=off"),
    ) as guest:
        # Its memory has the note, which takes no device and no pause.
        with guest.recorded_events() as events:
            start = time.monotonic()
            result = vmemscope("pgmap", "--all", "--qemu", guest.qmp)
            print(f"VMCOREINFO by scan: {time.monotonic() - start:.2f} s")
        assert result.returncode == 0, result.stderr
        assert f"Linux {guest.release}" in result.stdout
        assert "VMCOREINFO was found in memory at physical address 0x" in result.stderr
        assert [name for name, _ in events if name in ("STOP", "RESUME")] == []
        for format in ("elf", "kdump-zlib"):
            core = tmp_path / format
            guest.dump(core, format)
            result = vmemscope("pgmap", "--all", "-c", str(core))
            assert result.returncode == 0, result.stderr
            assert f"Linux {guest.release}" in result.stdout
            assert "VMCOREINFO was found in memory at physical address 0x" in result.stderr
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(guest.qmp)
            assert b"QMP" in other.recv(1000)
            start = time.monotonic()
            result = vmemscope("pgmap", "--all", "--qemu", guest.qmp)
            assert time.monotonic() - start < 15
        assert (result.returncode, result.stdout) == (3, "")
        assert re.fullmatch(
            r"vmemscope: error: no answer.*; a monitor serves one client at a time.*\n",
            result.stderr,
        )
        result = vmemscope("pgmap", "--all", "--qemu", tcp)
        assert (result.returncode, result.stdout) == (3, "")
        assert re.fullmatch(r"vmemscope: error: .* TCP .*--vmcoreinfo\n", result.stderr)

        saved = guest.run_on_host_files(
            f"{PYTHON} -m vmemscope vmcoreinfo -o /run/note && cat /run/note", timeout=PATIENCE
        )
        note = tmp_path / "note"
        note.write_text(saved.stdout)
        for address in (guest.qmp, tcp):
            result = vmemscope("pgmap", "--all", "--qemu", address, "--vmcoreinfo", str(note))
            assert result.returncode == 0, result.stderr
            assert f"Linux {guest.release}" in result.stdout
            assert ("reads are slow" in result.stderr) == (address == tcp)
