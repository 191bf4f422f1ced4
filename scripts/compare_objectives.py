"""What each objective costs beside `channel`: seconds per sample of the ascent, on one layer.

    python scripts/compare_objectives.py --model squeezenet1_1 --weights FILE --layer features.7

Every round times all objectives once, one after the other, in batches of the same number of
samples; the table holds the median over rounds of the ratio to `channel` in the same round.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from layer_atlas.config.config import ModelConfig
from layer_atlas.config.objectives import (
    AccentuationObjective,
    CaricatureObjective,
    ChannelObjective,
    CustomObjective,
    DirectionObjective,
    DiversityObjective,
    InterpolationObjective,
    InversionObjective,
    JointObjective,
    LayerObjective,
    NeuronObjective,
    Objective,
    ProbabilityObjective,
    Term,
)
from layer_atlas.config.optimizers import Adam
from layer_atlas.config.parameterizations import Fourier
from layer_atlas.config.recipe import Recipe, Regularizers, Transforms
from layer_atlas.models.introspection import describe_layers
from layer_atlas.models.load import Network, load_network
from layer_atlas.plan.jobs import LayerInfo
from layer_atlas.plan.plan import LayerRef
from layer_atlas.visualization import rng
from layer_atlas.visualization.optimization.loop import Jobs
from layer_atlas.visualization.optimization.renderer import LayerRenderer, Renderer

SAMPLES = 32
PHOTOGRAPH = "photograph.png"


def strongest(activations: Tensor, channel: Tensor) -> Tensor:
    """The largest response of each channel (B,), as an example of a function of one's own."""
    return activations[torch.arange(len(channel)), channel].amax(dim=1)


def objectives(layer: str) -> dict[str, Objective]:
    """Every objective that is about one layer, and two joint ones."""
    return {
        "channel": ChannelObjective(),
        "channel, both signs": ChannelObjective(sign="both"),
        "neuron": NeuronObjective(),
        "direction": DirectionObjective(),
        "direction, cosine power 2": DirectionObjective(cosine_power=2.0),
        "probability": ProbabilityObjective(),
        "layer": LayerObjective(),
        "custom": CustomObjective(function="compare_objectives.strongest"),
        "diversity, 4 images": DiversityObjective(),
        "interpolation, 4 images": InterpolationObjective(images=4),
        "caricature": CaricatureObjective(photograph=PHOTOGRAPH),
        "inversion": InversionObjective(photograph=PHOTOGRAPH),
        "accentuation": AccentuationObjective(photograph=PHOTOGRAPH),
        "joint, two channels of the layer": JointObjective(terms=(Term(layer), Term(layer))),
        "joint, the layer of two networks": JointObjective(terms=(Term(layer), Term(layer))),
    }


def main() -> None:
    """Measure and print the table."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    network = load_network(ModelConfig(args.model, weights=args.weights))
    size = (args.image_size, args.image_size)
    layers = {i.name: i for i in describe_layers(network.module, network.example(size))}
    with tempfile.TemporaryDirectory() as folder:
        noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((256, 256)).save(Path(folder) / PHOTOGRAPH)
        runs = {
            name: _run(_bench(name, record, network, layers[args.layer], size, folder))
            for name, record in objectives(args.layer).items()
        }
        seconds = _rounds(runs, args.rounds)
    print("| objective | seconds per sample | beside `channel` |\n|---|---|---|")
    for name, taken in seconds.items():
        ratios = [t / c for t, c in zip(taken, seconds["channel"], strict=True)]
        print(f"| {name} | {statistics.median(taken):.4f} | {statistics.median(ratios):.2f} |")


def _bench(
    name: str,
    record: Objective,
    network: Network,
    info: LayerInfo,
    size: tuple[int, int],
    folder: str,
) -> LayerRenderer:
    recipe = Recipe(
        objective=record,
        parameterization=Fourier(),
        transforms=Transforms(),
        optimizer=Adam(steps=12, leaky_steps=4),
        image_size=size,
        precision="fp32",
        regularizers=Regularizers(blur=0.4),
    )
    other = replace(network, label="other")
    label = "other" if "two networks" in name else network.label
    taps = [LayerRef(label, network.identity, info)] if isinstance(record, JointObjective) else []
    find = Path(folder).joinpath
    return Renderer(network, recipe, torch.device("cpu"), {"other": other}, find).layer(info, taps)


def _run(renderer: LayerRenderer) -> Callable[[], float]:
    """Seconds per sample of one ascent."""
    variants = renderer.recipe.variants
    n = SAMPLES // variants
    keys = rng.keys([f"{i:016x}" + "0" * 48 for i in range(n)])
    targets = torch.arange(n) % int(np.prod(renderer.objective.sizes))
    jobs = Jobs(keys, targets).with_variants(variants)

    def run() -> float:
        started = time.perf_counter()
        renderer.loop.optimize(jobs, lambda step: None)
        return (time.perf_counter() - started) / len(jobs.keys)

    return run


def _rounds(runs: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    for run in runs.values():
        run()
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            found[name].append(run())
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--weights", default="default")
    parser.add_argument("--layer", default="conv5")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    main()
