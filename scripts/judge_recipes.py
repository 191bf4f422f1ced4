"""Judge recipes by what their images are worth, against photographs and by other networks.

    python scripts/judge_recipes.py --model squeezenet1_1 --weights squeezenet1_1.safetensors \\
        --layers features.7,features.12,output --channels '0:256:32;0:512:16;0:1000:64' \\
        --image-size 128 --photos photographs/ --classes classes.csv \\
        --judge resnet50 --observer '{name: resnet18, layers: [layer4.1]}' --seeds 0,1 \\
        --random-weights '{name: squeezenet1_1, weights: none}' --out judged/ \\
        standard='' maco='parameterization=maco optimizer.learning_rate=0.3'

Each recipe is a name and Hydra overrides. The images of the layer `output` are those of classes.
Prints a Markdown table per layer, one recipe to a column, beside what the target's own photographs
reach. Writes all numbers, also those of single images, to `judged.json`, a contact sheet per layer,
and every image as a file for `blind_naming.py`. `--images` judges those of another tool alike.
`docs/fidelity.md` explains the measures.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# The script also runs where the package is not installed.
sys.path.insert(0, str(ROOT / "pipeline"))

import numpy as np  # noqa: E402
from judges.making import Maker, PlannedRecipe, Planner  # noqa: E402
from judges.networks import Features, JudgeNetwork  # noqa: E402
from judges.photographs import (  # noqa: E402
    DatasetImages,
    read_classes,
    read_images,
    read_photographs,
)
from judges.sheets import labelled_rows  # noqa: E402
from judges.verdicts import NINE, STRONGEST_PHOTOGRAPH, LayerJudges, Verdict  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from PIL import Image  # noqa: E402
from torch import Tensor  # noqa: E402

from layer_atlas.errors import EXIT_OK, EXIT_USER_ERROR, UserError  # noqa: E402
from layer_atlas.models.activations import OUTPUT  # noqa: E402
from layer_atlas.plan.targets import select_targets  # noqa: E402

RANDOM = "random weights"


@dataclass(frozen=True)
class Subject:
    """A network whose layers are judged under each recipe."""

    title: str
    """Empty, or what distinguishes it from the network that the user is about."""
    recipes: Mapping[str, Mapping[str, PlannedRecipe]]
    """By name and layer."""
    images: Mapping[str, Mapping[str, Tensor]]
    """(n, H, W, 3) that other tools made, by name and layer."""


@dataclass
class Judged:
    """What a layer's judges found, and what the contact sheet shows."""

    columns: dict[str, Verdict] = field(default_factory=dict)
    pictures: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    """(n, H, W, 3) images of the first seed, by column."""


def main(argv: Sequence[str] | None = None) -> int:
    args = _arguments(argv)
    try:
        _check_names([name for name, _ in [*args.recipes, *args.images]])
        judges, subjects, targets = _prepared(args)
        judged: dict[str, Any] = {}
        for title, layer in _judge_all(args, judges, subjects, targets):
            judged[title] = layer
            # After every layer: a run of many recipes may be stopped.
            _write(args.out / "judged.json", argv or sys.argv[1:], judged)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return EXIT_OK


def _write(file: Path, argv: Sequence[str], judged: Mapping[str, Any]) -> None:
    text = json.dumps({"argv": list(argv), "judged": judged}, indent=1, allow_nan=False)
    file.write_text(text + "\n")


@dataclass(frozen=True)
class Judges:
    """What every layer is judged by."""

    photographs: DatasetImages
    classes: NDArray[np.int64] | None
    classifiers: Sequence[JudgeNetwork]
    observers: Sequence[JudgeNetwork]
    features: Sequence[Features]
    """Features of the photographs in each observer."""


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    add = parser.add_argument
    add("--model", default="demo", help="as in models=[...] of a sweep")
    add("--weights", default="default", help="as in weights=... of a sweep")
    add("--layers", required=True, help="names, separated by commas; `output` is about classes")
    add("--channels", required=True, help="targets of each layer as in channels=..., joined by ';'")
    add("--image-size", type=int, default=128)
    add("--photos", type=Path, required=True, help="a folder of photographs to compare with")
    add("--classes", type=Path, help="JSON or CSV file: class index of each photograph's file name")
    add("--judge", action="append", default=[], help="a classifier, as an entry of models=[...]")
    add("--observer", action="append", default=[], help="an entry whose `layers` name one layer")
    add("--random-weights", help="entry of the same architecture with random weights, a control")
    add("--seeds", type=lambda text: [int(word) for word in text.split(",")], default=[0])
    add(
        "--images",
        action="append",
        default=[],
        type=_images,
        help="NAME=FOLDER with LAYER/TARGET.png that another tool made, judged after the recipes",
    )
    add("--pictures", type=int, default=10, help="how many targets the contact sheets show")
    add("--out", type=Path, required=True)
    add("recipes", nargs="+", type=_recipe, help="NAME='OVERRIDES'")
    return parser.parse_args(argv)


def _recipe(text: str) -> tuple[str, str]:
    name, equals, overrides = text.partition("=")
    # The name becomes that of a folder.
    if not equals or not re.fullmatch(r"[\w .,+-]*\w[\w .,+-]*", name):
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME='OVERRIDES'")
    return name, overrides


def _images(text: str) -> tuple[str, Path]:
    name, folder = _recipe(text)
    return name, Path(folder)


# --- preparation ---------------------------------------------------------------------------------


def _check_names(names: Sequence[str]) -> None:
    """Check that every column of a table has a name of its own; raises UserError."""
    taken = [*names, STRONGEST_PHOTOGRAPH, NINE]
    if twice := [name for name in names if taken.count(name) > 1]:
        raise UserError(f"the name {twice[0]!r} is taken; give each recipe a name of its own.")


def _prepared(
    args: argparse.Namespace,
) -> tuple[Judges, list[Subject], dict[str, tuple[int, ...]]]:
    """Check everything before anything is computed; raises UserError."""
    layers, selections = args.layers.split(","), args.channels.split(";")
    if len(selections) != len(layers):
        raise UserError(f"--channels has {len(selections)} selections for {len(layers)} layers.")
    photographs = read_photographs(args.photos, args.image_size)
    classes = read_classes(args.classes, photographs.names) if args.classes else None
    classifiers = [JudgeNetwork(entry, output=True) for entry in args.judge]
    observers = [JudgeNetwork(entry) for entry in args.observer]
    models = {"": (args.model, args.weights)}
    if args.random_weights:
        models[RANDOM] = (args.random_weights, args.weights)
    plans = {title: _plans(args, *model, layers) for title, model in models.items()}
    planned = next(iter(plans[""].values()))
    pairs = zip(layers, selections, strict=True)
    targets = {
        layer: select_targets(text, planned[layer].space(layer), layer) for layer, text in pairs
    }
    others = {
        name: {
            layer: read_images(folder / layer, chosen, args.image_size)
            for layer, chosen in targets.items()
        }
        for name, folder in args.images
    }
    subjects = [Subject(t, plans[t], {} if t else others) for t in models]
    _check_classes(classifiers, targets.get(OUTPUT, ()))
    for judge in classifiers:
        judge(photographs.pixels[:1])  # its weights may lack the last layer
    args.out.mkdir(parents=True, exist_ok=True)
    features = [observer(photographs.pixels) for observer in observers]
    return Judges(photographs, classes, classifiers, observers, features), subjects, targets


def _plans(
    args: argparse.Namespace, model: str, weights: str, layers: Sequence[str]
) -> dict[str, dict[str, PlannedRecipe]]:
    settings = [f"models=[{model}]", f'weights="{weights}"', f"image_size={args.image_size}"]
    planner = Planner(settings, layers)
    return {name: planner.plan(name, overrides) for name, overrides in args.recipes}


def _check_classes(classifiers: Sequence[JudgeNetwork], classes: Sequence[int]) -> None:
    for judge in classifiers:
        if classes and max(classes) >= judge.n_features:
            raise UserError(
                f"--judge {judge.label} has {judge.n_features} classes, and class {max(classes)} "
                "is judged; choose a network that was trained on the same classes."
            )


# --- judging -------------------------------------------------------------------------------------


def _judge_all(
    args: argparse.Namespace,
    judges: Judges,
    subjects: Sequence[Subject],
    targets: Mapping[str, tuple[int, ...]],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the title of each layer and its numbers as plain data, once they are printed."""
    for subject in subjects:
        for layer, channels in targets.items():
            judged = _judge_layer(args, judges, subject, layer, channels)
            title = ", ".join(filter(None, [layer, subject.title]))
            print(f"\n{title}: {len(channels)} targets\n\n{table(judged.columns)}", flush=True)
            _draw(args, title, channels, judged.pictures)
            columns = {name: verdict.plain() for name, verdict in judged.columns.items()}
            yield title, {"targets": list(channels), "columns": columns}


def _judge_layer(
    args: argparse.Namespace,
    judges: Judges,
    subject: Subject,
    layer: str,
    channels: Sequence[int],
) -> Judged:
    judged, of_layer = Judged(), None
    for name, recipes in subject.recipes.items():
        maker = Maker(recipes[layer], layer, judges.photographs.pixels)
        if of_layer is None:
            of_layer = _layer_judges(judges, maker, layer, channels)
            judged.columns = dict(of_layer.photographs)
            judged.pictures[STRONGEST_PHOTOGRAPH] = of_layer.strongest_photographs.numpy()
        used = of_layer.photographs_for(maker.n_photographs)
        photographs = None if used is None else of_layer.pixels[used]
        made = maker.make(channels, args.seeds, photographs)
        judged.columns[name] = of_layer.judge(made, len(args.seeds), used)
        images = made["image"].reshape(len(args.seeds), len(channels), *made["image"].shape[1:])
        judged.pictures[name] = images[0]
        print(f"{layer}: {name} is judged", file=sys.stderr)
    for name, layers in subject.images.items():
        assert of_layer is not None  # there is a recipe
        judged.columns[name] = of_layer.judge(maker.measured(channels, layers[layer]), 1)
        judged.pictures[name] = layers[layer].numpy()
    return judged


def _layer_judges(judges: Judges, maker: Maker, layer: str, channels: Sequence[int]) -> LayerJudges:
    of_classes = layer == OUTPUT
    return LayerJudges(
        targets=np.asarray(channels),
        pixels=judges.photographs.pixels,
        responses=maker.responses(judges.photographs.pixels),
        classifiers=judges.classifiers if of_classes else (),
        observers=judges.observers,
        features=judges.features,
        classes=judges.classes if of_classes else None,
    )


# --- output --------------------------------------------------------------------------------------


def table(columns: Mapping[str, Verdict]) -> str:
    """The summaries as a Markdown table: a measure to a row, in the order of the first mention."""
    # A recipe has every measure; photographs have some, and some of their own.
    verdicts = sorted(columns.values(), key=lambda verdict: -len(verdict.summary))
    measures = list(dict.fromkeys(name for verdict in verdicts for name in verdict.summary))
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for measure in measures:
        cells = (_cell(verdict.summary.get(measure)) for verdict in columns.values())
        lines.append(f"| {measure} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "" if value is None or not np.isfinite(value) else f"{value:.3g}"


def _draw(
    args: argparse.Namespace,
    title: str,
    channels: Sequence[int],
    pictures: Mapping[str, NDArray[np.uint8]],
) -> None:
    """Write the contact sheet, and every image to a file of its own."""
    stem = title.replace(", ", "_").replace(" ", "_")
    rows = [
        (name, [(tile, "") for tile in images[: args.pictures]])
        for name, images in pictures.items()
    ]
    heads = [str(channel) for channel in channels[: args.pictures]]
    labelled_rows(title, heads, rows).save(args.out / f"{stem}.png")
    for name, images in pictures.items():
        folder = args.out / "images" / name / stem
        folder.mkdir(parents=True, exist_ok=True)
        for channel, pixels in zip(channels, images, strict=True):
            Image.fromarray(pixels).save(folder / f"{channel}.png")


if __name__ == "__main__":
    sys.exit(main())
