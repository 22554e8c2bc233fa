# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Targets: a vmcore, the running kernel or a QEMU guest, each opened as one
:class:`drgn.Program`.

No code outside this package asks for the kind of a target. Only
:attr:`Target.live` depends on it: an audit of a live target reads it again before it
reports a violation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy
from .base import Target

if TYPE_CHECKING:
    from .core import open_core
    from .live import open_live
    from .qemu import open_qemu

__all__ = ("Target", "open_core", "open_live", "open_qemu")

__getattr__ = lazy(__name__, {"open_core": "core", "open_live": "live", "open_qemu": "qemu"})
