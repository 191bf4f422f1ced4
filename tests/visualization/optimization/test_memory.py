"""Batch sizes from measured memory: more memory per sample, smaller batches."""

import dataclasses
import os

import pytest
import torch
from test_invariance import RECIPE, make_bench

from layer_atlas.config.parameterizations import (
    Fourier,
    NaturalFourier,
    Parameterization,
    Pixel,
)
from layer_atlas.plan import plan
from layer_atlas.visualization import rng
from layer_atlas.visualization.optimization import memory
from layer_atlas.visualization.optimization import renderer as bench_module
from layer_atlas.visualization.optimization.loop import GradientAscent, Jobs
from layer_atlas.visualization.optimization.memory import (
    bytes_per_sample,
    if_it_fits,
    samples_that_fit,
)

CPU = torch.device("cpu")


def test_bytes_per_sample_are_what_the_backward_pass_keeps() -> None:
    weight = torch.ones(100)

    def run(batch: int) -> None:
        x = torch.ones(batch, 100, requires_grad=True)
        (x.exp() * weight).sum()  # keeps exp(x), and the weight once

    assert bytes_per_sample(run, CPU) == 2 * 100 * 4


def no_memory(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("alloc_cpu.cpp:127: DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        MemoryError("Unable to allocate 200. MiB"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_does_not_fit_is_nothing_unless_it_is_the_least(error: Exception) -> None:
    assert if_it_fits(lambda: "it does") == "it does"
    assert if_it_fits(lambda: no_memory(error)) is None
    with pytest.raises(type(error)):
        if_it_fits(lambda: no_memory(error), least=True)


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="illegal"):
        if_it_fits(lambda: no_memory(RuntimeError("CUDA error: an illegal memory access")))


def test_a_batch_fits_into_a_share_of_the_free_memory() -> None:
    total = samples_that_fit(1.0, CPU)
    assert total > 2**26, "less than 64 MiB free?"
    assert samples_that_fit(1e18, CPU) == 1
    assert samples_that_fit(1024.0, CPU) == pytest.approx(total / 1024, rel=0.2)


def test_larger_images_take_more_memory() -> None:
    def sample_bytes(size: int) -> float:
        renderer = make_bench(dataclasses.replace(RECIPE, image_size=(size, size)))
        return bytes_per_sample(renderer._try_out, CPU)

    small, large = sample_bytes(48), sample_bytes(96)
    assert 3 * small < large < 5 * small
    assert small > 48 * 48 * 3 * 4


def test_the_smallest_batches_show_what_larger_ones_take() -> None:
    renderer = make_bench(RECIPE)
    two, sixteen = (memory._cpu_peak(renderer._try_out, batch) for batch in (2, 16))
    sample = bytes_per_sample(renderer._try_out, CPU)
    assert sample == pytest.approx((sixteen - two) / 14, rel=1e-6)


@pytest.mark.parametrize("kind", [Fourier(), NaturalFourier(), Pixel()], ids=lambda kind: kind.name)
def test_what_autograd_saves_of_a_step_is_saved_going_forward(kind: Parameterization) -> None:
    steps = dataclasses.replace(RECIPE.optimizer, steps=1)
    recipe = dataclasses.replace(RECIPE, parameterization=kind, optimizer=steps)
    renderer = make_bench(recipe)

    def jobs(batch: int) -> Jobs:
        keys = rng.keys([f"{number:064x}" for number in range(batch)], CPU)
        return Jobs(keys, torch.zeros(batch, dtype=torch.int64))

    forward, whole = (GradientAscent(renderer._scores, recipe) for _ in range(2))
    peak = memory._cpu_peak(lambda batch: whole.optimize(jobs(batch)), 4)
    assert memory._cpu_peak(lambda batch: forward.forward(jobs(batch)), 4) == peak > 0


def test_auto_batch_keeps_to_the_memory_and_to_whole_multiples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    renderer = make_bench(RECIPE)
    assert renderer.auto_batch() == bench_module.CPU_BATCH
    sample = bytes_per_sample(renderer._try_out, CPU)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(memory, "free_host_bytes", lambda: 4 * sample * 21 / memory._CPU_FRACTION)
    assert renderer.auto_batch() == 16
    monkeypatch.setattr(memory, "free_host_bytes", lambda: 1.0)
    assert renderer.auto_batch() == 1


def test_auto_batch_leaves_room_for_the_pictures_on_the_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = dataclasses.replace(RECIPE, snapshots=2)
    monkeypatch.setattr(plan, "_PICTURES_AT_ONCE", 3 * plan.picture_bytes(recipe, 3))
    assert make_bench(recipe).auto_batch() == 3


@pytest.mark.parametrize(("fit", "size"), [(1000, 256), (256, 256), (255, 128), (9, 8), (1, 1)])
def test_free_memory_chooses_a_divisor_of_the_planned_batch_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch, fit: int, size: int
) -> None:
    renderer = make_bench(RECIPE)
    renderer.device = torch.device("cuda")
    monkeypatch.setattr(bench_module, "bytes_per_sample", lambda run, device: 1.0)
    monkeypatch.setattr(bench_module, "samples_that_fit", lambda sample, device: fit)
    assert renderer.auto_batch(256) == size


def test_the_account_of_free_memory_survives_odd_machines(tmp_path: object) -> None:
    assert memory.free_host_bytes() > 2**26
