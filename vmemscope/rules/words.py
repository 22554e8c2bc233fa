# SPDX-License-Identifier: LGPL-2.1-or-later
"""Words that agree with numbers, for the sentences of rules."""

from __future__ import annotations

__all__ = ("agree", "part")


def agree(count: int, one: str, several: str) -> str:
    """
    Choose the word that agrees with a number.

    >>> agree(1, "maps", "map"), agree(2, "maps", "map")
    ('maps', 'map')
    """
    return one if count == 1 else several


def part(count: int, total: int, things: str) -> str:
    """
    Say how many of all things.

    >>> part(127, 127, "tail pages"), part(3, 127, "tail pages")
    ('all 127 tail pages', '3 of 127 tail pages')
    """
    return f"all {total} {things}" if count == total > 1 else f"{count} of {total} {things}"
