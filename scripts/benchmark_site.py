"""Measure the site of a synthetic atlas: how long it takes, how large it is, how it scrolls.

    python scripts/benchmark_site.py
    python scripts/benchmark_site.py --layers 15 --channels 2048 --size 128 --no-browser
    python scripts/benchmark_site.py --channels 256 --targets 65536 --size 32 --map pca

Makes layers of so many channels in a temporary folder, with images of random texture. Shards, atlas
and site are written by the package's own means, the latter two by commands in processes of their
own. Then Chromium opens the first layer, in three windows, as it is and sorted, each in a browser
that was just started: when are all tiles in the window shown, and when as sharp as they will be?
And for how long do tiles stay blank while the wheel is turned to the end? All this is seen on the
frames that the browser shows, not asked of the page. With `--targets` the images are of so many
directions of the layer; with `--map` their similarity map is opened instead.
"""

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from benchmarks.screencast import first_view, map_view, scroll
from numpy.typing import NDArray

from layer_atlas.config.compose import with_config
from layer_atlas.config.config import Config
from layer_atlas.config.recipe import recorded_steps
from layer_atlas.errors import EXIT_OK
from layer_atlas.plan.jobs import Shard, ShardResult
from layer_atlas.store.folder import output_folder, prepare
from layer_atlas.store.manifest import write_manifest
from layer_atlas.store.shards import commit
from layer_atlas.sweep.run import prepare_plan

ROOT = Path(__file__).resolve().parents[1]
WINDOWS = (360, 780), (1280, 800), (3840, 2160)
_TIMES = 3
PATHS = [str(ROOT / "pipeline"), str(ROOT / "scripts")]  # the package, and the network below


@dataclass(frozen=True)
class Measured:
    """One command, from its start to its end."""

    seconds: float
    megabytes: float
    """The most that one of its processes had in memory."""


def main(argv: Sequence[str] | None = None) -> int:
    """Make the atlas, measure, print a line per number; returns the exit code."""
    args = _arguments(argv)
    os.environ["PYTHONPATH"] = os.pathsep.join(PATHS)
    sys.path[:0] = PATHS
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="site-") as root:
        overrides = _overrides(args, root)
        with_config(_make, overrides)
        collated = _measure("collate", overrides)
        made = _measure("site", [*overrides, "collate.site=true"])
        site = Path(root) / "site" / "site"
        _report(args, collated, made, site)
        if args.browser and args.map != "none":
            _open_map(site / "index.html")
        elif args.browser:
            _browse(site / "index.html")
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--channels", type=int, default=2048)
    parser.add_argument("--size", type=int, default=128, help="of images, in pixels")
    parser.add_argument("--targets", type=int, help="random directions; default: channels")
    parser.add_argument("--map", choices=("none", "umap", "pca"), default="none")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--browser", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args(argv)


def _overrides(args: argparse.Namespace, root: str) -> list[str]:
    network = f"args: {{layers: {args.layers}, channels: {args.channels}}}"
    target = "target: benchmarks.finished.wide_network"
    directions = []
    if args.targets:
        path = Path(root) / "directions.npy"
        rows = np.random.default_rng(1).normal(size=(args.targets, args.channels))
        np.save(path, rows.astype(np.float32))
        directions = ["objective=direction", f"objective.vectors={path}"]
    return [
        *directions,
        f"collate.map={args.map}",
        f"output_root={root}",
        "name=site",
        f"models=[{{name: wide, {target}, {network}, weights: none, input_size: {args.size}}}]",
        "layers=[layer*]",
        "executor.devices=[cpu]",
        "collate.site=false",
    ]


# --- an atlas of textures ------------------------------------------------------------------------


def _make(config: Config) -> int:
    plan, devices = prepare_plan(config)
    folder = output_folder(config.output_root, config.name)
    prepare(folder, 0)
    write_manifest(folder, config, plan, devices)
    rng = np.random.default_rng(0)
    for shard in plan.shards():
        commit(folder, shard, _made_up(shard, plan.models[0].layers[0].info.n_channels, rng))
    return EXIT_OK


def _made_up(shard: Shard, width: int, rng: np.random.Generator) -> ShardResult:
    """Results of a shard: textured images, random numbers, curves that rise."""
    n, steps = len(shard.targets), recorded_steps(shard.series.recipe)
    activation = rng.gamma(3.0, 2.0, n).astype(np.float32)
    rise = 1 - np.exp(-np.arange(len(steps), dtype=np.float32) / 8)
    arrays = {
        "target": np.asarray(shard.targets),
        "image": np.stack(list(_textures(n, shard.series.recipe.image_size, rng))),
        "status": np.zeros(n, np.uint8),
        "activation": activation,
        "activation_robust": activation * np.float32(0.9),
        "activation_max": activation * np.float32(1.5),
        "high_frequency": rng.uniform(0, 0.1, n).astype(np.float32),
        "clipped": rng.uniform(0, 0.01, n).astype(np.float32),
        "trace": activation[:, None] * rise,
        "trace_step": np.asarray(steps),
        "response": rng.normal(size=(n, width)).astype(np.float32),
    }
    return ShardResult(arrays, {"seconds_per_job": 0.1, "device": "cpu"})


def _textures(
    n: int, size: tuple[int, int], rng: np.random.Generator
) -> Iterator[NDArray[np.uint8]]:
    """Coloured noise whose spectrum falls as that of optimized images, in their contrast."""
    height, width = size
    down, across = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    fall = np.maximum(np.hypot(down, across), 1 / max(size)) ** -1.5
    for _ in range(n):
        noise = rng.normal(size=(3, height, width // 2 + 1, 2)) @ (1, 1j)
        waves = np.fft.irfft2(noise * fall, s=size).transpose(1, 2, 0)
        yield (255 / (1 + np.exp(-2 * waves / waves.std()))).astype(np.uint8)


# --- measuring -----------------------------------------------------------------------------------


def _measure(command: str, overrides: Sequence[str]) -> Measured:
    """Run a command, and ask the kernel for the largest of its processes."""
    told = (
        "import resource, subprocess, sys;"
        "code = subprocess.run(sys.argv[1:], stdout=sys.stderr).returncode;"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    )
    argv = [sys.executable, "-c", told, sys.executable, "-m", "layer_atlas", command, *overrides]
    begun = time.monotonic()
    said = subprocess.run(argv, capture_output=True, text=True, check=False)
    if said.returncode:
        sys.exit(said.stderr)
    return Measured(time.monotonic() - begun, int(said.stdout.split()[-1]) / 1024)


def _report(args: argparse.Namespace, collated: Measured, made: Measured, site: Path) -> None:
    files = [path for path in site.rglob("*") if path.is_file()]
    own = [path for path in files if path.parent.parent == site and path.suffix in (".js", ".css")]
    code = sum(path.stat().st_size for path in own if path.name != "index.js")
    total = sum(path.stat().st_size for path in files)
    out = io.StringIO()
    print(f"{args.layers * (args.targets or args.channels)} images of {args.size} px", file=out)
    print(f"atlas and montages: {collated.seconds:.1f} s, {collated.megabytes:.0f} MB", file=out)
    print(f"site: {made.seconds:.1f} s, {made.megabytes:.0f} MB of memory", file=out)
    print(f"site on disk: {total / 1e6:.1f} MB in {len(files)} files", file=out)
    print(f"own code: {code / 1e3:.1f} kB", file=out, end="")
    print(out.getvalue(), flush=True)


def _open_map(index: Path) -> None:
    for size in WINDOWS:
        views = [map_view(index, "#/wide/layer0?view=map", size) for _ in range(_TIMES)]
        seconds, megabytes, frame = (
            statistics.median(values) for values in zip(*map(astuple, views), strict=True)
        )
        words = f"map in {size[0]} x {size[1]}: all points after {seconds:.2f} s"
        print(f"{words}, {megabytes:.0f} MB; drawn anew in {1000 * frame:.0f} ms", flush=True)


def _browse(index: Path) -> None:
    for size in WINDOWS:
        for words, query in (("by number", ""), ("sorted", "?sort=activation")):
            seen = [first_view(index, f"#/wide/layer0{query}", size) for _ in range(_TIMES)]
            full, sharp = (
                statistics.median(times) for times in zip(*map(astuple, seen), strict=True)
            )
            told = f"{size[0]} x {size[1]}, {words}: all tiles after {full:.2f} s"
            print(f"{told}, sharp after {sharp:.2f} s", flush=True)
    scrolled = scroll(index, "#/wide/layer0", WINDOWS[1])
    print(
        f"scrolled to the end in {scrolled.seconds:.1f} s, {scrolled.frames} frames; "
        f"no tile was blank for more than {1000 * scrolled.longest_blank:.0f} ms"
    )


if __name__ == "__main__":
    sys.exit(main())
