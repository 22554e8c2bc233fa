# SPDX-License-Identifier: LGPL-2.1-or-later
"""
``vmemscope report`` on real kernels: what their logs say, and what the pages are.

A guest is sound at first, seen while it runs. Then memory fails, of RAM and of a device, as
the kernel lets an administrator say; it is dumped, and the report must explain these pages.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from drgn import Object, Program
from drgn.helpers.linux.mm import PFN_PHYS, page_to_pfn, pfn_to_page
from drgn.helpers.linux.printk import get_printk_records

import vmemscope
from vmemscope.kernel.printk import read_log

from .devices import FIVE_DEVICES, MIB, Nvdimm
from .guest import Guest
from .matrix import at_least
from .packages import get_kernel
from .targets import GuestTargets

#: pages of RAM that may be free, far from what a kernel takes at first
CANDIDATES = range(0x20000, 0x24000, 0x111)
_OFFLINE = "/sys/devices/system/memory/hard_offline_page"


@dataclass(frozen=True)
class Poisoned:
    """What a guest was, and its dump after memory failed."""

    #: report on the running guest, before
    before: dict[str, Any]
    status_before: int
    core: Path
    #: what the guest's own dmesg prints
    dmesg: str
    #: pfn in RAM that was offlined, and pfn of the device
    ram: int
    device: int


def report(*options: str, form: str = "json") -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "vmemscope", "report", "-q", "--format", form, *options]
    return subprocess.run(words, capture_output=True, text=True, timeout=300)


def offline(guest: Guest, pfn: int) -> str:
    """Say that a page's memory failed; return what the kernel says of it."""
    guest.run(f"echo {pfn * 4096:#x} > {_OFFLINE}", check=False)
    lines = guest.run("dmesg").stdout.splitlines()
    return "\n".join(line for line in lines if f"Memory failure: {pfn:#x}: " in line)


@pytest.fixture(scope="module")
def poisoned(series: str) -> Iterator[Poisoned]:
    device = Nvdimm(size=512 * MIB, mode="devdax", map="mem", align=2 * MIB)
    with tempfile.TemporaryDirectory(prefix="vmemscope-report-") as name:
        core = Path(name) / "vmcore"
        with Guest(get_kernel(series), [device]) as guest:
            before = report("--qemu", f"unix:{guest.qmp}")
            assert before.stdout, before.stderr
            ram = next(pfn for pfn in CANDIDATES if "Recovered" in offline(guest, pfn))
            first = re.search(r"^ *([0-9a-f]+)-[0-9a-f]+ : dax0.0$", guest.report().iomem, re.M)
            assert first is not None
            pfn = int(first[1], 16) // 4096 + 3
            assert "dax page" in offline(guest, pfn)
            dmesg = guest.run("dmesg").stdout
            guest.dump(core)
        yield Poisoned(json.loads(before.stdout), before.returncode, core, dmesg, ram, pfn)


@pytest.fixture(scope="module")
def prog(poisoned: Poisoned) -> Program:
    """The dump, for drgn's own helpers."""
    prog = Program()
    prog.set_core_dump(poisoned.core)
    vmemscope.attach_btf(prog)
    return prog


#: maps the device and reads from it, which a bug of 7.1 and newer turns into SIGBUS
MAP = """
import mmap, os
memory = mmap.mmap(os.open("/dev/dax1.0", os.O_RDWR), 1 << 30, mmap.MAP_SHARED)
memory[0:4]
"""


def test_from_a_warning_to_its_cause(tmp_path: Path) -> None:
    """
    A process gets SIGBUS of a device, and the kernel a warning with a struct page in a register.

    That page is a tail that finds a wrong head, as the device's compound pages are not aligned.
    """
    core = tmp_path / "vmcore"
    with Guest(get_kernel("7.2"), FIVE_DEVICES, host_files=True) as guest:
        done = guest.run_on_host_files(shlex.join([sys.executable, "-c", MAP]), check=False)
        assert "Bus error" in done.stdout
        dmesg = guest.run("dmesg").stdout
        guest.dump(core)
    warning = re.search(r"^\[ *([0-9.]+)\] WARNING: .* vmf_insert_folio_pud\+", dmesg, re.M)
    register = re.search(r"\bRAX: ([0-9a-f]{16})\b", dmesg)
    assert warning is not None
    assert register is not None
    prog = Program()
    prog.set_core_dump(core)
    vmemscope.attach_btf(prog)
    pfn = page_to_pfn(Object(prog, "struct page *", int(register[1], 16))).value_()

    document = json.loads(report("-c", str(core)).stdout)
    (event,) = document["log"]["events"]
    assert event["kind"] == "warning"
    assert event["time"] == pytest.approx(float(warning[1]), abs=1e-5)
    assert event["functions"][0] == "vmf_insert_folio_pud"
    assert event["pages"] == [pfn]
    (page,) = document["pages"]
    assert page["bugs"] == ["mask-unaligned"]
    assert {one["finding"]["rule"] for one in page["findings"]} >= {"mask-alignment"}
    lines = document["verdict"]["lines"]
    assert lines[0].startswith("kernel bug mask-unaligned in dax1.0: ")
    assert f"vmf_insert_folio_pud() about a page of it (pfn {pfn:#x})" in " ".join(lines)


def test_a_known_bug_leads(guest: GuestTargets) -> None:
    """Of five devices, one has pages of 1 GiB that are not aligned to their size."""
    document = json.loads(report("-c", str(guest.vmcore)).stdout)
    lines = document["verdict"]["lines"]
    assert len(lines) <= 10
    if at_least(guest.guest.kernel.series, "7.1"):
        assert lines[0].startswith("kernel bug mask-unaligned in dax1.0: ")
        assert "what to do: make the namespace start at a multiple of its alignment" in lines
    else:
        assert not document["pgmap"]["bugs"]
        # The device with an altmap is not in the dump.
        assert lines[0] == "nothing is wrong in what could be read"
        assert document["verdict"]["state"] == "partial"


def test_a_sound_guest_has_three_lines(poisoned: Poisoned) -> None:
    verdict = poisoned.before["verdict"]
    assert (poisoned.status_before, verdict["state"]) == (0, "sound")
    assert len(verdict["lines"]) == 3
    assert poisoned.before["log"]["events"] == []
    assert poisoned.before["log"]["messages"] > 100


def test_the_log_is_what_the_guest_prints(poisoned: Poisoned, prog: Program) -> None:
    log = read_log(prog)
    assert log.missed == ()
    ours = [
        f"[{one.time // 10**9:5d}.{one.time % 10**9 // 1000:06d}] {line}"
        for one in log.messages
        for line in one.text.split("\n")
    ]
    assert ours == [line[:15] + line[15:].expandtabs() for line in poisoned.dmesg.splitlines()]
    assert [one.time for one in log.messages] == [one.timestamp for one in get_printk_records(prog)]


def test_failed_memory_is_explained(poisoned: Poisoned, prog: Program) -> None:
    done = report("-c", str(poisoned.core))
    document = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    pages = {page["pfn"]: page for page in document["pages"]}
    assert {poisoned.ram, poisoned.device} <= pages.keys()
    # drgn says that the kernel marked it.
    flag = 1 << prog.constant("PG_hwpoison").value_()
    assert prog.read_u64(pfn_to_page(prog, poisoned.ram).value_()) & flag
    ram = pages[poisoned.ram]["page"]
    assert ram["physical"] == hex(PFN_PHYS(prog, poisoned.ram).value_())
    assert "poisoned: its memory failed (PG_hwpoison)" in ram["state"]
    device = pages[poisoned.device]["page"]
    assert device["pgmap"]["name"] == "dax0.0"
    for pfn in (poisoned.ram, poisoned.device):
        (event,) = [one for one in document["log"]["events"] if pfn in one["pages"]]
        assert event["kind"] == "memory failure"
        assert f"Memory failure: {pfn:#x}: recovery action" in " ".join(event["lines"])
        stamp = f"[{event['time']:12.6f}] {event['lines'][0]}"
        assert stamp[:10] in poisoned.dmesg
    assert document["verdict"]["state"] == "trouble"
    # The kernel may not have been able to give others up: the verdict has the first few.
    named = " ".join(document["verdict"]["lines"])
    assert all(f"{page['pfn']:#x}" in named for page in document["pages"][:4])


def test_the_html_document_has_them(poisoned: Poisoned, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    assert report("-c", str(poisoned.core), "-o", str(path), form="html").returncode == 0
    text = path.read_text()
    for pfn in (poisoned.ram, poisoned.device):
        assert f'id="pfn-{pfn:#x}"' in text
    assert len(text) < 2 << 20


def test_at_drgns_prompt(poisoned: Poisoned) -> None:
    """drgn has no types of this kernel: they come from its BTF."""
    code = (
        "from drgn.commands import run_command\n"
        f"run_command(prog, 'vmemscope page {poisoned.ram:#x}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "drgn", "-q", "-c", str(poisoned.core), "-e", code],
        capture_output=True,
        text=True,
        timeout=300,
        # vmemscope's command line, in this process, needs no commands of drgn's.
        env={name: value for name, value in os.environ.items() if name != "DRGN_DISABLE_PLUGINS"},
    )
    assert "poisoned: its memory failed (PG_hwpoison)" in done.stdout, done.stderr
