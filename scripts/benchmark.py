"""Measure this project against lucent and torch-dreams, and against the bare network, in one run.

    python scripts/benchmark.py --model squeezenet1_1 --weights squeezenet1_1.safetensors \\
        --layers features.7,features.12 --channels '0:256:32;0:512:16' \\
        --others-channels '0:256:64;0:512:128' --image-size 128 --photos photographs/ \\
        --systems ours,lucent,torch-dreams,floor --ours draft,standard --repeats 3

The same network, layers, channels, image size, device and judge for all; each system at its own
defaults (`pip install 'layer-atlas[bench]'` brings the others). Trailing arguments are Hydra
overrides for this project's recipe. Writes a table, `benchmark.json`, a plot and a contact sheet.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The script also runs where the package is not installed.
sys.path.insert(0, str(ROOT / "pipeline"))

import torch  # noqa: E402
from benchmarks.judging import Judge  # noqa: E402
from benchmarks.reporting import gather_facts, report  # noqa: E402
from benchmarks.rounds import Entry, measure  # noqa: E402
from benchmarks.systems import (  # noqa: E402
    Case,
    Floor,
    Lucent,
    LucentInTime,
    Ours,
    System,
    TorchDreams,
)
from judges.photographs import DatasetImages, read_photographs  # noqa: E402

from layer_atlas.config.compose import with_config  # noqa: E402
from layer_atlas.config.config import Config  # noqa: E402
from layer_atlas.config.executors import LocalSettings  # noqa: E402
from layer_atlas.config.records import plain  # noqa: E402
from layer_atlas.errors import EXIT_OK, EXIT_USER_ERROR, UserError, unknown  # noqa: E402
from layer_atlas.plan.jobs import LayerInfo  # noqa: E402
from layer_atlas.plan.plan import ModelPlan  # noqa: E402
from layer_atlas.plan.targets import TargetSpace, select_targets  # noqa: E402
from layer_atlas.sweep.planning import InspectedModel, inspect_models, make_plan  # noqa: E402
from layer_atlas.sweep.planning.devices import find_devices  # noqa: E402
from layer_atlas.visualization.optimization.renderer import Renderer  # noqa: E402

SYSTEMS = ("ours", "lucent", "lucent-in-time", "torch-dreams", "floor")
PACKAGES = {
    "lucent": ("torch-lucent", "lucent"),
    "lucent-in-time": ("torch-lucent", "lucent"),
    "torch-dreams": ("torch_dreams", "torch_dreams"),
}
"""Distribution and module of each system that is not ours."""
REMEDY = "pip install 'layer-atlas[bench]'"
CPU_SECONDS = "cpu_seconds_per_channel"
FEW = 8
"""So many channels the slow systems get unless told otherwise."""


@dataclass(frozen=True)
class Prepared:
    """All that is settled before anything is measured."""

    found: InspectedModel
    plans: dict[str, ModelPlan]
    """By quality preset."""
    device: torch.device
    layers: list[tuple[LayerInfo, tuple[int, ...], tuple[int, ...]]]
    """Each with our channels and the channels that the others get."""
    dataset_images: DatasetImages | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = arguments(argv)
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # lucent takes a GPU wherever it sees one
    try:
        systems, skipped = _available(args.systems)
        prepared = prepare(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    judges = _judges(prepared)
    entries = list(_entries(args, prepared, systems))
    measure(entries, args.repeats)
    facts = gather_facts(argv, vars(args), prepared.device, prepared.dataset_images)
    facts |= {
        "skipped": skipped,
        "recipes": {p: plain(m.recipe) for p, m in prepared.plans.items()},
    }
    report(entries, judges, facts, args.out)
    return EXIT_OK


# --- what is asked for ---------------------------------------------------------------------------


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="demo", help="as in models=[...] of a sweep")
    add("--weights", default="default", help="as in weights=... of a sweep")
    add("--layers", default="conv4", help="names or globs, separated by commas")
    add("--channels", default="0:512:16", help="all, a range or a list; per layer: joined by ';'")
    add("--others-channels", help=f"a subset of them for the others; default: {FEW} of them")
    add("--image-size", type=int, default=128)
    add("--photos", type=Path, help="a folder of photographs to compare with")
    add("--systems", type=_words, default=SYSTEMS, help=f"of {','.join(SYSTEMS)}; default: all")
    add("--ours", type=_words, default=("draft", "standard"), help="quality presets")
    add("--torch-dreams-batch", type=_numbers, default=(8, 32), help="the fastest counts")
    add("--repeats", type=_at_least_one, default=3)
    add("--batch", type=_at_least_one, default=32, help="jobs per forward pass, ours and floor")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--out", type=Path, default=Path("outputs/benchmark"))
    add("overrides", nargs="*", help="Hydra overrides, such as optimizer.steps=24")
    return parser.parse_intermixed_args(argv)


def _words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(_at_least_one(word) for word in _words(text))


def _at_least_one(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return int(text)


def _available(wanted: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The systems that can be measured here, and why the others cannot; raises UserError."""
    skipped: dict[str, str] = {}
    for name in wanted:
        if name not in SYSTEMS:
            raise unknown("system", name, SYSTEMS)
        reason = _missing(name)
        if reason is not None:
            skipped[name] = reason
            print(f"{name}: skipped, {reason}", file=sys.stderr)
    return [name for name in wanted if name not in skipped], skipped


def _missing(system: str) -> str | None:
    distribution, module = PACKAGES.get(system, ("", ""))
    if not module:
        return None
    try:
        __import__(module)
    except ImportError as error:
        return f"package {distribution} cannot be imported ({error}); remedy: {REMEDY}"
    return None


def prepare(args: argparse.Namespace) -> Prepared:
    """Compose the configs as the command line does, load the network; raises UserError."""
    found = find_devices(LocalSettings(devices=args.device))[0]
    device = found.name
    configs = {preset: _config(args, preset) for preset in args.ours}
    if not configs:
        raise UserError("--ours names no quality preset; its first one also sets the floor.")
    inspected = inspect_models(next(iter(configs.values())))
    plans = {p: make_plan(config, inspected, [found]).models[0] for p, config in configs.items()}
    infos = [layer.info for layer in next(iter(plans.values())).layers]
    channels = _per_layer("--channels", args.channels, infos)
    others = [_spread(c) for c in channels]
    if args.others_channels:
        others = _per_layer("--others-channels", args.others_channels, infos)
    for info, ours, few in zip(infos, channels, others, strict=True):
        if not set(few) <= set(ours):
            raise UserError(f"--others-channels: not all of {list(few)} are ours of {info.name}.")
    dataset_images = read_photographs(args.photos, args.image_size) if args.photos else None
    layers = list(zip(infos, channels, others, strict=True))
    return Prepared(inspected[0], plans, torch.device(device), layers, dataset_images)


def _config(args: argparse.Namespace, preset: str) -> Config:
    layers = ",".join(f'"{name}"' for name in _words(args.layers))
    composed: list[Config] = []

    def keep(config: Config) -> int:
        composed.append(config)
        return EXIT_OK

    with _command_line_kept():
        with_config(
            keep,
            [
                f"models=[{args.model}]",
                f'weights="{args.weights}"',
                f"layers=[{layers}]",
                f"image_size={args.image_size}",
                f"quality={preset}",
                *args.overrides,
            ],
        )
    return composed[0]


@contextmanager
def _command_line_kept() -> Iterator[None]:
    """Restore `sys.argv` in the end: Hydra composes from it."""
    argv = sys.argv
    try:
        yield
    finally:
        sys.argv = argv


def _per_layer(option: str, text: str, infos: list[LayerInfo]) -> list[tuple[int, ...]]:
    """The channels of every layer: one selection for all, or one for each."""
    parts = [part.strip() for part in text.split(";")]
    if len(parts) not in (1, len(infos)):
        raise UserError(
            f"{option} {text!r} has {len(parts)} selections for {len(infos)} layers "
            f"({', '.join(info.name for info in infos)}); give one, or one for each."
        )
    parts = parts * len(infos) if len(parts) == 1 else parts
    pairs = zip(parts, infos, strict=True)
    return [
        select_targets(_selection(part), TargetSpace((info.n_channels,)), info.name)
        for part, info in pairs
    ]


def _selection(text: str) -> str | list[int]:
    words = _words(text)
    return [int(word) for word in words] if all(word.isdecimal() for word in words) else text


def _spread(channels: tuple[int, ...]) -> tuple[int, ...]:
    return channels[:: -(-len(channels) // FEW)]


# --- what is measured ----------------------------------------------------------------------------


def _judges(prepared: Prepared) -> dict[str, Judge]:
    recipe = next(iter(prepared.plans.values())).recipe
    renderer = Renderer(prepared.found.network, recipe, prepared.device)
    dataset_images = prepared.dataset_images
    return {info.name: Judge(renderer, info, dataset_images) for info, _, _ in prepared.layers}


def _entries(
    args: argparse.Namespace, prepared: Prepared, systems: Sequence[str]
) -> Iterator[Entry]:
    """Every system on every layer, layer by layer."""
    network, device = prepared.found.network, prepared.device
    benches = {p: Renderer(network, plan.recipe, device) for p, plan in prepared.plans.items()}
    recipe = next(iter(prepared.plans.values())).recipe
    for info, channels, few in prepared.layers:
        case = Case(network, info, args.image_size, device)
        floor = Floor(case, recipe, args.batch) if "floor" in systems else None
        own: list[Entry] = []
        for preset, plan in prepared.plans.items() if "ours" in systems else ():
            ours = Ours(benches[preset], plan, case, preset, args.batch)
            same = plan.recipe.precision == recipe.precision
            ours.floor = floor if same else None
            own.append(Entry(ours, case, channels, few))
        yield from own
        if floor is not None:
            yield Entry(floor, case, (0,), ())
        for system in _others(args, case, systems, own):
            yield Entry(system, case, few, few)


def _others(
    args: argparse.Namespace, case: Case, systems: Sequence[str], own: Sequence[Entry]
) -> Iterator[System]:
    makers: list[Callable[[], System]] = []
    if "torch-dreams" in systems:
        makers += [partial(TorchDreams, case, batch) for batch in args.torch_dreams_batch]
    if "lucent" in systems:
        makers.append(partial(Lucent, case))
    if "lucent-in-time" in systems and own:
        makers.append(partial(LucentInTime, case, lambda: own[-1].timings[CPU_SECONDS][-1]))
    for make in makers:
        if case.info.channel_axis == 1:
            yield make()
        else:
            print(f"{case.info.name}: ours alone; the others take channels on axis 1 only")
            return


if __name__ == "__main__":
    sys.exit(main())
