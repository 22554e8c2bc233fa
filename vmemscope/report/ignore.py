# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The ignore file: findings that somebody has judged, each with a reason and an expiry date.

In TOML, a table for each judgement (``docs/selection.md``)::

    [[ignore]]
    rule = "mask-alignment"
    place = "dax1.0"
    reason = "known, the device is created anew at the next maintenance"
    expires = 2027-01-31
"""

from __future__ import annotations

import sys
from datetime import date
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta, Struct, field

from .. import rules
from ..errors import UsageError
from ..text import hexadecimal
from .words import safe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from ..rules.findings import Finding
    from .documents.common import PagemapName

__all__ = ("Judgement", "read_ignore_file")

#: bytes of an ignore file that are read
_MAX_SIZE = 1 << 20

_Line = Annotated[str, Meta(min_length=1, max_length=500)]


class Judgement(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Findings to ignore, and until when."""

    rule: _Line
    #: name of a pagemap, which may have ``*`` and ``?``, or an address; ``None``: anywhere
    place: _Line | None = None
    reason: _Line
    #: the last day on which it applies
    expires: date

    def covers(self, owner: PagemapName | None, finding: Finding) -> bool:
        """
        Return whether a finding is one of these, whatever the date.

        :param owner: its pagemap, ``None`` if it is of no single one
        """
        if finding.rule != self.rule:
            return False
        if self.place is None:
            return True
        addresses = [finding.vaddr] if owner is None else [finding.vaddr, owner.address]
        if self.place.lower() in map(hexadecimal, addresses):
            return True
        return owner is not None and owner.name is not None and fnmatchcase(owner.name, self.place)

    @property
    def words(self) -> str:
        """Return what it is about."""
        return self.rule if self.place is None else f"{self.rule} {self.place}"


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    judgements: tuple[Judgement, ...] = field(name="ignore", default=())


def read_ignore_file(path: str) -> tuple[Judgement, ...]:
    """
    Read an ignore file.

    :raises UsageError: if it can't be read, or an entry is not as it must be
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_SIZE + 1)
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
        raise UsageError(f"cannot read the ignore file {safe(path)}: {reason}") from e
    try:
        if len(data) > _MAX_SIZE:
            raise ValueError("it is larger than 1 MiB")
        judgements = msgspec.convert(tomllib.loads(data.decode()), _File).judgements
    except UnicodeDecodeError as e:
        raise _bad(path, "it is not UTF-8") from e
    except RecursionError as e:
        raise _bad(path, "it is nested too deeply") from e
    except (ValueError, msgspec.ValidationError) as e:
        raise _bad(path, str(e).replace("`", "'")) from e
    for number, one in enumerate(judgements, 1):
        if one.rule not in rules.RULES:
            raise _bad(path, f"entry {number}: there is no rule {safe(one.rule)}")
    return judgements


def _bad(path: str, why: str) -> UsageError:
    return UsageError(
        f"the ignore file {safe(path)} can't be used: {safe(why)}",
        "each [[ignore]] has a rule, a reason, expires = YYYY-MM-DD, and may have a place",
    )
