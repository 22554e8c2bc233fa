# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import pytest

from .images import KERNELS, Images


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Simulated kernels, each built once."""
    return Images(tmp_path_factory.mktemp("sim"))


@pytest.fixture(params=KERNELS)
def kernel(request):
    return request.param
