# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The rules: what must hold for the vmemmap of a pagemap.

:data:`CATALOGUE` has them all, with where each comes from in the kernel; the
package ``catalogue`` is where they are written down, a module a kind. The modules
beside that evaluate them, one for each kind of fact: ``ranges`` (the pagemap
itself), ``references`` (who keeps it), ``sections`` (what is valid), ``mapping``
(page-table entries), ``entries`` (the kernel's that processes have copies of),
``backing`` (frames and their reference counts), ``frame_state`` (what those are
marked for), ``contents`` (the ``struct page``s themselves) and ``hugetlb``.
"""

from __future__ import annotations

from .catalogue import RULES
from .findings import Rule, Scope

__all__ = ("CATALOGUE", "rules_of")

CATALOGUE = {rule.id: rule for rule in RULES}


def rules_of(scope: Scope) -> tuple[Rule, ...]:
    """Get the rules that are evaluated for something, in the catalogue's order."""
    return tuple(rule for rule in RULES if scope in rule.scope)
