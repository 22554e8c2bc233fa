# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rules and known bugs, written as ``vmemscope.rules/1`` (``docs/rules.md``)."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from ...fields import Facts, Name, RuleId
from ...rules.rule import Severity
from .common import Document

__all__ = ("ListedBug", "ListedRule", "Release", "RuleList", "ScopeName")

Release = Annotated[str, Meta(description="A kernel release.", pattern=r"^[0-9]+(\.[0-9]+)+$")]
ScopeName = Literal["pagemap", "target", "memory-map", "hugetlb"]


class ListedRule(Facts, frozen=True, kw_only=True):
    """A rule (:class:`vmemscope.rules.rule.Rule`) without its check."""

    id: RuleId
    severity: Severity
    #: what must hold
    text: Name
    source: Name
    since: Release | None
    until: Release | None
    archs: tuple[str, ...]
    scope: Annotated[tuple[ScopeName, ...], Meta(min_length=1)]
    meaning: Name
    look_at: Name


class ListedBug(Facts, frozen=True, kw_only=True):
    """A known bug of kernels (:class:`vmemscope.rules.bugs.KnownBug`)."""

    id: RuleId
    #: what the kernel does, a clause after "this kernel"
    title: Name
    versions: Name
    #: kernels in which it was seen
    seen: Name
    meaning: Name
    action: Name
    #: rules whose findings it explains
    explains: Annotated[tuple[RuleId, ...], Meta(min_length=1)]


class RuleList(Document, frozen=True, kw_only=True, tag="vmemscope.rules/1"):
    """Rules, in the order of their topics, and the known bugs that explain findings."""

    rules: tuple[ListedRule, ...]
    bugs: tuple[ListedBug, ...] = ()
