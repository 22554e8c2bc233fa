# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import pytest

from tests.kernels import KERNELS


@pytest.fixture(params=KERNELS)
def kernel(request):
    return request.param
