# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Hostile input: damaged dumps, and what must hold of every answer to one.

:mod:`.dump` damages a vmcore and mends it again, :mod:`.places` says where in it
which structures are, :mod:`.mutation` picks damage at random, by a seed,
:mod:`.child` runs the command line on it in a process of its own, bounded in
time and memory, and :mod:`.answers` judges what came out. ``python -m
tests.hostile`` does that for as long as one likes, and runs one case again.
"""
