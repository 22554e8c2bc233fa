# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fixtures that tests of several parts share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vmemscope.audits.pagemaps import once
from vmemscope.machine import Kernel
from vmemscope.report.documents.pgmap import Report
from vmemscope.sim import build, load_scenario
from vmemscope.sim.faults import Planted

#: the kernels that the simulator knows
KERNELS = ("6.1", "6.12", "7.2")


@pytest.fixture(scope="session")
def audited(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, str], tuple[Report, list[Planted]]]:
    """Build a scenario for a kernel, audit its vmcore; return what was planted too. Each once."""
    done: dict[tuple[str, str], tuple[Report, list[Planted]]] = {}

    def run(scenario: str, kernel: str) -> tuple[Report, list[Planted]]:
        if (scenario, kernel) not in done:
            image = build(load_scenario(scenario), kernel=kernel)
            path: Path = tmp_path_factory.mktemp("sim") / "vmcore"
            image.write(path)
            # Not the image itself: hundreds of them take gigabytes.
            done[scenario, kernel] = once(Kernel.open_core(str(path))), image.planted
            path.unlink()
        return done[scenario, kernel]

    return run
