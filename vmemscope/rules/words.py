# SPDX-License-Identifier: LGPL-2.1-or-later
"""Words that agree with numbers, for the sentences of rules."""

from __future__ import annotations

__all__ = ("agree",)


def agree(count: int, one: str, several: str) -> str:
    """
    Choose the word that agrees with a number.

    >>> agree(1, "maps", "map"), agree(2, "maps", "map")
    ('maps', 'map')
    """
    return one if count == 1 else several
