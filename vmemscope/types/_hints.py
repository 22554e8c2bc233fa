# SPDX-License-Identifier: LGPL-2.1-or-later
# What to try when a kernel doesn't tell of its types and symbols itself.

from typing import Final

GIVE_VMLINUX: Final = "give the kernel's vmlinux with -s"
GIVE_SYMBOLS: Final = "give the kernel's System.map with --system-map, or its vmlinux with -s"
