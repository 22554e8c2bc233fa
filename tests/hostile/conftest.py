# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images to damage, each written once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .images import write_image
from .session import Session

#: of all random damage in the tests
SEED = 20261123


@pytest.fixture(scope="session")
def session(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Session]:
    """Return a session with an image."""
    sessions: dict[str, Session] = {}
    directory: Path = tmp_path_factory.mktemp("hostile")

    def get(name: str) -> Session:
        if name not in sessions:
            write_image(name, directory / name)
            sessions[name] = Session(directory / name, SEED)
        return sessions[name]

    return get
