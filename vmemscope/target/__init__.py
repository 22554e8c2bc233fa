# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Targets: a vmcore, the running kernel or a QEMU guest, each opened as one
:class:`drgn.Program`.

No code outside this package asks for the kind of a target. Only
:attr:`Target.live` depends on it: an audit of a live target reads it again before it
reports a violation.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .._lazy import lazy
from .base import Target

if TYPE_CHECKING:
    from .core import open_core
    from .live import open_live
    from .qemu import open_qemu

__all__ = ("Target", "open_core", "open_live", "open_qemu", "without_plugins")


def without_plugins() -> None:
    """
    Keep drgn from looking for plugins, which takes a twentieth of a process.

    Its shell's commands, which all take 0.1 s to load, are among them. Plugins that
    ``DRGN_PLUGINS`` names are loaded. For processes that have no such shell, before they open
    a target.
    """
    os.environ.setdefault("DRGN_DISABLE_PLUGINS", "*")


__getattr__ = lazy(__name__, {"open_core": "core", "open_live": "live", "open_qemu": "qemu"})
