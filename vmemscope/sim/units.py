# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sizes in bytes."""

from __future__ import annotations

__all__ = ("GIB", "MIB", "PAGE_SHIFT", "PAGE_SIZE")

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
MIB = 1 << 20
GIB = 1 << 30
