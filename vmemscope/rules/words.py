# SPDX-License-Identifier: LGPL-2.1-or-later
"""Numbers and the words that agree with them, for the sentences of rules."""

from __future__ import annotations

__all__ = ("agree", "part")


def agree(count: int, one: str, several: str) -> str:
    """
    Return the word that agrees with a number.

    >>> agree(1, "maps", "map"), agree(2, "maps", "map")
    ('maps', 'map')
    """
    return one if count == 1 else several


def part(count: int, total: int, things: str) -> str:
    """
    Return how many of all things there are, in words.

    >>> part(127, 127, "tail pages"), part(3, 127, "tail pages")
    ('all 127 tail pages', '3 of 127 tail pages')
    """
    return f"all {total} {things}" if count == total > 1 else f"{count} of {total} {things}"
