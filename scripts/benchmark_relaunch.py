"""Measure what it takes to find that nothing is to be done: a finished sweep, launched again.

    python scripts/benchmark_relaunch.py
    python scripts/benchmark_relaunch.py --layers 2450 --seeds 1 --repeats 1

Makes a finished sweep of layers x seeds x channels jobs in a temporary folder, 10,035,200 unless
told, in 156,800 shards of 64 (2.5 GB, about a minute), then times the real commands on it, each in
a process of its own. Prints seconds, the parts of a run in the manifest, and the memory of the
largest process.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATHS = [str(ROOT / "pipeline"), str(ROOT / "scripts")]  # the package, and the network below
COMMANDS = ("run", "status", "plan")


@dataclass(frozen=True)
class Measured:
    """One command, from its start to its end."""

    seconds: float
    busy: float
    """Seconds of a core that its processes took: the better number beside other work."""
    megabytes: float
    """The most that one of its processes had in memory."""
    parts: dict[str, float]
    """Seconds in the manifest of a run."""


def main(argv: Sequence[str] | None = None) -> int:
    """Make the sweep, measure the commands, print a table; returns the exit code."""
    args = _arguments(argv)
    os.environ["PYTHONPATH"] = os.pathsep.join(PATHS)
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="relaunch-") as root:
        overrides = _overrides(args, root)
        _make(overrides)
        sweep = Path(root) / "relaunch"
        before = _state(sweep)
        measured = {
            command: [_measure(command, overrides, sweep) for _ in range(args.repeats)]
            for command in args.commands
        }
        if _state(sweep) != before:
            print("error: something was done on a finished sweep", file=sys.stderr)
            return 1
    _report(args, measured)
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--layers", type=int, default=49)
    add("--seeds", type=int, default=50)
    add("--channels", type=int, default=4096, help="of each layer")
    add("--commands", nargs="+", choices=COMMANDS, default=COMMANDS)
    add("--repeats", type=int, default=3)
    add("--folder", help="where the temporary folder is made; default: the system's")
    return parser.parse_args(argv)


def _overrides(args: argparse.Namespace, root: str) -> list[str]:
    size = f"{{layers: {args.layers}, channels: {args.channels}}}"
    target = "benchmarks.finished.wide_network"
    return [
        f"output_root={root}",
        "name=relaunch",
        f"models=[{{name: wide, target: {target}, args: {size}, input_size: 16}}]",
        "layers=[layer*]",
        f"seeds=[{','.join(map(str, range(args.seeds)))}]",
        "objective=neuron",  # of which no selectivity is computed, for the atlas that is made
        "precision=fp32",
        "collate.site=false",  # which would be made of ten million images
        "executor.devices=[cpu]",
    ]


def _make(overrides: Sequence[str]) -> None:
    """Make the sweep in a process of its own: what it has in memory is not to be measured."""
    begun = time.monotonic()
    maker = multiprocessing.get_context("spawn").Process(target=_make_here, args=(overrides,))
    maker.start()
    maker.join()
    if maker.exitcode:
        raise SystemExit("the sweep could not be made")
    print(f"made in {time.monotonic() - begun:.0f} s", file=sys.stderr)


def _make_here(overrides: Sequence[str]) -> None:
    from benchmarks.finished import make_finished

    make_finished(overrides)


def _measure(command: str, overrides: Sequence[str], sweep: Path) -> Measured:
    begun = time.monotonic()
    argv = [sys.executable, "-m", "layer_atlas", command, *overrides]
    process = os.posix_spawn(sys.executable, argv, os.environ)
    _, status, used = os.wait4(process, 0)
    seconds = time.monotonic() - begun
    if status:
        raise SystemExit(f"atlas {command} ended with {os.waitstatus_to_exitcode(status)}")
    timings = json.loads((sweep / "manifest.json").read_text())["timings"]
    parts = {name: value for name, value in timings.items() if name != "devices"}
    busy = used.ru_utime + used.ru_stime
    return Measured(seconds, busy, used.ru_maxrss / 1000, parts if command == "run" else {})


def _state(sweep: Path) -> list[tuple[str, int, int]]:
    """What must stay as it is: name, inode and time of every file of store, atlas and pictures."""
    found = [sweep / "atlas.h5", *(sweep / "store").rglob("*"), *(sweep / "montages").rglob("*")]
    told = [(str(path), path.stat()) for path in found]
    return sorted((path, stat.st_ino, stat.st_mtime_ns) for path, stat in told)


def _report(args: argparse.Namespace, measured: dict[str, list[Measured]]) -> None:
    jobs = args.layers * args.seeds * args.channels
    print(f"\n{jobs:,} jobs: {args.layers} layers x {args.channels} channels x {args.seeds} seeds")
    for command, runs in measured.items():
        seconds, busy = [run.seconds for run in runs], [run.busy for run in runs]
        print(
            f"{command:8} {statistics.median(seconds):6.1f} s "
            f"[{min(seconds):.1f} - {max(seconds):.1f}], of a core {statistics.median(busy):.1f} s "
            f"[{min(busy):.1f} - {max(busy):.1f}], {max(run.megabytes for run in runs):.0f} MB"
        )
        for part in runs[0].parts:
            print(f"  {part:10} {statistics.median(run.parts[part] for run in runs):6.1f} s")


if __name__ == "__main__":
    sys.exit(main())
