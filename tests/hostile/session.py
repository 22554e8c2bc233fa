# SPDX-License-Identifier: LGPL-2.1-or-later
"""Case after case on one dump: damage, commands, judgement; and any of them again."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vmemscope.types.sense import NO_SENSE

from .answers import finding_keys, problems, problems_of
from .child import Limits, Ran, run
from .dump import Damage, Dump
from .mutation import mutate
from .places import find

__all__ = ("Case", "Session")

#: kinds of damage that no type can suffer from
_NO_TYPES = {
    "code", "device", "disk", "frame", "hugetlb", "log", "log text", "name", "node", "page",
    "pagemap", "reference", "resource", "section", "section table", "task", "usage", "xarray",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """What came of one case."""

    number: int
    kind: str
    damage: Damage
    commands: tuple[tuple[str, ...], ...]
    ran: Ran
    problems: list[str]

    @property
    def seconds(self) -> float:
        """Seconds that its slowest command took."""
        return max((one.seconds for one in self.ran.answers), default=0.0)


class Session:
    """A dump to damage."""

    def __init__(self, path: Path, seed: int, limits: Limits = Limits()) -> None:  # noqa: B008
        self.seed = seed
        self.limits = limits
        self.dump = Dump(path)
        self.map = find(self.dump)
        self._document = path.with_name(f"{path.name}.json")
        whole = run([("pgmap", "-c", str(path), "--format", "json")], judge=problems_of)
        if problems(whole):
            raise ValueError(f"{path} itself: {problems(whole)}")
        text = whole.answers[0].out
        self._document.write_text(text)
        document = json.loads(text)
        #: what commands that write JSON find in the whole dump
        self._clean: dict[tuple[str, ...], set[tuple[object, ...]]] = {}
        self.names = [one["name"] or one["address"] for one in document["pgmaps"]]

    def run(self, number: int, *, every: bool = False, kind: str | None = None) -> Case:
        """
        Run a case.

        :param every: all commands, in place of two of them
        """
        rng = random.Random(f"{self.seed} {os.path.basename(self.dump.path)} {number}")
        kind, damage = mutate(self.map, rng, kind)
        with self.dump.damaged(damage) as path:
            commands = self._commands(path, rng)
            if not every:
                commands = [commands[0], rng.choice(commands[1:])]
            ran = run(commands, self.limits, problems_of)
        found = problems(ran)
        if kind in _NO_TYPES:
            # Then it is a mistake of ours that was taken for one.
            found += [one.err for one in ran.answers if NO_SENSE in one.err]
        if kind == "absent":
            found += self._unfounded(ran)
        return Case(number, kind, damage, tuple(commands), ran, found)

    def cases(self, numbers: range) -> Iterator[Case]:
        """Run some cases."""
        return map(self.run, numbers)

    def _unfounded(self, ran: Ran) -> Iterator[str]:
        """Yield the findings that there are only since part of the dump can't be read."""
        for answer in ran.answers:
            command = answer.arguments
            if command[0] == "diff" or "json" not in command or answer.status in (2, 3):
                continue
            if command not in self._clean:
                (whole,) = run([command]).answers
                self._clean[command] = finding_keys(json.loads(whole.out))
            for new in sorted(
                map(str, finding_keys(json.loads(answer.out)) - self._clean[command])
            ):
                yield f"{command[0]} found because something can't be read: {new}"

    def _commands(self, path: str, rng: random.Random) -> list[tuple[str, ...]]:
        core = ("-c", path)
        names = self.names or ["dax0.0"]
        pfn = rng.choice(self.map.pfns or [0])
        address = rng.choice(self.map.pointers)
        numbers: Sequence[tuple[str, ...]] = (
            (hex(pfn),),
            ("--phys", hex(pfn << 12)),
            (hex(self.map.view.vmemmap + pfn * 64),),
            ("--address", hex(address)),
            ("--address", hex(rng.randrange(1 << 64))),
        )
        page = rng.choice(numbers)
        return [
            ("pgmap", *core, "--format", "json"),
            ("pgmap", "--all", *core),
            ("pgmap", *core, "--format", "ndjson"),
            ("pgmap", *core, "--format", "ktap"),
            ("pgmap", *core, "--format", "markdown"),
            ("pgmap", rng.choice(names), *core),
            ("memmap", *core),
            ("memmap", *core, "--format", "json"),
            ("hugetlb", *core),
            ("hugetlb", *core, "--format", "json"),
            ("page", *page, *core),
            ("page", *page, *core, "--format", "json"),
            ("diff", str(self._document), path),
            ("diff", path, str(self._document), "--format", "json"),
            ("report", *core, "--format", rng.choice(("html", "json", "json", "markdown", "text"))),
            ("vmcoreinfo", *core, "-o", os.devnull),
        ]
