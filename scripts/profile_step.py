"""How the time of an optimization step divides, beside the floor: the bare network's two passes.

    python scripts/profile_step.py --model squeezenet1_1 --weights squeezenet1_1.safetensors \
        --layers features.7,features.12 --image-size 128 --batch 32

Options and trailing overrides are those of `benchmark.py`. Every part of a step is called by itself
on the tensors of a real batch, in turn with the whole step and the floor, and the medians of the
CPU time are printed (on a GPU: of the time until the device is done). Parts that do not add up to
the step would show here.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence

import benchmark
import torch
from benchmarks.systems import Case, Floor, pytorch_defaults, wait
from torch import Tensor

from layer_atlas.errors import EXIT_OK, EXIT_USER_ERROR, UserError
from layer_atlas.visualization import rng
from layer_atlas.visualization.gradients import PolyphaseStem
from layer_atlas.visualization.optimization.loop import GradientAscent, Jobs
from layer_atlas.visualization.optimization.renderer import LayerRenderer, Renderer
from layer_atlas.visualization.transforms import apply_views

ROUNDS = 9
"""How often everything is called, after a call that does not count."""

Parts = dict[str, Callable[[], object]]


def parts_of_a_step(layer: LayerRenderer, batch: int) -> Parts:
    """Return the whole step and each of its parts, as functions to be timed."""
    assert isinstance(layer.loop, GradientAscent), "octaves are a loop each"
    device, ascent = layer.device, layer.loop
    keys = rng.keys([f"{i:016x}" + "0" * 48 for i in range(batch)], device)
    started = ascent._start(Jobs(keys, torch.arange(batch, device=device)))
    last = ascent.recipe.optimizer.steps - 1  # past those that leak
    started.step(last)
    transforms, moves = ascent.recipe.transforms, started.view.clone()
    rendered = started.images()
    leaf = rendered.detach().requires_grad_()
    views = apply_views(transforms, leaf, moves)
    inputs = views.detach().requires_grad_()

    def network() -> Tensor:
        with PolyphaseStem():
            _, surrogate = ascent.scores(inputs, started.targets, started.references)
            return torch.autograd.grad(surrogate.sum(), inputs)[0]

    towards = network()
    scores = torch.zeros(batch, device=device)
    return {
        "whole step": lambda: started.step(last),
        "views": lambda: apply_views(transforms, leaf, moves),
        "network, both ways": network,
        "views, back": lambda: torch.autograd.grad(views, leaf, towards, retain_graph=True),
        "image, both ways": lambda: started._set_gradient(started.images(), towards, scores),
        "optimizer": lambda: started.optimizer_step.step(scores, lambda: scores),
    }


def medians(parts: Parts, device: torch.device) -> dict[str, float]:
    """Return the milliseconds of each part, all of them called in turn."""
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(ROUNDS + 1):
        for name, part in parts.items():
            times[name].append(_milliseconds(part, device))
    return {name: statistics.median(each[1:]) for name, each in times.items()}


def _milliseconds(part: Callable[[], object], device: torch.device) -> float:
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    wait(device)
    started = clock()
    part()
    wait(device)
    return (clock() - started) * 1000


def main(argv: Sequence[str]) -> int:
    """Print a row for each layer."""
    args = benchmark.arguments(argv)
    args.ours = args.ours[-1:]
    try:
        prepared = benchmark.prepare(args)
    except UserError as error:
        print(error, file=sys.stderr)
        return EXIT_USER_ERROR
    (plan,) = prepared.plans.values()
    network, device = prepared.found.network, prepared.device
    renderer = Renderer(network, plan.recipe, device)
    for info, _, _ in prepared.layers:
        floor = Floor(Case(network, info, args.image_size, device), plan.recipe, args.batch)

        def bare(step: Callable[[], object] = floor.step) -> None:
            with pytorch_defaults():
                step()

        parts = {"floor": bare} | parts_of_a_step(renderer.layer(info), args.batch)
        report(info.name, medians(parts, device), args.batch)
    return EXIT_OK


def report(layer: str, times: dict[str, float], batch: int) -> None:
    """Print each part in milliseconds per image and as a multiple of the floor."""
    print(f"\n| {layer}, {batch} images | ms per image and step | x floor |\n|---|---|---|")
    for name, milliseconds in times.items():
        print(f"| {name} | {milliseconds / batch:.3f} | {milliseconds / times['floor']:.3f} |")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
