# SPDX-License-Identifier: LGPL-2.1-or-later
"""One finding that stands for itself, written as ``vmemscope.finding/1`` (``docs/formats.md``)."""

from __future__ import annotations

from typing import cast

from msgspec import defstruct
from msgspec.structs import fields

from ...fields import Facts
from ...rules.findings import Finding
from .common import PagemapName, TargetName

__all__ = ("FindingLine",)

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
