# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m vmemscope``"""

from .cli.main import entrypoint

entrypoint()
