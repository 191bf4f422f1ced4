#!/usr/bin/env python3
"""Kill a sweep at random places, again and again; print the cost and whether anything is lost.

    python scripts/soak.py --kills 100

Kills workers, the driver, or both with SIGKILL, runs the sweep again where its driver died, lets it
finish in the end, and compares its atlas with that of an undisturbed sweep, bit for bit.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLACES = [str(ROOT / place) for place in ("pipeline", "", "tests", "tests/faults")]


def main() -> int:
    """Run a soak and print its report; returns 0 if no promise was broken."""
    arguments = _parser().parse_args()
    sys.path[:0] = PLACES
    os.environ["PYTHONPATH"] = os.pathsep.join(PLACES)
    from soak import Soak, report

    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), arguments.seeds, random.Random(arguments.dice))
        soak.run(arguments.kills)
    print(report(soak, time.monotonic() - started))
    return int(bool(soak.complaints))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=80, help="of the sweep: how long it is")
    parser.add_argument("--dice", type=int, default=0, help="seed of the moments and victims")
    return parser


if __name__ == "__main__":
    sys.exit(main())
