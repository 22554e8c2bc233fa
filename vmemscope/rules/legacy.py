# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules whose checks still stand elsewhere."""

from __future__ import annotations

from typing import Any

from . import rule as new

__all__ = ("Rule",)


def Rule(id: str, severity: new.Severity, holds: str, source: str, **about: Any) -> new.Rule:  # noqa: N802
    """Define a rule without its check."""
    return new.rule(id, severity, holds=holds, source=source, **about)(lambda: ())
