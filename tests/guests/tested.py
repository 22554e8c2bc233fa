# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Write ``docs/tested.md``: what came out of every cell of the matrix, and of the hunts.

What came out is kept in ``tested.json`` beside this file, by series. A run with ``--full``
replaces a series of which all cells ran and came out as they had to, and leaves the others
as they are; a hunt with ``--record`` adds to the hunts of its kernel. The document is
made of all of it: ``python -m tests.guests.tested`` writes it again.
"""

from __future__ import annotations

import datetime
import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from .audited import Audited
from .matrix import BOOTS, FULL, PAGING, Cell, Key, Shape

__all__ = ("PATH", "Results", "record_hunt")

PATH = Path(__file__).parents[2] / "docs" / "tested.md"
_KEPT = Path(__file__).with_name("tested.json")

_HEAD = """\
# Tested on real kernels

Written by the tests of real kernels with `--full` (`.ci/full`) and by hunts; changes made by
hand are lost.

## The matrix

Debian's own kernels, unchanged, were booted under QEMU (TCG) with the devices below. Of each
guest an ELF dump of its RAM was made, and `vmemscope pgmap --all` audited it by
the types in its own BTF. What it counted was compared with the tests' oracle,
which goes page by page with drgn's helpers, and with what the kernel's
rules say of each device (`tests/guests/matrix.py`). A series is only written if
all of it agreed. Other dump formats, QMP and live kernels are not in it.

The oracle had the types in the column: DWARF, or BTF where Debian has no debug symbols of the
kernel any more. Then the types are the only thing that it shares with vmemscope.

| series | kernel | package | suite | paging | oracle | date |
|---|---|---|---|---|---|---|
{kernels}

"Frames" are the page frames that back the vmemmap of the device, and how many a
sound kernel takes; "pages" is the size of that vmemmap in pages of 4 KiB. Paging
has 4 levels with `-cpu qemu64`, 5 with `-cpu max`. The struct pages that lie on a
device (map=dev) are not in a dump of RAM, and are reported as not read.
"""
_TABLE = """\

### {release}

| device | paging | pages | frames | state | findings |
|---|---|---|---|---|---|
"""
_TAIL = """
Three layouts are broken by these kernels and found to be so: compound pages of
1 GiB in a range that starts off a 1 GiB boundary (7.1 and later), off a section boundary
(all), and inside a section that RAM is in, too (all). Those that look odd and are
right have no finding. What a device is left without is no pagemap: after it was
destroyed nothing of its vmemmap is mapped either. The kernels before 6.16 are built
without `CONFIG_PCI_P2PDMA`. CXL memory, here with QEMU 10 and a CPU that does not know that it
is emulated, has a driver for volatile memory since 6.3.

Device-private and device-coherent memory has no emulated device. A small module of the tests asked
6.12 (coherent only) and 7.2 for it: the memory maps were sound, and equal to what the oracle and
the kernel's counters say (`tests/guests/test_device_memory.py`).

Of the range off a section boundary `mask-alignment` would hold since 7.1, too, but is
not reported: compound pages whose frame is another's are not checked.
"""
_ARCHITECTURES = """
## Other architectures

Debian's kernels under QEMU 7.2 (TCG), each with devices and huge pages. What vmemscope counted
in an ELF dump of each was compared page by page with QEMU's own MMU (`gva2gpa`), and all audits
were sound but for the bug of 6.12 for ppc64el (`tests/guests/test_arch.py`; 7.2 in each run, the
rest with `--full`). Six faults planted in the dumps of 7.2 of
arm64, riscv64, ppc64el and s390x were each found at its address, and nothing else. While `--watch`
ran over QMP, a device was unbound: `--watch` and `diff` named that device, and no other.

| kernel | pages | CPU | devices |
|---|---|---|---|
| 6.12.118, 7.2.13 arm64 | 4 KiB | cortex-a57; 7.2.13 max, too (52 bits) | 2M, 4K, altmap, fsdax |
| 6.12.118, 7.2.13 arm64-16k | 16 KiB | max | 32M, 16K, altmap, fsdax |
| 6.12.117 (Sv57), 7.2.13 (Sv48) riscv64 | 4 KiB | rv64 | 2M, 1G, 4K, altmap, fsdax |
| 6.12.107, 7.2.13 ppc64el | 4 KiB | POWER9, radix | 2M, 1G, 4K |
| 6.12.107, 7.2.13 ppc64el-64k | 64 KiB | POWER9, radix | 2M, 1G, 64K |
| 7.2.13 s390x | 4 KiB | max (TCG has no EDAT1) | 1M, 1G, 4K |

The devices are nvdimms on arm64, pmem-region nodes on riscv64, and dax regions of a small module of
the tests on ppc64el and s390x, whose kernels have no NVDIMMs.

makedumpfile 1.7.8 of each architecture (run by qemu-user) wrote the memory of QEMU's ELF dump
anew: kdump files uncompressed and with zlib, lzo and zstd, flattened ones, and ELF, at levels 0, 1,
23 and 31, and without VMCOREINFO. vmemscope made the same JSON documents of each as of QEMU's dump,
but for what makedumpfile had left out, which was reported as not read and never a finding. Three
are makedumpfile's own troubles ([targets.md](targets.md)):

* arm64: it refuses 52 bits of virtual addresses. For the dumps with 4 KiB, it got a note that says
  48, as that CPU has; with 16 KiB (CPU max), there are none.
* riscv64: from level 2 on, the dumps lack page tables; most could not be audited.
* ppc64el with 4 KiB: at each level, but for the dump without VMCOREINFO, which is whole.

The second kernel of a crash was booted on x86-64 only: there is no dump of these architectures from
a real `/proc/vmcore`.

7.2.13 ppc64el with the hash MMU (`disable_radix`) was refused in one line, as a dump and over QMP.

Not booted: arm64 with pages of 64 KiB and loongarch64 (Debian has none with BTF), riscv64 with
Sv39, big-endian kernels but s390x, s390x with large leaves, and hardware of any of them. The first,
Sv39 and s390x with large leaves are simulated ([architectures.md](architectures.md)).
"""
_BY_HAND = """
## Tried by hand

On 2026-11-28, x86-64 guests with other parameters and uses were audited over QMP by all commands,
and compared with the witnesses of hunts (below) and QEMU's `gva2gpa`.

* 6.1, 6.12, 7.2, 7.3: memory map: `memmap=` (reserved, ACPI, in the middle of sections), `mem=`,
  `movablecore=`, `kernelcore=mirror`, `nokaslr`, `no5lvl`, `numa=fake=4` and `16`, `numa=off`,
  `crashkernel=`; 512 MiB to 8 GiB of RAM (7.2: 64 GiB); a node without memory
* 6.1, 6.12, 7.2, 7.3: debugging: `page_owner=on`, `page_poison=1`, `init_on_free=1`,
  `slub_debug=FZPU`, `debug_pagealloc=on`, kfence
* 6.1, 6.12, 7.2, 7.3: huge pages at boot of both sizes, `default_hugepagesz=1G`, `hugetlb_cma=`,
  `hugetlb_cma_only`, transparent ones under load
* 7.2: blocks of 128 MiB and of 2 GiB that hold their own memory map (`memmap_on_memory=force`),
  virtio-mem, kmem, blocks taken offline
* 6.1, 6.12, 7.2, 7.3: ext4 on fsdax in use (4 KiB pages, from 7.2 on folios of 2 MiB), devdax of
  2 MiB and 1 GiB mapped by several processes and pinned; memory failures in them
* 7.2: memory failures in huge pages in use, and pages of them taken offline (soft offline)
* 6.1, 6.12, 7.2: memory failures in frames of the vmemmap and in its page tables, also through
  `/proc/kcore`
* 7.2: huge pages allocated and freed all the time, the switch of their optimization, a device
  bound and unbound meanwhile
* 7.2: guests that QEMU has stopped, that it migrates, that panicked or end; 6.12, 7.2: that start
  again
* 6.1: Debian's flavours cloud-amd64 and rt-amd64
* 7.2: makedumpfile at each level from 0 to 31, `--split`, `--num-threads`, on a full disk; dumps
  that are still written, concatenated, compressed, sparse, pipes

It found what the changelog has under "On guests that nobody tried before". Seen and left as it
is: a sparse kdump file on a tmpfs that is full kills vmemscope by SIGBUS, since libkdumpfile maps
it; the same for a file that is cut while it is read. Of two dumps in one file, the first is
audited.
"""
_HUNTS = """
## Hunts

`python -m tests.guests hunt` changes a guest's memory at random, and audits it over QMP after
each step: `pgmap`, `hugetlb`, `memmap`, and `page` of six pages. All numbers are compared with
a walk of the page tables in QEMU's own memory files, and with the guest's `/proc` and `/sys`
(`tests/guests/hunt_model.py`). "Refused" are steps that the kernel did not do, or not all of.

| series | kernel | minutes | guests | steps | refused | guests lost | open alarms | date |
|---|---|---|---|---|---|---|---|---|
{rows}

Steps done, of all kernels: {kinds}.

Findings that a known bug of the kernel explains, of all kernels: {causes}.
{rest}"""


class _Row(NamedTuple):
    pages: str
    frames: str
    state: str
    findings: str


class Results:
    """What came out of cells."""

    def __init__(self) -> None:
        self._rows: dict[tuple[Key, str], _Row] = {}
        self._kernels: dict[str, Audited] = {}

    def record(
        self, audited: Audited, cell: Cell, shape: Shape | None, pgmap: dict[str, Any] | None
    ) -> None:
        """
        Record a cell that came out as it had to.

        :param pgmap: what the tool says of its pagemap, ``None`` if there is none
        """
        self._kernels[audited.key.series] = audited
        if shape is None or pgmap is None:
            row = _Row("-", "-", "no pagemap", "none")
        else:
            frames, pages = pgmap["frames"], pgmap["vmemmap"]["pages"]
            row = _Row(
                f"{pages}",
                f"{frames['backing']} of {frames['expected']}",
                pgmap["state"],
                _findings(pgmap) or "none",
            )
        self._rows[audited.key, cell.what] = row

    def keep(self) -> None:
        """Write down each series of which every cell came out as it had to."""
        kept = _load()
        for series, audited in self._kernels.items():
            keys = [key for key in FULL if key.series == series]
            every = {(key, cell.what) for key in keys for cell in BOOTS[key.boot].cells}
            if not every <= set(self._rows):
                continue
            kept["matrix"][series] = {
                "release": audited.release,
                "version": audited.kernel.version,
                "suite": audited.kernel.suite,
                "paging": ", ".join(dict.fromkeys(PAGING[key.cpu] for key in keys)),
                "oracle": "DWARF" if audited.kernel.has_debug_symbols else "BTF",
                "qemu": _qemu(),
                "date": _today(),
                "rows": [
                    line
                    for boot in BOOTS
                    for cell in BOOTS[boot].cells
                    for line in self._lines(series, boot, cell.what)
                ],
            }
        _save(kept)

    def _lines(self, series: str, boot: str, what: str) -> list[str]:
        # One line for all kinds of paging that gave the same.
        rows: dict[_Row, list[str]] = {}
        for key in FULL:
            if (key.series, key.boot) == (series, boot):
                rows.setdefault(self._rows[key, what], []).append(PAGING[key.cpu])
        return [
            f"| {what} | {', '.join(paging)} | {' | '.join(row)} |" for row, paging in rows.items()
        ]


def record_hunt(series: str, summary: dict[str, Any]) -> None:
    """
    Write down what came of a hunt, and add it to those before of the same kernel.

    :param summary: what :meth:`.hunt.Hunt.summary` returned
    """
    kept = _load()
    before = kept["hunts"].get(series, {})
    if before.get("release") == summary["release"]:
        for name, value in summary.items():
            if isinstance(value, dict):
                summary[name] = dict(sorted((Counter(before[name]) + Counter(value)).items()))
            elif not isinstance(value, str):
                summary[name] = before[name] + value
    kept["hunts"][series] = {**summary, "date": _today()}
    _save(kept)


def _load() -> dict[str, Any]:
    kept: dict[str, Any] = json.loads(_KEPT.read_text())
    return kept


def _save(kept: dict[str, Any]) -> None:
    for name in ("matrix", "hunts"):
        kept[name] = dict(sorted(kept[name].items(), key=lambda one: _version(one[0])))
    _KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    PATH.write_text(render(kept))


def _version(series: str) -> list[int]:
    return [int(part) for part in series.split(".")]


def render(kept: dict[str, Any]) -> str:
    """Format what is kept of matrix and hunts as a document."""
    kernels = "\n".join(
        f"| {series} | {one['release']} | {one['version']} | {one['suite']} | {one['paging']}"
        f" | {one['oracle']} | {one['date']} |"
        for series, one in kept["matrix"].items()
    )
    parts = [_HEAD.format(kernels=kernels)]
    for one in kept["matrix"].values():
        parts.append(_TABLE.format(release=one["release"]))
        parts += [f"{line}\n" for line in one["rows"]]
    return "".join([*parts, _TAIL, _ARCHITECTURES, _BY_HAND, _render_hunts(kept["hunts"])])


def _render_hunts(hunts: dict[str, Any]) -> str:
    rows = [
        f"| {series} | {one['release']} | {one['seconds'] // 60} | {one['boots']} | {one['steps']}"
        f" | {one['refused']} | {len(one['lost'])} | {len(one['alarms'])} | {one['date']} |"
        for series, one in hunts.items()
    ]
    rest = []
    for title, name in (
        ("Guests that the kernel brought down, or that stopped to answer", "lost"),
        ("Open alarms", "alarms"),
    ):
        lines = [f"* {series}: {text}\n" for series, one in hunts.items() for text in one[name]]
        rest += [f"\n{title}:\n\n", *lines] if lines else []
    return _HUNTS.format(
        rows="\n".join(rows),
        kinds=_counted(hunts, "kinds"),
        causes=_counted(hunts, "causes"),
        rest="".join(rest),
    )


def _counted(hunts: dict[str, Any], name: str) -> str:
    total: Counter[str] = Counter()
    for one in hunts.values():
        total.update(one[name])
    return "; ".join(f"{what}: {count}" for what, count in sorted(total.items())) or "none"


def _findings(pgmap: dict[str, Any]) -> str:
    counts = Counter((one["severity"], one["rule"]) for one in pgmap["findings"])
    return ", ".join(
        f"{severity} {rule}" + (f" x{count}" if count > 1 else "")
        for (severity, rule), count in counts.items()
    )


def _today() -> str:
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()


def _qemu() -> str:
    output = subprocess.run(
        ["qemu-system-x86_64", "--version"], check=True, capture_output=True, text=True
    ).stdout
    # "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)"
    return output.splitlines()[0].replace("emulator version ", "")


if __name__ == "__main__":
    _save(_load())
