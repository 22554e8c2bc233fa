# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Dumps damaged at random: every command answers, in time, with a status that it documents.

A case that fails is run again by the command that the message gives.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .conftest import SEED
from .images import IMAGES
from .session import Session

#: cases of an image
_CASES, _MORE = 60, 300


@pytest.mark.parametrize("name", IMAGES)
def test_damage_is_answered(session: Callable[[str], Session], name: str) -> None:
    check(session(name), name, range(_CASES))


@pytest.mark.whole
@pytest.mark.parametrize("name", IMAGES)
def test_more_damage_is_answered(session: Callable[[str], Session], name: str) -> None:
    check(session(name), name, range(_CASES, _MORE))


def check(session: Session, name: str, numbers: range) -> None:
    failed = []
    for case in session.cases(numbers):
        if case.problems:
            again = f"python -m tests.hostile --seed {SEED} --image {name} --case {case.number}"
            failed.append("\n".join([again, case.damage.text, *case.problems]))
    assert not failed, "\n\n".join(failed[:5])


def test_cases_are_the_same_again(session: Callable[[str], Session]) -> None:
    first, second = (session("7.2-4-level").run(7) for _ in range(2))
    assert first.damage == second.damage
    assert first.commands == second.commands
    assert [one.out for one in first.ran.answers if "json" not in one.arguments] == [
        one.out for one in second.ran.answers if "json" not in one.arguments
    ]


def test_a_dump_is_mended(session: Callable[[str], Session]) -> None:
    dump = session("6.12-early-section").dump
    before = dump.read(0, dump.size)
    for case in session("6.12-early-section").cases(range(12)):
        assert case.ran.answers or case.problems
    assert dump.read(0, dump.size + 1) == before
