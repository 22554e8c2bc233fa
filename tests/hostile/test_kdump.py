# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Kdump-compressed dumps that are damaged: a library in C reads them, so a crash is one, too.

Damage is in the headers mostly (struct disk_dump_header, struct kdump_sub_header,
notes, bitmaps, page descriptors), and anywhere; and the file ends anywhere.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests import kernels
from tests.test_kdump import kdump_file

from .answers import problems, problems_of
from .child import run
from .conftest import SEED

_CASES, _MORE = 60, 300


@pytest.fixture(scope="module")
def kdump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("kdump") / "vmcore"
    image = kernels.image("4-level", "7.2")
    pages = {
        pfn + i: page.tobytes()
        for segment in image.kernel.physical.segments()
        for pfn, rows in image.kernel.physical.rows(*segment)
        for i, page in enumerate(rows)
    }
    path.write_bytes(kdump_file(pages, compressed=True, vmcoreinfo=image.vmcoreinfo))
    return path


def test_whole(kdump: Path) -> None:
    ran = run([("pgmap", "-c", str(kdump), "--format", "json")], judge=problems_of)
    assert problems(ran) == []
    assert ran.answers[0].status == 0


def test_damage_is_answered(kdump: Path, tmp_path: Path) -> None:
    check(kdump, tmp_path, range(_CASES))


@pytest.mark.whole
def test_more_damage_is_answered(kdump: Path, tmp_path: Path) -> None:
    check(kdump, tmp_path, range(_CASES, _MORE))


def check(kdump: Path, tmp_path: Path, numbers: range) -> None:
    whole = kdump.read_bytes()
    bad = tmp_path / "vmcore"
    failed = []
    for number in numbers:
        chosen = random.Random(f"kdump {SEED} {number}")
        data = bytearray(whole)
        for _ in range(chosen.choice((1, 1, 2, 8))):
            at = chosen.randrange(chosen.choice((512, 8192, 65536, len(data))))
            new = chosen.choice((b"\0", b"\xff", b"\xff" * 4, b"\0" * 8, chosen.randbytes(8)))
            data[at : at + len(new)] = new
        if chosen.random() < 0.25:
            del data[chosen.randrange(chosen.choice((65536, len(data)))) :]
        bad.write_bytes(data)
        command = chosen.choice(
            (("memmap",), ("hugetlb",), ("page", "0x1000"), ("pgmap", "dax0.0"))
        )
        ran = run([("pgmap", "-c", str(bad), "--format", "json"), (*command, "-c", str(bad))],
                  judge=problems_of)  # fmt: skip
        failed += [f"case {number}: {problem}" for problem in problems(ran)]
    assert not failed, "\n".join(failed)
