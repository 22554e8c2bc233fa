# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Debian's kernels, booted under QEMU with real device memory.

Read from the bottom up: :mod:`.hosttools` installs what the host needs,
:mod:`.packages` finds and downloads a kernel, :mod:`.initramfs` packs what
runs inside, :mod:`.devices` describes the memory to put in, and :mod:`.guest`
boots the lot and talks to it. ``python -m tests.guests`` boots one by hand.
"""
