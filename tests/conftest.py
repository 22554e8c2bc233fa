# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fixtures that tests of several parts share."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable

import pytest

from vmemscope.report.documents.pgmap import Report
from vmemscope.sim.faults import Planted

from .kernels import Dumps


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return how many processes run tests: one where the results of all guests are written."""
    if config.getoption("full", False):
        return 0
    return len(os.sched_getaffinity(0))


def pytest_collection() -> None:
    """Spare the garbage collector thousands of tests, none of which is garbage."""
    gc.disable()


def pytest_collection_finish() -> None:
    """
    Spare it what stays to the end: those tests, and modules.

    It also runs more often then, by its own rules, and simulated kernels are large garbage.
    """
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def dumps(tmp_path_factory: pytest.TempPathFactory) -> Dumps:
    """Dumps of simulated kernels, each made and audited once."""
    return Dumps(tmp_path_factory.mktemp("dumps"))


@pytest.fixture(scope="session")
def audited(dumps: Dumps) -> Callable[[str, str], tuple[Report, list[Planted]]]:
    """Return what ``pgmap`` reports of a scenario on a kernel, and what was planted."""

    def run(scenario: str, kernel: str) -> tuple[Report, list[Planted]]:
        done = dumps.audited(scenario, kernel)
        return done.pgmap, done.planted

    return run
