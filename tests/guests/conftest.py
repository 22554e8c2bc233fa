# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fixtures that boot guests. Nothing here is skipped: what can't run is an error."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .audited import Audited, Auditing
from .guest import Guest
from .matrix import BOOTS, FULL, SHORT, Key
from .packages import get_kernel
from .targets import GuestTargets
from .tested import PATH, Results

#: fixtures that boot a guest: a test's own before the one that all files share
GUESTS = (
    "audited",
    "foreign",
    "plugged",
    "crashed",
    "small",
    "large",
    "running",
    "poisoned",
    "refused",
    "guest",
)
#: series of the kernels that all targets are tested on, short and in full
SERIES = ("6.1", "7.2")
SERIES_FULL = ("6.1", "6.12", "7.2")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the whole matrix be asked for."""
    parser.addoption(
        "--full",
        action="store_true",
        help="boot every kernel of the matrix, with 4- and 5-level paging, not just two guests of"
        f" each kind, and write each whole series to {PATH.relative_to(PATH.parents[1])}",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers", "boot(name): runs on this guest of the matrix, not on all of them"
    )


def guest_of(item: pytest.Item) -> str:
    """Name the guest of a test: with ``--dist loadgroup``, all of its tests run in one process."""
    callspec = getattr(item, "callspec", None)
    params = callspec.params if callspec else {}
    for name in GUESTS:
        if name in getattr(item, "fixturenames", ()):
            which = params.get(name, params.get("series", item.path.stem))
            return f"{name}-{'-'.join(which) if isinstance(which, tuple) else which}"
    return item.path.stem


# Before the one that deselects by marker.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this directory, and put together the tests of one guest."""

    def key_of(item: pytest.Item) -> int:
        callspec = getattr(item, "callspec", None)
        key = callspec.params.get("audited") if callspec else None
        # All others first, as they are.
        return FULL.index(key) + 1 if isinstance(key, Key) else 0

    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.guest)
            item.add_marker(pytest.mark.xdist_group(guest_of(item)))
    items.sort(key=key_of)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """
    Run what boots a kernel on each series.

    What wants a guest of the matrix runs on each, and on each cell if it wants one.
    """
    if "series" in metafunc.fixturenames:
        full = metafunc.config.getoption("full")
        metafunc.parametrize("series", SERIES_FULL if full else SERIES, indirect=True)
    if "audited" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("boot")
    keys = [
        key
        for key in (FULL if metafunc.config.getoption("full") else SHORT)
        if marker is None or key.boot in marker.args
    ]
    if "cell" in metafunc.fixturenames:
        cells = [
            pytest.param(key, cell, id=f"{key}-{cell.what}")
            for key in keys
            for cell in BOOTS[key.boot].cells
        ]
        metafunc.parametrize(("audited", "cell"), cells, indirect=["audited"])
    else:
        metafunc.parametrize("audited", keys, indirect=True, ids=str)


#: guest of the matrix -> what was done with it -> seconds
_SECONDS = pytest.StashKey[dict[str, dict[str, float]]]()


@pytest.fixture(scope="session")
def auditing(request: pytest.FixtureRequest) -> Iterator[Auditing]:
    """What audits the guests of the matrix, one after the other."""
    auditing = Auditing()
    request.config.stash[_SECONDS] = {}
    yield auditing
    auditing.close()
    request.config.stash[_SECONDS] = {str(key): taken for key, taken in auditing.seconds.items()}


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand on how long the guests of a worker took."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["seconds"] = session.config.stash.get(_SECONDS, {})


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take how long the guests of a worker took."""
    if output := getattr(node, "workeroutput", None):
        node.config.stash.setdefault(_SECONDS, {}).update(output["seconds"])


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print how long the guests of the matrix took."""
    seconds = config.stash.get(_SECONDS, {})
    if seconds:
        total = sum(sum(steps.values()) for steps in seconds.values())
        terminalreporter.section(f"{len(seconds)} guests of the matrix: {total:.0f} s")
    for key, steps in seconds.items():
        parts = ", ".join(f"{name} {taken:.0f}" for name, taken in steps.items())
        terminalreporter.write_line(f"{key}: {sum(steps.values()):.0f} s ({parts})")


@pytest.fixture
def audited(request: pytest.FixtureRequest, auditing: Auditing) -> Audited:
    """One guest of the matrix, and what was seen of it."""
    return auditing.at(request.param)


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest) -> Iterator[Results]:
    """What came out of the matrix; whole series of it are written down."""
    results = Results()
    yield results
    if request.config.getoption("full"):
        results.keep()


@pytest.fixture(scope="session")
def series(request: pytest.FixtureRequest) -> str:
    """Each kernel in turn."""
    series: str = request.param
    return series


@pytest.fixture(scope="session")
def guest(series: str) -> Iterator[GuestTargets]:
    """Each kernel in turn, with the five devices."""
    # Not below pytest's directory, which keeps the files of the last runs: these
    # are gigabytes.
    with (
        tempfile.TemporaryDirectory(prefix="vmemscope-dumps-") as directory,
        Guest(get_kernel(series)) as booted,
    ):
        yield GuestTargets(booted, Path(directory))
