# SPDX-License-Identifier: LGPL-2.1-or-later
"""What does the kernel's memory map of memory really look like?"""

__version__ = "0.1.0.dev0"
