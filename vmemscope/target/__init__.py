# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Targets: a vmcore, the running kernel or a QEMU guest, each opened as one
:class:`drgn.Program`.

Nothing behind :class:`Target` asks which kind it has. The one thing that
follows from the kind is :attr:`Target.live`: what is found on a live target is
read again before it is reported, by the caller of the audit.
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
