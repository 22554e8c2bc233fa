# SPDX-License-Identifier: LGPL-2.1-or-later
"""A directory of many dumps, some of them damaged, and what must be found in it."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from ..kernels import image

#: dumps of each kind, of 40: scenario, kernel -> how many
_SIMULATED = {
    ("devdax-2m", "6.1"): 7,
    ("devdax-2m", "7.2"): 5,
    ("hole", "6.1"): 5,
    ("refcount-low", "6.12"): 5,
    ("unreadable-table", "6.12"): 2,
}
_CUT, _EMPTY, _BROKEN = 4, 6, 6


class Tree(NamedTuple):
    """Dumps, and what is known of them."""

    directory: Path
    #: how many times 40 they are
    times: int
    #: path -> exit status that the simulator's faults and the damage must give
    expected: dict[str, int]
    #: findings of severity error: rule, release -> dumps
    rules: dict[str, int]


@pytest.fixture(
    scope="package", params=[1, pytest.param(5, marks=pytest.mark.whole)], ids=["40", "200"]
)
def tree(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Tree:
    """Make each kind of dump once: the others are links to it, but have names of their own."""
    times: int = request.param
    directory = tmp_path_factory.mktemp("survey")
    made = directory / "made"
    made.mkdir()
    root = directory / "dumps"
    expected: dict[str, int] = {}
    rules: Counter[str] = Counter()
    statuses = {"devdax-2m": 0, "hole": 1, "refcount-low": 1, "unreadable-table": 4}
    for (scenario, kernel), number in _SIMULATED.items():
        source = made / f"{scenario}-{kernel}"
        image(scenario, kernel).write(source)
        for n in range(number * times):
            path = _link(source, root / kernel / f"host{n % 7}" / f"{scenario}-{n}" / "vmcore")
            expected[str(path)] = statuses[scenario]
        if scenario in ("hole", "refcount-low"):
            rules[scenario] += number * times
    whole = (made / "devdax-2m-6.1").read_bytes()
    # Cut off within its headers, and within its data; nothing at all; no header any more.
    damaged = {
        "cut-early": whole[:100],
        "cut-late": whole[: len(whole) // 2],
        "empty": b"",
        "broken": b"\0" * 64 + whole[64:],
    }
    numbers = {"cut-early": _CUT // 2, "cut-late": _CUT // 2, "empty": _EMPTY, "broken": _BROKEN}
    for name, data in damaged.items():
        source = made / name
        source.write_bytes(data)
        for n in range(numbers[name] * times):
            expected[str(_link(source, root / "damaged" / f"{name}-{n}" / "vmcore"))] = 3
    # What lies beside dumps is none.
    (root / "vmcore-dmesg.txt").write_text("[    0.000000] Linux version 6.1\n")
    os.symlink(made / "hole-6.1", root / "link")
    return Tree(root, times, expected, dict(rules))


def _link(source: Path, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.link(source, path)
    return path
