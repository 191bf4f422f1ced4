"""Measure what collating takes, in time and memory, for many images and for a tenth of them.

    python scripts/benchmark_collation.py
    python scripts/benchmark_collation.py --images 10000 --size 64

Makes a store of synthetic images in a temporary folder, 100,000 of 128 px unless told, which need
about 6 GB with their atlas; runs `atlas collate` on it; prints seconds of wall and of CPU time, the
most memory that its processes had together (PSS: shared pages count once), and what it wrote.
"""

import argparse
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATHS = [str(ROOT / "pipeline"), str(ROOT / "scripts")]
CHANNELS, SEEDS = 1000, 5


def main(argv: Sequence[str] | None = None) -> int:
    """Make the stores, collate them, print a table; returns the exit code."""
    args = _arguments(argv)
    os.environ["PYTHONPATH"] = os.pathsep.join(PATHS)
    for images in (args.images // 10, args.images):
        with tempfile.TemporaryDirectory(dir=args.folder, prefix="collation-") as root:
            overrides = _overrides(images, args.size, root)
            maker = multiprocessing.get_context("spawn").Process(target=_make, args=(overrides,))
            maker.start()
            maker.join()
            if maker.exitcode:
                return 1
            _report(images, Path(root) / "collation", *_collate(overrides))
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=128, help="of the images in pixels")
    parser.add_argument("--folder", help="where temporary folders are made")
    return parser.parse_args(argv)


def _overrides(images: int, size: int, root: str) -> list[str]:
    layers = max(1, images // (CHANNELS * SEEDS))
    args = f"{{layers: {layers}, channels: {images // (layers * SEEDS)}}}"
    target = "benchmarks.finished.wide_network"
    return [
        f"output_root={root}",
        "name=collation",
        f"models=[{{name: wide, target: {target}, args: {args}, input_size: 16}}]",
        "layers=[layer*]",
        f"image_size={size}",
        f"seeds=[{','.join(map(str, range(SEEDS)))}]",
        "precision=fp32",
        "executor.devices=[cpu]",
    ]


def _make(overrides: Sequence[str]) -> None:
    from benchmarks.finished import clouds, make_store

    make_store(overrides, clouds)


def _collate(overrides: Sequence[str]) -> tuple[float, float, float]:
    """Seconds of wall time, seconds of CPU time, and the most memory in MB."""
    begun, used = time.monotonic(), _cpu_seconds()
    argv = [sys.executable, "-m", "layer_atlas", "collate", *overrides]
    running = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    most = 0.0
    while running.poll() is None:
        most = max(most, sum(map(_megabytes, _family(running.pid))))
        time.sleep(0.2)
    if running.returncode:
        raise SystemExit(f"atlas collate ended with {running.returncode}")
    return time.monotonic() - begun, _cpu_seconds() - used, most


def _cpu_seconds() -> float:
    """CPU time of all processes that descended from this one and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _family(pid: int) -> Iterator[int]:
    """A process and all that descend from it."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:  # it has just ended
            continue
        for child in children:
            yield from _family(int(child))


def _megabytes(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000


def _report(images: int, folder: Path, seconds: float, cpu: float, megabytes: float) -> None:
    sizes = {
        name: sum(path.stat().st_size for path in (folder / name).rglob("*") if path.is_file())
        for name in ("store", "montages", "site")
    }
    sizes["atlas.h5"] = (folder / "atlas.h5").stat().st_size
    told = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in sizes.items())
    times = f"{seconds:.0f} s, {cpu:.0f} s of CPU time"
    print(f"{images:,} images: {times}, {megabytes:.0f} MB of memory; {told}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
