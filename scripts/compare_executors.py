"""Measure what executors cost: the same sweep by each of them, side by side.

    python scripts/compare_executors.py --mini-slurm --out compared \\
        models=[squeezenet1_1] weights=squeezenet1_1.safetensors 'layers=[features.12]' \\
        image_size=128

All arguments that are no options are Hydra overrides of the sweep, but for `channels`. Every engine
makes `--channels` of it, and one channel per worker; both are done anew in each round, engine after
engine, so that a machine that slows down does so for all. Medians are shown of the stage that makes
images, from opening the engine to its last worker's end:

- start: what an engine takes longer than `local` for one channel per worker;
- overhead: what it takes longer for the whole sweep, beyond its start, in percent of `local`;
- same: whether every dataset of its atlas holds the same bits as that of `local`.

`--mini-slurm` starts the Slurm of the tests on this machine; without it, the one at hand is used.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "pipeline"), str(ROOT / "tests")]

from mini_slurm import mini_slurm  # noqa: E402
from runs import assert_same_atlas  # noqa: E402

SHARD = 64


def engines(workers: int) -> dict[str, list[str]]:
    """Settings of each executor, so that all have the same number of workers of one core each."""
    share = ["executor.gpus=0", "executor.cpus=1", "executor.memory_gb=2"]
    return {
        "local": [f"executor.devices=[{','.join(['cpu'] * workers)}]"],
        "ray": ["executor=ray", "executor.address=local", f"executor.workers={workers}", *share],
        "slurm": ["executor=slurm", f"executor.jobs={workers}", *share],
    }


def make(out: Path, name: str, overrides: Sequence[str]) -> float:
    """Run a sweep in a folder of its own; returns the seconds that making its images took."""
    shutil.rmtree(out / name, ignore_errors=True)
    atlas = [sys.executable, "-P", "-m", "layer_atlas"]
    command = [*atlas, "run", f"output_root={out}", f"name={name}"]
    # As many threads as cores, spread over the workers: what local workers are given.
    variables = {**os.environ, "PYTHONPATH": str(ROOT / "pipeline")}
    done = subprocess.run([*command, *overrides], env=variables, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name}: {done.stdout}{done.stderr}")
    return float(json.loads((out / name / "manifest.json").read_text())["timings"]["optimization"])


def measure(args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Seconds of every engine, round by round, for one channel per worker and for all."""
    chosen = {name: engines(args.workers)[name] for name in args.engines.split(",")}
    one_each = f"channels=[{','.join(str(SHARD * i) for i in range(args.workers))}]"
    sizes = {"one": one_each, "all": f"channels='{args.channels}'"}
    times: dict[str, dict[str, list[float]]] = {name: {"one": [], "all": []} for name in chosen}
    for number in range(args.rounds):
        for size, channels in sizes.items():
            for name, engine in chosen.items():
                sweep = [*args.overrides, *engine, channels, f"shard_size={SHARD}"]
                seconds = make(args.out, f"{name}-{size}", sweep)
                times[name][size].append(seconds)
                print(f"round {number + 1}: {name}, {size}: {seconds:.2f} s", file=sys.stderr)
    return times


def table(times: dict[str, dict[str, list[float]]], out: Path) -> Iterator[str]:
    """Lines of what came out."""
    one, every = (median(times["local"][size]) for size in ("one", "all"))
    yield f"{'engine':8} {'start s':>8} {'sweep s':>8} {'overhead %':>11}  same"
    for name, seconds in times.items():
        start = median(seconds["one"]) - one
        sweep = median(seconds["all"])
        overhead = 100 * (sweep - start - every) / every
        same = is_same(out / f"{name}-all" / "atlas.h5", out / "local-all" / "atlas.h5")
        yield f"{name:8} {start:8.2f} {sweep:8.2f} {overhead:11.1f}  {'yes' if same else 'NO'}"


def is_same(atlas: Path, other: Path) -> bool:
    """Whether two atlases hold the same."""
    try:
        assert_same_atlas(atlas, other)
    except AssertionError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engines", default="local,ray,slurm")
    parser.add_argument("--channels", default="0:256")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mini-slurm", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("outputs/compared"))
    args, args.overrides = parser.parse_known_args()
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(args.out / "slurm", ignore_errors=True)
    with mini_slurm(args.out / "slurm") if args.mini_slurm else contextlib.nullcontext():
        times = measure(args)
    (args.out / "compared.json").write_text(json.dumps(times, indent=1) + "\n")
    print("\n".join(table(times, args.out)))


if __name__ == "__main__":
    main()
