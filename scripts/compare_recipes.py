"""Compare recipes by what their images are worth, against photographs.

    python scripts/compare_recipes.py --model squeezenet1_1 --weights squeezenet1_1.safetensors \\
        --layers features.7,features.12 --channels '0:256:32;0:512:16' --image-size 128 \\
        --photos photographs/ --out compared/ \\
        standard='' maco='parameterization=maco optimizer.learning_rate=0.3'

Each recipe is a name and Hydra overrides. Writes a table to the screen, all numbers to
`compared.json`, and a contact sheet per layer with one recipe to a row. `others` is the agreement
with the nine photographs after the strongest one; `above` the fraction of live channels whose image
excites the channel more than every photograph does; seconds are of the processor, per channel,
of the ascent alone. For comparison, the first row of a layer judges each channel's strongest
photograph as if it were an image.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# The script also runs where the package is not installed.
sys.path.insert(0, str(ROOT / "pipeline"))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from benchmarks.judging import DatasetImages, read_photographs  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from PIL import Image  # noqa: E402
from torch import Tensor  # noqa: E402

from layer_atlas.config.compose import with_config  # noqa: E402
from layer_atlas.config.config import Config  # noqa: E402
from layer_atlas.config.recipe import DatasetInit  # noqa: E402
from layer_atlas.datasets.evidence import (  # noqa: E402
    STRONGEST,
    Reference,
    agreement,
    make_reference,
    standardised,
)
from layer_atlas.datasets.statistics import strongest  # noqa: E402
from layer_atlas.errors import EXIT_OK, EXIT_USER_ERROR, UserError  # noqa: E402
from layer_atlas.models.colours import from_bytes  # noqa: E402
from layer_atlas.plan.jobs import STATUS, LayerInfo, Series  # noqa: E402
from layer_atlas.plan.plan import ModelPlan  # noqa: E402
from layer_atlas.plan.targets import TargetSpace, select_targets  # noqa: E402
from layer_atlas.sweep.planning import InspectedModel, inspect_models, make_plan  # noqa: E402
from layer_atlas.visualization.optimization.image_statistics import (  # noqa: E402
    clipped_share,
    high_frequency_share,
)
from layer_atlas.visualization.optimization.loop import Jobs  # noqa: E402
from layer_atlas.visualization.optimization.renderer import LayerRenderer, Renderer  # noqa: E402

BATCH = 32
COLUMNS = ("agreement", "others", "rank", "high_frequency", "clipped", "dead", "above")
COLUMNS += ("activation", "robust", "seconds")
PHOTOGRAPH = "strongest photograph"


def main() -> int:
    args = _arguments()
    try:
        dataset_images = read_photographs(args.photos, args.image_size)
        recipes = {name: _plan(args, overrides) for name, overrides in args.recipes}
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    args.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, Any]] = {name: {} for name in recipes}
    print("| layer | recipe | " + " | ".join(COLUMNS) + " |\n" + "|---" * (2 + len(COLUMNS)) + "|")
    _, first = next(iter(recipes.values()))
    for info, channels in _layers(args, first):
        rows, answers = [], None
        for name, (network, plan) in recipes.items():
            made = Comparison(network, plan, info, dataset_images, answers)
            answers = made.answers
            numbers, pixels = made.numbers(channels, args.seeds)
            if not rows:
                _tell(info.name, PHOTOGRAPH, made.of_photographs(channels))
            found[name][info.name] = numbers
            rows.append(pixels[: args.pictures])
            _tell(info.name, name, numbers)
        sheet = torch.cat([torch.cat(list(row), dim=1) for row in rows])
        Image.fromarray(sheet.numpy()).save(args.out / f"{info.name}.png")
    (args.out / "compared.json").write_text(
        json.dumps({"argv": sys.argv, "found": found}, indent=1)
    )
    return EXIT_OK


def _tell(layer: str, name: str, numbers: dict[str, float]) -> None:
    values = (f"{numbers[column]:.3g}" if column in numbers else "" for column in COLUMNS)
    print(f"| {layer} | {name} | {' | '.join(values)} |", flush=True)


def _arguments() -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    add = parser.add_argument
    add("--model", default="demo", help="as in models=[...] of a sweep")
    add("--weights", default="default", help="as in weights=... of a sweep")
    add("--layers", required=True, help="names, separated by commas")
    add("--channels", required=True, help="a range per layer, joined by ';'")
    add("--image-size", type=int, default=128)
    add("--photos", type=Path, required=True, help="a folder of photographs to compare with")
    add("--seeds", type=lambda text: [int(word) for word in text.split(",")], default=[0])
    add("--pictures", type=int, default=10, help="how many channels the contact sheets show")
    add("--out", type=Path, required=True)
    add("recipes", nargs="+", type=lambda text: text.split("=", 1), help="NAME='OVERRIDES'")
    return parser.parse_args()


def _plan(args: argparse.Namespace, overrides: str) -> tuple[InspectedModel, ModelPlan]:
    layers = ",".join(f'"{name}"' for name in args.layers.split(","))
    sweep = [f"models=[{args.model}]", f'weights="{args.weights}"', f"layers=[{layers}]"]
    composed: list[Config] = []

    def keep(config: Config) -> int:
        composed.append(config)
        return EXIT_OK

    argv = sys.argv  # Hydra composes what it reads there
    with_config(keep, [*sweep, f"image_size={args.image_size}", *overrides.split()])
    sys.argv = argv
    inspected = inspect_models(composed[0])
    (plan,) = make_plan(composed[0], inspected, ["cpu"]).models
    return inspected[0], plan


def _layers(
    args: argparse.Namespace, plan: ModelPlan
) -> Iterator[tuple[LayerInfo, tuple[int, ...]]]:
    infos = [layer.info for layer in plan.layers]
    for info, text in zip(infos, args.channels.split(";"), strict=True):
        yield info, select_targets(text, TargetSpace((info.n_channels,)), info.name)


class Comparison:
    """One recipe on one layer, beside photographs."""

    def __init__(
        self,
        found: InspectedModel,
        plan: ModelPlan,
        info: LayerInfo,
        dataset_images: DatasetImages,
        answers: NDArray[np.float32] | None,
    ) -> None:
        self.plan, self.info, self.dataset_images = plan, info, dataset_images
        renderer = Renderer(found.network, plan.recipe, torch.device("cpu"))
        self.renderer: LayerRenderer = renderer.layer(info)
        self.answers = self._answers() if answers is None else answers
        self.reference = make_reference(self.answers)
        self.others = _of_the_next(self.reference, self.answers)

    def of_photographs(self, channels: Sequence[int]) -> dict[str, float]:
        """Results of the strongest photograph of each channel."""
        target = np.asarray(channels)
        first = self.answers.argmax(axis=0)[target]
        pixels = self.dataset_images.pixels[first]
        return {
            **self._agreement(self.answers[first], target),
            "high_frequency": float(high_frequency_share(pixels).mean()),
            "clipped": float(clipped_share(pixels).mean()),
            "activation": float(self.answers[first, target].mean()),
        }

    def _agreement(
        self, responses: NDArray[np.float32], target: NDArray[np.integer[Any]]
    ) -> dict[str, float]:
        agrees, rank = agreement(self.reference, responses, target)
        others, _ = agreement(self.others, responses, target)
        return {
            "agreement": float(agrees.mean()),
            "others": float(others.mean()),
            "rank": float(np.median(rank)),
        }

    @torch.no_grad()
    def _answers(self) -> NDArray[np.float32]:
        """How the layer's channels respond to the photographs: (N, K)."""
        parts = self.dataset_images.pixels.split(BATCH)
        answers = [self.renderer.exact(from_bytes(part))[0].mean(dim=2) for part in parts]
        return torch.cat(answers).numpy()

    def numbers(
        self, channels: Sequence[int], seeds: Sequence[int]
    ) -> tuple[dict[str, float], Tensor]:
        """Results of the images of channels, and the images of the first seed."""
        jobs = [(channel, seed) for seed in seeds for channel in channels]
        made = [self._make(jobs[i : i + BATCH]) for i in range(0, len(jobs), BATCH)]
        joined = {name: np.concatenate([part[name] for part in made]) for name in made[0]}
        target = np.asarray([channel for channel, _ in jobs])
        live = joined["status"] != STATUS["dead"]
        above = joined["activation"] > self.answers.max(axis=0)[target]
        return {
            **self._agreement(joined["response"], target),
            "high_frequency": float(joined["high_frequency"].mean()),
            "clipped": float(joined["clipped"].mean()),
            "dead": int((~live).sum()),
            "above": float(above[live].mean()),
            "activation": float(joined["activation"].mean()),
            "robust": float(joined["activation_robust"].mean()),
            "seconds": self._seconds(jobs),
        }, torch.from_numpy(joined["image"])

    def _make(self, jobs: list[tuple[int, int]]) -> dict[str, Any]:
        channels = [channel for channel, _ in jobs]
        made = self.renderer.make(self._keys(jobs), channels, dataset_images=self._starts(channels))
        return {name: array for name, array in made.items() if name != "trace_step"}

    def _keys(self, jobs: list[tuple[int, int]]) -> list[str]:
        plan, name = self.plan, self.info.name
        series = Series(plan.label, plan.network, name, 0, plan.recipe)
        return [replace(series, seed=seed).job_key(channel) for channel, seed in jobs]

    def _starts(self, channels: list[int]) -> Tensor | None:
        """The strongest photograph of each channel, where the recipe starts from it."""
        if not isinstance(self.plan.recipe.init, DatasetInit):
            return None
        return from_bytes(self.dataset_images.pixels[self.answers.argmax(axis=0)[channels]])

    def _seconds(self, jobs: list[tuple[int, int]]) -> float:
        """Processor time per job of the ascent alone, of one batch, after a first one."""
        batch = jobs[:BATCH]
        keys = torch.tensor([[channel, seed] for channel, seed in batch])
        channels = [channel for channel, _ in batch]
        took = []
        for _ in range(2):
            started = time.process_time()
            again = Jobs(keys, torch.tensor(channels), self._starts(channels))
            self.renderer.loop.optimize(again, lambda step: None)
            took.append(time.process_time() - started)
        return min(took) / len(batch)


def _of_the_next(reference: Reference, answers: NDArray[np.float32]) -> Reference:
    """A reference of the nine photographs after each channel's strongest."""
    dataset_images = answers[strongest(answers, STRONGEST + 1)[:, 1:]].mean(
        axis=1, dtype=np.float64
    )
    templates = standardised(dataset_images, reference.mean, reference.std)
    return replace(reference, templates=templates)


if __name__ == "__main__":
    sys.exit(main())
