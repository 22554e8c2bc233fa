# SPDX-License-Identifier: LGPL-2.1-or-later
"""``vmemscope rules``: list the rules and the known bugs of kernels, explain one."""

from __future__ import annotations

import argparse

from ..errors import ExitStatus, UsageError
from .common import columns, show, write
from .options import add_output_options
from .selection import hint

NAME = "rules"
HELP = "list the rules and the known bugs of kernels, explain one"
DESCRIPTION = """\
List the rules that findings name: what must hold, and how severe a violation is.
After them, list the known bugs of kernels that explain findings. For each RULE given,
show the kernels it applies to, its source in the kernel, what a violation means, and
what to check next. RULE may be a bug, too: show its versions, and what to do.
"""
EXAMPLES = """\
examples:
  vmemscope rules                            all of them
  vmemscope rules compound-head              one, explained
  vmemscope rules mask-unaligned             a known bug of kernels, explained
  vmemscope rules --format json              for a program
"""
EXIT_STATUS = """\
exit status:
  0  the rules were listed or explained
  2  wrong usage: there is no such rule
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    parser.add_argument("rules", metavar="RULE", nargs="*", help="explain this rule or bug")
    add_output_options(parser, ("text", "json"))


def run(args: argparse.Namespace) -> int:
    """Run this subcommand."""
    from ..report.catalogue import render_bug, render_rule, render_rules, rule_list
    from ..rules import RULES
    from ..rules.bugs import BUGS

    known = {bug.id: bug for bug in BUGS}
    unknown = [name for name in args.rules if name not in RULES and name not in known]
    if unknown:
        raise UsageError(f"there is no rule {unknown[0]!r}", hint(unknown[0], [*RULES, *known]))
    # A bug may have the name of the rule that finds it: both are explained.
    rules = [RULES[name] for name in args.rules or RULES if name in RULES]
    bugs = [known[name] for name in args.rules or known if name in known]
    width = columns(args.output)
    if args.format == "json":
        from ..report import render_json

        write(render_json(rule_list(rules, bugs)), args)
    elif args.rules:
        explained = [render_rule(rule, width) for rule in rules]
        show("\n".join(explained + [render_bug(bug, width) for bug in bugs]), args)
    else:
        show(render_rules(rules, bugs, width), args)
    return ExitStatus.SOUND
