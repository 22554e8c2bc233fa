# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The rules: what must hold for the kernel's memory map.

A module for each topic; in it each rule is one function with its text, its source in
the kernel, its check and its sentence (:mod:`.rule`). :mod:`.findings` evaluates them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy

if TYPE_CHECKING:
    from .registry import RULES, rules_of

__all__ = ("RULES", "rules_of")

# A document that is only read takes no rule: their checks take numpy.
__getattr__ = lazy(__name__, {"RULES": "registry", "rules_of": "registry"})
