# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Write ``docs/tested.md``: what came out of every cell of the matrix.

The file is written by a run of the whole matrix, and only by one in which every
cell came out as it had to; a run of a part leaves it as it is.
"""

from __future__ import annotations

import datetime
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from .audited import Audited
from .matrix import BOOTS, FULL, PAGING, Cell, Key, Shape

__all__ = ("PATH", "Results")

PATH = Path(__file__).parents[2] / "docs" / "tested.md"

_HEAD = """\
# Tested on real kernels

Written by the tests of real kernels with `--full` (`.ci/full`) on {date};
changes made by hand are lost.

Debian's own kernels, unchanged, were booted under
{qemu} (TCG) with the devices below. Of each
guest an ELF dump of its RAM was made, and `vmemscope pgmap --all` audited it by
the types in its own BTF. What it counted was compared with the tests' oracle,
which goes page by page with drgn's helpers and DWARF, and with what the kernel's
rules say of each device (`tests/guests/matrix.py`). This file is only written if
all of it agreed. Other dump formats, QMP and live kernels are not in it.

| series | kernel | package | suite |
|---|---|---|---|
{kernels}

"Frames" are the page frames that back the vmemmap of the device, and how many a
sound kernel takes; "pages" is the size of that vmemmap in pages of 4 KiB. Paging
has 4 levels with `-cpu qemu64`, 5 with `-cpu max`. The struct pages that lie on a
device (map=dev) are not in a dump of RAM, and are reported as not read.
"""
_TABLE = """\

## {release}

| device | paging | pages | frames | state | findings |
|---|---|---|---|---|---|
"""
_TAIL = """
Three layouts are broken by these kernels and found to be so: compound pages of
1 GiB in a range that starts off a 1 GiB boundary (7.2), off a section boundary
(all), and inside a section that RAM is in, too (all). Those that look odd and are
right have no finding. What a device is left without is no pagemap: after it was
destroyed nothing of its vmemmap is mapped either. The kernels before 7.2 are built
without `CONFIG_PCI_P2PDMA`.

Of the range off a section boundary `mask-alignment` would hold on 7.2, too, but is
not reported: compound pages whose frame is another's are not checked.
"""


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

    @property
    def complete(self) -> bool:
        """Whether every cell of the whole matrix has come out as it had to."""
        every = {(key, cell.what) for key in FULL for cell in BOOTS[key.boot].cells}
        return every == set(self._rows)

    def render(self) -> str:
        """Format all cells; only of a complete matrix."""
        kernels = "\n".join(
            f"| {series} | {audited.release} | {audited.kernel.version} | {audited.kernel.suite} |"
            for series, audited in self._kernels.items()
        )
        parts = [_HEAD.format(date=_today(), qemu=_qemu(), kernels=kernels)]
        for series, audited in self._kernels.items():
            parts.append(_TABLE.format(release=audited.release))
            for boot in BOOTS:
                for cell in BOOTS[boot].cells:
                    parts += self._lines(series, boot, cell.what)
        return "".join([*parts, _TAIL])

    def _lines(self, series: str, boot: str, what: str) -> list[str]:
        # One line for all kinds of paging that gave the same.
        rows: dict[_Row, list[str]] = {}
        for key in FULL:
            if (key.series, key.boot) == (series, boot):
                rows.setdefault(self._rows[key, what], []).append(PAGING[key.cpu])
        return [
            f"| {what} | {', '.join(paging)} | {' | '.join(row)} |\n"
            for row, paging in rows.items()
        ]


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
