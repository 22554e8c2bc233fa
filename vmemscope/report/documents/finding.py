# SPDX-License-Identifier: LGPL-2.1-or-later
"""One finding that stands for itself, written as ``vmemscope.finding/1`` (``docs/formats.md``)."""

from __future__ import annotations

from typing import cast

from msgspec import defstruct
from msgspec.structs import fields

from ...fields import Address, Count, Facts, Text
from ...rules.bugs import Symptoms, known_bugs
from ...rules.findings import Finding
from .common import PagemapName, TargetName

__all__ = ("BugReport", "FindingLine", "Symptom")


class Symptom(Facts, frozen=True):
    """A rule whose violations a bug explains, and how many they are."""

    rule: Text
    violations: Count


class BugReport(Facts, frozen=True, kw_only=True):
    """A known bug of the kernel (:mod:`vmemscope.rules.bugs`), with what was found of it."""

    bug: Text
    #: the pagemap that it is about, ``None`` if it is about none
    pgmap: Address | None
    name: Text | None
    title: Text
    versions: Text
    #: kernels in which it was seen
    seen: Text
    meaning: Text
    action: Text
    symptoms: tuple[Symptom, ...]

    @classmethod
    def found_by(
        cls, found: Symptoms, pgmap: int | None = None, name: str | None = None
    ) -> tuple[BugReport, ...]:
        """Return a report of each bug whose symptoms were found."""
        return tuple(
            cls(
                bug=bug.id,
                pgmap=pgmap,
                name=name,
                title=bug.title,
                versions=bug.versions,
                seen=bug.seen,
                meaning=bug.meaning,
                action=bug.action,
                symptoms=tuple(Symptom(*one) for one in symptoms.items()),
            )
            for bug, symptoms in known_bugs(found)
        )


#: a finding, after its target and its pagemap, which is ``None`` if it is of no single one
FindingLine = cast(
    type[Facts],
    defstruct(
        "FindingLine",
        [
            ("target", TargetName),
            ("pagemap", PagemapName | None),
            *((one.name, one.type) for one in fields(Finding)),
        ],
        bases=(Facts,),
        frozen=True,
        tag_field="schema",
        tag="vmemscope.finding/1",
    ),
)
