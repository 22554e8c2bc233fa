# SPDX-License-Identifier: LGPL-2.1-or-later
"""The names of kernel types and variables that the audit of one page relies on."""

from __future__ import annotations

from typing import Final

from ...types import Need, NeedKind
from ..pagemaps.needs import NEEDS as PAGEMAPS

__all__ = ("NEEDS",)

NEEDS: Final = (
    *PAGEMAPS,
    Need("struct page._mapcount", NeedKind.MEMBER, "say what a page is used for"),
)
