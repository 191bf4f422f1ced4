"""How near a step comes to what the device's matrix multiplication can do; prints one JSON line."""

import json
import sys
import time
from collections.abc import Callable

import torch

from layer_atlas.config.config import ModelConfig
from layer_atlas.config.objectives import ChannelObjective
from layer_atlas.config.optimizers import Adam
from layer_atlas.config.parameterizations import Fourier
from layer_atlas.config.recipe import Recipe, Transforms
from layer_atlas.models.introspection import describe_layers
from layer_atlas.models.load import DTYPES, load_network
from layer_atlas.sweep.planning.devices import WorkerDevice, resolve_precision
from layer_atlas.visualization import rng
from layer_atlas.visualization.optimization.loop import GradientAscent, Jobs, Scores
from layer_atlas.visualization.optimization.renderer import Renderer


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """Shortest of five calls, the device waited for."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times)


def gemm_rate(device: torch.device, precision: str) -> float:
    """Floating-point operations per second of a large matrix product in the step's precision."""
    n = 8192 if device.type == "cuda" else 1024
    a = torch.randn(n, n, device=device, dtype=DTYPES[precision])
    return 2.0 * n**3 / seconds(lambda: a @ a, device)


def step_rate(device: torch.device, precision: str) -> dict[str, float]:
    """Floating-point operations per second of the ascent for ResNet-50's last block."""
    cuda = device.type == "cuda"
    size, batch, steps = (224, 256, 24) if cuda else (64, 8, 2)
    optimizer = Adam(steps=steps)
    recipe = Recipe(
        objective=ChannelObjective(),
        parameterization=Fourier(),
        transforms=Transforms(),
        optimizer=optimizer,
        image_size=(size, size),
        precision=precision,
    )
    network = load_network(ModelConfig("resnet50", weights="none"))
    layers = describe_layers(network.module, network.example((size, size)))
    info = next(layer for layer in layers if layer.name == "layer4.2.conv3")
    renderer = Renderer(network, recipe, device).layer(info)
    loop = GradientAscent(Scores(renderer.fast, renderer.objective), recipe)
    keys = rng.keys([f"{i:016x}" + "0" * 48 for i in range(batch)], device)
    jobs = Jobs(keys, torch.arange(batch, device=device))
    took = seconds(lambda: loop.optimize(jobs), device)
    flops = 2.0 * info.flops_before * batch * steps
    return {"step_flops_per_second": flops / took, "milliseconds_per_step": took / steps * 1000}


def main() -> None:
    """Measure on the GPU, or on the CPU if the command line asks for it."""
    device = torch.device(sys.argv[1] if len(sys.argv) > 1 else "cuda")
    # A CPU without hardware for bf16 multiplies it at a fraction of the rate of its convolutions,
    # which oneDNN converts: part of such a rate would be no bound.
    precision = resolve_precision("auto", [WorkerDevice(device.type)])
    rate = gemm_rate(device, precision)
    facts = {"gemm_flops_per_second": rate, **step_rate(device, precision)}
    facts["share_of_gemm_rate"] = facts["step_flops_per_second"] / facts["gemm_flops_per_second"]
    print(json.dumps({"precision": precision, **facts}))


if __name__ == "__main__":
    main()
