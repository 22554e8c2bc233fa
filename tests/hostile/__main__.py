# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Damage dumps for as long as one likes, and run one case again.

    python -m tests.hostile --runs 10000 --seed 7
    python -m tests.hostile --seed 7 --image 7.2-mixed --case 4711 --debug
    python -m tests.hostile --core vmcore --runs 500

A dump given by path is copied first, so needs room for its data in the
directory for temporary files.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from .child import Limits
from .images import IMAGES, write_image
from .session import Case, Session


def main() -> int:
    """Run cases; get 1 if there were problems."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="cases for each image")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--image", action="append", help=f"of {', '.join(IMAGES)}; default: all")
    parser.add_argument("--core", action="append", default=[], help="a vmcore, in place of images")
    parser.add_argument("--kind", help="only damage of this kind")
    parser.add_argument("--case", type=int, help="only this one, all commands")
    parser.add_argument("--every", action="store_true", help="all commands on every case")
    parser.add_argument("--seconds", type=float, default=20.0, help="that a case may take")
    parser.add_argument("--log", type=Path, help="append problems there, JSON lines")
    args = parser.parse_args()
    limits = Limits(args.seconds)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="hostile-") as directory:
        for image in args.core or args.image or IMAGES:
            path = Path(directory) / Path(image).name
            if args.core:
                path = Path(directory) / "-".join(Path(image).parts[-2:])
                subprocess.run(["cp", "--sparse=always", image, path], check=True)
                path.chmod(0o600)
            else:
                write_image(image, path)
            failed += _run(Session(path, args.seed, limits), args)
            path.unlink()
    return int(failed > 0)


def _run(session: Session, args: argparse.Namespace) -> int:
    name = Path(session.dump.path).name
    numbers = range(args.first, args.first + args.runs) if args.case is None else [args.case]
    statuses: Counter[int] = Counter()
    kinds: Counter[str] = Counter()
    slowest, largest, failed = None, None, 0
    start = time.monotonic()
    for number in numbers:
        case = session.run(number, every=args.every or args.case is not None, kind=args.kind)
        kinds[case.kind] += 1
        statuses.update(one.status for one in case.ran.answers)
        if slowest is None or case.seconds > slowest.seconds:
            slowest = case
        if largest is None or case.ran.memory > largest.ran.memory:
            largest = case
        if sum(kinds.values()) % 500 == 0:
            done = f"{name}: {sum(kinds.values())} cases, {failed} with problems"
            print(f"{done}, slowest {slowest.seconds:.2f} s", flush=True)
        if case.problems:
            failed += 1
            _tell(name, case, args)
        elif args.case is not None:
            print(case.damage.text)
            for one in case.ran.answers:
                print(f"{one.seconds:.3f} s, status {one.status}: {' '.join(one.arguments)}")
                print(one.err, end="")
    assert slowest is not None
    assert largest is not None
    print(
        f"{name}: {len(numbers)} cases of seed {args.seed} in {time.monotonic() - start:.0f} s,"
        f" {failed} with problems; statuses {dict(sorted(statuses.items()))};"
        f" slowest {slowest.seconds:.2f} s (case {slowest.number}, {slowest.damage.text[:80]});"
        f" most memory {largest.ran.memory >> 20} MiB (case {largest.number},"
        f" {largest.damage.text[:80]})",
        flush=True,
    )
    return failed


def _tell(name: str, case: Case, args: argparse.Namespace) -> None:
    print(f"{name} case {case.number}: {case.damage.text}")
    for problem in case.problems:
        print(f"    {problem}")
    sys.stdout.flush()
    if args.log:
        reported = {
            "image": name,
            "case": case.number,
            "kind": case.kind,
            "damage": case.damage.text,
        }
        with args.log.open("a") as file:
            file.write(json.dumps({**reported, "problems": case.problems}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
