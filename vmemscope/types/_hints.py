# SPDX-License-Identifier: LGPL-2.1-or-later
# What to try if a kernel has no types or symbols of its own.

from typing import Final

GIVE_VMLINUX: Final = "give the kernel's vmlinux with -s"
GIVE_SYMBOLS: Final = "give the kernel's System.map with --system-map, or its vmlinux with -s"
