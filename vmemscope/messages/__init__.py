# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The search of the kernel's log for memory that vmemscope can explain.

:mod:`.patterns` lists what the kernel writes, :mod:`.search` puts lines together that
belong together, and finds the page frames and addresses in them.
"""

from __future__ import annotations

from .search import Event, NumberKind, Subject, search

__all__ = ("Event", "NumberKind", "Subject", "search")
