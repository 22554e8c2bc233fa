# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fixtures that boot guests. Nothing here is skipped: what can't run is an error."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .guest import Guest
from .packages import get_kernel
from .targets import GuestTargets

#: series of the kernels that every test with the fixture ``guest`` runs on
GUEST_KERNELS = ("6.1", "7.2")


# Before the one that deselects by marker.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this directory."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.guest)


@pytest.fixture(scope="session", params=GUEST_KERNELS)
def guest(request: pytest.FixtureRequest) -> Iterator[GuestTargets]:
    """Each kernel in turn, with the five devices."""
    # Not below pytest's directory, which keeps the files of the last runs: these
    # are gigabytes.
    with (
        tempfile.TemporaryDirectory(prefix="vmemscope-dumps-") as directory,
        Guest(get_kernel(request.param)) as booted,
    ):
        yield GuestTargets(booted, Path(directory))
