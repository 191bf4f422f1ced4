"""Odd networks: their stored activations are right, or one message says why there are none.

What is right is read by a plain hook of `truths`, which shares no code with the package.
"""

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import odd
from torch import Tensor, nn
from truths import TOLERANCE, made, planned

from layer_atlas.config.config import ModelConfig
from layer_atlas.errors import UserError
from layer_atlas.models.device_model import make_arithmetic_explicit
from layer_atlas.models.load import Network, load_network
from layer_atlas.sweep.planning import inspection
from layer_atlas.sweep.planning import planner as planning

SIZE = 32


def entry(name: str, *layers: str, size: int = SIZE, **more: Any) -> ModelConfig:
    """A model of a sweep."""
    target = f"models.odd.{name}"
    return ModelConfig("m", target=target, input_size=size, layers=layers, **more)


# --- networks that are right ---------------------------------------------------------------------


@dataclass(frozen=True)
class Right:
    """Layers of a network whose activations are those of a plain hook."""

    layers: tuple[str, ...] = ("conv2",)
    axes: tuple[int, ...] = (1,)
    """Of the channels, layer by layer."""
    prefix: int = 0
    note: str = ""
    """A word of what the user is warned of."""
    size: int = SIZE
    truth: str = ""
    """Builds the same network for the plain hook, where the odd one would be in its way."""
    more: dict[str, Any] = field(default_factory=dict)


OUTPUT = Right(("output",))

RIGHT = {
    # modes
    "TrainReturnsNothing": Right(("conv1", "conv2", "output"), (1, 1, 1)),
    "FreezesNorms": Right(("bn1", "conv2"), (1, 1)),
    "EvalsItselfInForward": Right(),
    "RefusesTraining": Right(),
    # caches
    "KeepsFeatures": Right(),
    "KeepsGrid": Right(),
    "KeepsGridOfFirstImage": Right(),
    "AppendsToList": Right(),
    "CachesByFunction": Right(),
    "CountsInBuffer": Right(),
    # copies
    "the_only_one": Right(),
    "in_new_wrapper": Right(("inner.conv2",)),
    "WithLock": Right(),
    "WithLambda": Right(),
    "WithOpenFile": Right(),
    "WithGenerator": Right(),
    "weight_norm": Right(("conv2", "output"), (1, 1)),
    "WeightNormUnused": Right(),
    "parametrized_weight_norm": Right(),
    "spectral_norm": Right(),
    "parametrized_spectral_norm": Right(("conv2", "output"), (1, 1)),
    "parametrized": Right(("conv1", "bn1"), (1, 1)),
    "pruned": Right(("conv1", "conv2"), (1, 1)),
    "ExtraState": Right(),
    # axes
    "Square": Right(("to_last", "norm", "act", "to_first"), (3, 3, 3, 1)),
    "SequenceFirst": Right(("patches", "blocks.1", "blocks.0.mlp"), (1, 2, 2), prefix=1),
    "Recurrent": Right(("reader",), (2,)),
    "recurrent_sequence_first": Right(("reader",), (2,)),
    "ShowsAttention": Right(
        ("scores",), (1,), note="mean of scores over its positions is the same"
    ),
    "Mixer": Right(("over_tokens.0", "over_channels"), (2, 2)),
    "ConvNeXtLike": Right(("norm", "after"), (1, 1)),
    "OverRows": Right(("row", "norm"), (1, 1)),
    "Encoder": Right(("encoder.layers.0.linear1", "encoder"), (2, 2)),
    "Flat": Right(("net.1", "net.3"), (1, 1), size=8, more={"mean": (0.5,), "std": (0.25,)}),
    "OddNames": Right(("*@Conv2d",), (1, 1)),
    # number formats
    "double": Right(note="float64; it is run in fp32"),
    "half": Right(note="float16; it is run in fp32"),
    "brain": Right(note="bfloat16; it is run in fp32"),
    "FFT": Right(),
    "ComplexFilter": Right(),
    "FloatInside": Right(("conv1", "conv2"), (1, 1)),
    "DoubleInside": Right(),
    "FloatConstant": Right(),
    "IntegerBuffer": Right(),
    # what depends on more is the output alone
    "BatchMeanAtOutput": Right(note="output of m depends on the other images of its batch"),
    "NoiseAtOutput": Right(note="output of m depends on chance"),
    # what it returns
    "ReturnsNamedTuple": OUTPUT,
    "ReturnsNestedDict": OUTPUT,
    "ReturnsRecord": OUTPUT,
    "ReturnsObject": OUTPUT,
    "ReturnsLists": OUTPUT,
    # hooks of the user
    "HookChangesOutput": Right(("conv1", "conv2"), (1, 1)),
    "HookChangesInput": Right(("conv1", "conv2"), (1, 1)),
    "HookOnBackward": Right(),
    "HookOnWay": Right(("inner", "conv2"), (1, 1)),
    # memory
    "WritesEverywhere": Right(("conv1", "conv2", "bn2"), (1, 1, 1)),
    "WritesOverFirstMap": Right(("conv1", "conv2", "output"), (1, 1, 1)),
    "Aliased": Right(("also",)),
    "CalledTwice": Right(("again.0", "conv2"), (1, 1)),
    "Bypassed": Right(),
    # wrappers
    "data_parallel": Right(("module.conv2",)),
    "compiled": Right(truth="Plain"),
    "compiled_in_place": Right(truth="Plain"),
    "strided": Right(),
    "Checkpointed": Right(("conv2", "output"), (1, 1)),
    "HiddenConvolution": Right(),
    "TiedWeights": Right(("tied.0", "conv2"), (1, 1)),
    "OneConvolutionTwoNorms": Right(("shared", "conv2"), (1, 1)),
    "forward_replaced": Right(("conv1", "conv2"), (1, 1)),
    "forward_of_a_layer_replaced": Right(("conv2", "bn2"), (1, 1)),
    "synchronised": Right(("bn1", "conv2"), (1, 1)),
    "NormsByFunction": Right(),
    "StraightThrough": Right(),
    # the process
    "SetsBackends": Right(),
    "ChangesFolder": Right(),
    "ChangesDefaultDtype": Right(),
    "StopsGradientsLater": Right(),
    "Seeds": Right(),
    # the way through
    "Untraceable": Right(("conv1", "output"), (1, 1)),
    "StillClip": Right(("conv1",)),
}


@pytest.mark.parametrize("name", RIGHT)
def test_activations_are_those_of_a_plain_hook(name: str, unchanged: "Watch") -> None:
    right = RIGHT[name]
    model = entry(name, *right.layers, size=right.size, **right.more)
    unchanged.watch(load_network(model))
    results = made(model)
    unchanged.compare()
    assert len(results) == len(right.axes)
    for result, axis in zip(results, right.axes, strict=True):
        assert result.info.channel_axis == axis
        prefix = right.prefix if "blocks" in result.info.name else 0
        off = result.difference(getattr(odd, right.truth or name), axis, prefix)
        assert off < TOLERANCE, f"{result.info.name} ({result.renderer.path})"
        assert right.note in result.plan.note
        assert right.note or not result.plan.note


def test_a_backward_pass_of_the_networks_own_is_kept() -> None:
    """A tracer looks through it, and would differentiate the rounding, to nothing."""
    (result,) = made(entry("StraightThrough", "conv2"))
    assert result.renderer.path.startswith("hooks")
    assert (np.ptp(result.rows["trace"], axis=1) > 0).all()


# --- nothing is left behind ----------------------------------------------------------------------


class Watch:
    """Compares a network, and the process, with what they were."""

    network: Network | None = None

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        make_arithmetic_explicit()
        self.process = process_state()

    def watch(self, network: Network) -> None:
        """Have a network inspected, rather than another one of its kind."""
        self.network, self.before = network, state(network.module)
        self.monkeypatch.setattr(inspection, "load_network", lambda entry: network)

    def compare(self) -> None:
        """Make sure that nothing has changed."""
        for now, before in zip(process_state(), self.process, strict=True):
            assert now == before
        if self.network is not None:
            assert not any(module.training for module in self.network.module.modules())
            after = state(self.network.module)
            assert after.keys() == self.before.keys()
            for key, value in after.items():
                assert_same(value, self.before[key], key)


@pytest.fixture
def unchanged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    folder, dtype, threads = Path.cwd(), torch.get_default_dtype(), torch.get_num_threads()
    watch = Watch(monkeypatch)
    try:
        yield watch
    finally:  # from what the plain hooks of the tests left behind
        os.chdir(folder)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(True)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)


def process_state() -> list[Any]:
    """What a network's code can change for all."""
    return [
        Path.cwd(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.allow_tf32,
        torch.get_rng_state().tolist(),
        random.getstate(),
        str(np.random.get_state()),
    ]


def state(network: nn.Module) -> dict[str, Any]:
    """Every attribute of every module; of containers what they hold, of tensors their numbers."""
    return {
        f"{name}.{key}": copied(value)
        for name, module in network.named_modules()
        for key, value in vars(module).items()
    }


def copied(value: Any) -> Any:
    """A value that later changes of it do not reach, two levels deep."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list | set | tuple):
        return [copied(item) for item in value]
    return value


def assert_same(now: Any, before: Any, where: str) -> None:
    """Compare what `copied` returned."""
    assert type(now) is type(before), where
    if isinstance(now, Tensor):
        assert torch.equal(now, before), where
    elif isinstance(now, dict):
        assert list(now) == list(before), where
        for key, value in now.items():
            assert_same(value, before[key], f"{where}.{key}")
    elif isinstance(now, list):
        assert len(now) == len(before), where
        for left, right in zip(now, before, strict=True):
            assert_same(left, right, where)
    else:
        assert now is before or now == before, where


# --- networks that are refused -------------------------------------------------------------------

REFUSED: dict[str, tuple[str, list[str]]] = {
    # modes
    "EvalRaises": ("conv2", ["eval() of model 'm' failed", "not calibrated yet"]),
    "TrainTakesNoMode": ("conv2", ["eval() of model 'm' failed", "TypeError"]),
    "EvalDoesNothing": ("conv2", ["'bn1' (BatchNorm2d)", "is in training mode"]),
    "NormTrainsInForward": ("output", ["'bn2' (BatchNorm2d)", "batch", "is in training mode"]),
    "DropoutTrainsInForward": ("conv2", ["depends on chance", "'drop'"]),
    # caches
    "RemembersInList": ("conv2", ["layer 'conv2' of model 'm'", "depends on"]),
    "RemembersInDeque": ("conv2", ["layer 'conv2' of model 'm'", "depends on"]),
    "RemembersInBuffer": ("conv2", ["layer 'conv2' of model 'm'", "depends on"]),
    "RemembersInNewBuffer": ("conv2", ["layer 'conv2' of model 'm'", "depends on"]),
    "RemembersInObject": ("conv2", ["layer 'conv2' of model 'm'", "depends on"]),
    "RemembersLast": ("conv2", ["layer 'conv2'", "images that the network saw before"]),
    # copies
    "the_only_one_with_lock": ("conv2", ["same network every time", "cannot be copied"]),
    # dependence on the batch
    "BatchStatistics": ("conv2", ["'bn1' (BatchNorm2d)", "has no running statistics"]),
    "BatchMean": ("conv2", ["other images of its batch", "before 'conv2' (Conv2d)"]),
    "BatchMaximum": ("conv2", ["other images of its batch", "before 'conv2' (Conv2d)"]),
    "GhostNormed": ("conv2", ["other images of its batch", "'bn1' (GhostNorm)"]),
    "SortsBatch": ("conv2", ["other images of its batch"]),
    "BranchesOnBatchSize": ("conv2", ["other images of its batch"]),
    "SoftmaxOverBatch": ("conv2", ["other images of its batch"]),
    "AttendsOverBatch": ("block.mlp", ["other images of its batch"]),
    "BatchMeanAtOutput": ("output", ["other images of its batch"]),
    # chance
    "Noise": ("conv2", ["depends on chance", "before 'conv2' (Conv2d)"]),
    "DropoutAlways": ("conv2", ["depends on chance", "before 'conv2' (Conv2d)"]),
    "RandomCrop": ("conv2", ["depends on chance"]),
    "PythonRandom": ("conv2", ["depends on chance"]),
    "NumpyRandom": ("conv2", ["depends on chance"]),
    "OwnGenerator": ("conv2", ["depends on chance"]),
    "Clock": ("conv2", ["depends on chance"]),
    "NoiseAtOutput": ("output", ["depends on chance"]),
    "HiddenNorm": ("conv2", ["other images of its batch", "before 'conv2' (Conv2d)"]),
    "KeepsGridOfFirstBatch": ("conv2", ["model 'm'", "batch"]),
    "TakesOneImage": ("conv2", ["does not take images one by one and in batches of any size"]),
    "SharesAcrossInstances": ("conv2", ["layer 'conv2' of model 'm'", "depends on"]),
    # the way to the image
    "MindsGradients": ("conv2", ["model 'm'", "gradient"]),
    "BackwardRaises": ("conv2", ["model 'm' cannot be optimized", "no way back"]),
    "NoGradient": ("conv2", ["no gradient reaches the image from layer 'conv2'"]),
    "StopsGradients": ("conv2", ["no gradient reaches the image from layer 'conv2'"]),
    "Inference": ("conv2", ["no gradient reaches the image from layer 'conv2'"]),
    "Detached": ("conv2", ["no gradient reaches the image from layer 'conv2'"]),
    "NoGradientAtAll": ("conv1", ["no gradient reaches the image from layer 'conv1'"]),
    "Moody": ("dark", ["called for some images only"]),
    "Bypassed": ("conv1", ["layer 'conv1' of model 'm' has no activations", "never calls"]),
    "CheckpointedReentrant": ("conv2", ["backward pass fails", "use_reentrant=False"]),
    # kinds
    "TwoInputs": ("conv2", ["takes 2 inputs (x, mask)", "inputs: {mask:", "Wrap it"]),
    "TakesMapping": ("conv2", ["takes a mapping with 'image'", "{batch: {image: images}}"]),
    "Volumes": ("conv1", ["takes volumes or video (Conv3d)", "Wrap it", "unsqueeze(2)"]),
    "scripted": ("conv2", ["is a TorchScript module"]),
    "quantized": ("conv2", ["is quantized"]),
    "on_meta": ("conv2", ["on the meta device"]),
    "Flat": ("net.1", ["model 'm'"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_others_are_refused_with_the_cause(name: str, unchanged: "Watch") -> None:
    layer, words = REFUSED[name]
    with pytest.raises(UserError) as caught:
        planned(entry(name, layer))
    unchanged.compare()
    for word in words:
        assert word in str(caught.value)


# --- bf16 ----------------------------------------------------------------------------------------


@pytest.fixture
def bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hardware that has bf16 and is fast in it, for all that `precision=auto` knows."""
    found = lambda precision, devices: "bf16" if precision == "auto" else precision  # noqa: E731
    monkeypatch.setattr(planning, "resolve_precision", found)
    monkeypatch.setattr(planning, "is_faster_than_fp32", lambda device, layer: True)


@pytest.mark.usefixtures("bf16")
def test_what_runs_in_bf16_is_optimized_in_it() -> None:
    (result,) = made(entry("Plain", "conv2"), "auto")
    assert (result.plan.recipe.precision, result.plan.note) == ("bf16", "")
    assert result.difference(odd.Plain) < TOLERANCE


FP32_ONLY = ["FFT", "ComplexFilter", "FloatInside", "FloatConstant", "DoubleInside"]


@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize("name", FP32_ONLY)
def test_what_does_not_is_optimized_in_fp32_and_says_so(name: str) -> None:
    (result,) = made(entry(name, "conv2"), "auto")
    assert result.plan.recipe.precision == "fp32"
    assert "m is optimized in fp32: bf16 does not do" in result.plan.note
    assert result.difference(getattr(odd, name)) < TOLERANCE


@pytest.mark.parametrize("name", FP32_ONLY)
def test_bf16_that_was_asked_for_is_refused_with_the_remedy(name: str) -> None:
    with pytest.raises(UserError) as caught:
        planned(entry(name, "conv2"), "bf16")
    for words in ("model 'm' cannot be optimized in bf16", "Set precision=fp32, or auto"):
        assert words in str(caught.value)
