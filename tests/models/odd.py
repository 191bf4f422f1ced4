"""Small networks, each odd in one way that networks of users' own are."""

import contextlib
import functools
import os
import random
import tempfile
import threading
import time
from collections import OrderedDict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint


class Plain(nn.Module):
    """Two convolutions with batch norms whose statistics are far from 0 and 1, and a classifier."""

    def __init__(self, colours: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(colours, 8, 5, stride=2, padding=2)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.bn2 = nn.BatchNorm2d(12)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(12, 5)
        for norm in (self.bn1, self.bn2):
            norm.running_mean.normal_().mul_(0.5)
            norm.running_var.uniform_(0.2, 2.0)

    def first(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv1(x)))

    def second(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(x)))

    def head(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.drop(x).mean((2, 3)))
        return logits

    def between(self, x: Tensor) -> Tensor:
        """What most of the networks below do otherwise."""
        return x

    def forward(self, x: Tensor) -> Any:
        return self.head(self.second(self.between(self.first(x))))


# --- modes ---------------------------------------------------------------------------------------


class TrainReturnsNothing(Plain):
    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)


class FreezesNorms(Plain):
    """Its `train()` leaves batch norms in eval mode."""

    def train(self, mode: bool = True) -> "FreezesNorms":
        super().train(mode)
        self.bn1.eval()
        return self


class EvalRaises(Plain):
    def eval(self) -> "EvalRaises":
        raise RuntimeError("not calibrated yet")


class TrainTakesNoMode(Plain):
    def train(self) -> "TrainTakesNoMode":  # type: ignore[override]
        return super().train(True)


class EvalDoesNothing(Plain):
    def eval(self) -> "EvalDoesNothing":
        return self


class NormTrainsInForward(Plain):
    def between(self, x: Tensor) -> Tensor:
        self.bn2.train()
        return x


class DropoutTrainsInForward(Plain):
    def between(self, x: Tensor) -> Tensor:
        return self.drop.train()(x)


class EvalsItselfInForward(Plain):
    def between(self, x: Tensor) -> Tensor:
        self.eval()
        return x


class RefusesTraining(Plain):
    def between(self, x: Tensor) -> Tensor:
        assert not self.training, "this network is for inference"
        return x


# --- caches --------------------------------------------------------------------------------------


class KeepsFeatures(Plain):
    def between(self, x: Tensor) -> Tensor:
        self.features = x
        return x


class KeepsGrid(Plain):
    """Made when the first image comes."""

    grid: Tensor | None = None

    def between(self, x: Tensor) -> Tensor:
        if self.grid is None:
            self.grid = torch.linspace(0, 1, x.shape[-1], device=x.device)
        return x + self.grid


class KeepsGridOfFirstImage(Plain):
    """The same in the images' format and with their gradient's graph, in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.grids: dict[Any, Tensor] = {}

    def between(self, x: Tensor) -> Tensor:
        key = x.shape[1:]
        if key not in self.grids:
            self.grids[key] = torch.ones_like(x[:1]) * 0.5
        return x * self.grids[key]


class AppendsToList(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.trail: list[Tensor] = []

    def between(self, x: Tensor) -> Tensor:
        self.trail.append(x.detach())
        return x


class CachesByFunction(Plain):
    @staticmethod
    @functools.lru_cache
    def window(size: int) -> Tensor:
        return torch.hann_window(size)

    def between(self, x: Tensor) -> Tensor:
        return x * self.window(x.shape[-1])


class CountsInBuffer(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64), persistent=False)

    def between(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return x


class RemembersInList(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.past: list[Tensor] = []

    def between(self, x: Tensor) -> Tensor:
        self.past.append(x.detach().mean((0, 2, 3), keepdim=True))
        return x - torch.stack(self.past).mean(0)


class RemembersInDeque(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.past: deque[Tensor] = deque(maxlen=3)

    def between(self, x: Tensor) -> Tensor:
        self.past.append(x.detach().mean((0, 2, 3), keepdim=True))
        return x - torch.stack(list(self.past)).mean(0)


class RemembersInBuffer(Plain):
    """A running mean that goes on in eval mode, written in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, 8, 1, 1), persistent=False)

    def between(self, x: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(0.1 * x.detach().mean((0, 2, 3), keepdim=True))
        return x - self.mean


class RemembersInNewBuffer(RemembersInBuffer):
    def between(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean((0, 2, 3), keepdim=True)
        return x - self.mean


class RemembersInObject(Plain):
    """Deep in an object of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.state = RemembersInObject.State()

    class State:
        def __init__(self) -> None:
            self.history = {"means": list[Tensor]()}

    def between(self, x: Tensor) -> Tensor:
        means = self.state.history["means"]
        means.append(x.detach().mean((0, 2, 3), keepdim=True))
        return x - torch.stack(means).mean(0)


class RemembersLast(Plain):
    """Takes the difference to the image before, as networks of video do."""

    last: Tensor | None = None

    def between(self, x: Tensor) -> Tensor:
        last, self.last = self.last, x.detach()
        return x if last is None or last.shape != x.shape else x - 0.5 * last


# --- copies --------------------------------------------------------------------------------------


@functools.cache
def the_only_one() -> nn.Module:
    return Plain()


def in_new_wrapper() -> nn.Module:
    """Another wrapper at each call, of the same network."""
    return nn.Sequential(OrderedDict(inner=the_only_one()))


class WithLock(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def between(self, x: Tensor) -> Tensor:
        with self.lock:
            return x


@functools.cache
def the_only_one_with_lock() -> nn.Module:
    return WithLock()


class WithLambda(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.act = lambda x: F.gelu(x)

    def between(self, x: Tensor) -> Tensor:
        return self.act(x)


class WithOpenFile(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.log = tempfile.TemporaryFile("w")  # noqa: SIM115

    def between(self, x: Tensor) -> Tensor:
        self.log.write(f"{x.shape}\n")
        return x


class WithGenerator(Plain):
    """A generator object that drew the weights and is at hand ever after."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = (0.1 * i for i in range(1000))
        self.scale = next(self.numbers) + 1.5

    def between(self, x: Tensor) -> Tensor:
        return x * self.scale


def weight_norm() -> nn.Module:
    network = Plain()
    nn.utils.weight_norm(network.conv2)
    nn.utils.weight_norm(network.fc)
    return network


class WeightNormUnused(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.utils.weight_norm(nn.Linear(12, 3))


def parametrized_weight_norm() -> nn.Module:
    network = Plain()
    parametrizations.weight_norm(network.conv2)
    return network


def spectral_norm() -> nn.Module:
    network = Plain()
    nn.utils.spectral_norm(network.conv2)
    return network


def parametrized_spectral_norm() -> nn.Module:
    network = Plain()
    parametrizations.spectral_norm(network.conv2)
    parametrizations.orthogonal(network.fc)
    return network


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def parametrized() -> nn.Module:
    network = Plain()
    parametrize.register_parametrization(network.conv1, "weight", Doubled())
    return network


def pruned() -> nn.Module:
    network = Plain()
    prune.l1_unstructured(network.conv2, "weight", amount=0.5)
    prune.random_unstructured(network.conv1, "weight", amount=0.3)
    return network


class ExtraState(Plain):
    def get_extra_state(self) -> dict[str, int]:
        return {"epoch": 3}

    def set_extra_state(self, state: Any) -> None:
        pass


# --- axes ----------------------------------------------------------------------------------------


class Square(nn.Module):
    """As high and wide as it has channels, which are now on one axis and now on another."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.to_last = ToLast()
        self.norm = nn.LayerNorm(8)
        self.act = nn.GELU()
        self.to_first = ToFirst()
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.to_first(self.act(self.norm(self.to_last(self.stem(x)))))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class ToLast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


class ToFirst(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x.permute(0, 3, 1, 2)


class Block(nn.Module):
    """A block of a transformer, over tokens in any order of axes."""

    def __init__(self, width: int, batch_first: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=batch_first)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        wide = 2 * width
        self.mlp = nn.Sequential(nn.Linear(width, wide), nn.GELU(), nn.Linear(wide, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class SequenceFirst(nn.Module):
    """Tokens (T, B, C) with a class token, as CLIP has."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 8, stride=8, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(12))
        self.positions = nn.Parameter(torch.randn(17, 12))
        self.blocks = nn.Sequential(Block(12, False), Block(12, False))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).mT
        token = self.class_embedding.expand(len(x), 1, -1)
        x = torch.cat([token, x], dim=1) + self.positions
        x = self.blocks(x.transpose(0, 1)).transpose(0, 1)
        return self.head(x[:, 0])  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """Reads patches one after the other."""

    def __init__(self, batch_first: bool = True, kind: type[nn.RNNBase] = nn.LSTM) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 10, 8, stride=8)
        self.reader = kind(10, 14, batch_first=batch_first)
        self.head = nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).mT
        first = self.reader.batch_first
        read, _ = self.reader(x if first else x.transpose(0, 1))
        return self.head(read[:, -1] if first else read[-1])  # type: ignore[no-any-return]


def recurrent_sequence_first() -> nn.Module:
    return Recurrent(batch_first=False, kind=nn.GRU)


class Scores(nn.Module):
    """Attention maps (B, heads, T, T) as the output of a module."""

    def forward(self, x: Tensor) -> Tensor:
        heads = x.unflatten(2, (4, -1)).transpose(1, 2)
        return (heads @ heads.mT).softmax(-1)


class ShowsAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, stride=8)
        self.scores = Scores()
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).mT
        mixed = self.scores(x).mean(1) @ x
        return self.head(mixed.mean(1))  # type: ignore[no-any-return]


class Mixer(nn.Module):
    """Mixes tokens (B, C, T), then channels (B, T, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 10, 8, stride=8)
        self.over_tokens = nn.Sequential(nn.Linear(16, 20), nn.GELU(), nn.Linear(20, 16))
        self.over_channels = nn.Sequential(nn.Linear(10, 20), nn.GELU(), nn.Linear(20, 10))
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2)
        x = (x + self.over_tokens(x)).mT
        x = x + self.over_channels(x)
        return self.head(x.mean(1))  # type: ignore[no-any-return]


class LayerNorm(nn.Module):
    """ConvNeXt's own, over the channels of a map (B, C, H, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)
        self.bias = nn.Parameter(torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        normed = centred / (centred.pow(2).mean(1, keepdim=True) + 1e-6).sqrt()
        return self.weight[:, None, None] * normed + self.bias[:, None, None]


class ConvNeXtLike(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = LayerNorm(8)
        self.after = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.after(self.norm(self.stem(x)))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class OverRows(nn.Module):
    """One-dimensional convolutions over patches in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 10, 8, stride=8)
        self.row = nn.Conv1d(10, 12, 3, padding=1)
        self.norm = nn.GroupNorm(3, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.row(self.patches(x).flatten(2)))
        return self.head(x.mean(2))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """PyTorch's own transformer, which has a fast path in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 8, stride=8)
        layer = nn.TransformerEncoderLayer(12, 2, 24, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(self.patches(x).flatten(2).mT)
        return self.head(x.mean(1))  # type: ignore[no-any-return]


class Flat(nn.Module):
    """For digits of 8 x 8 pixels in grey."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]


class OddNames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        colours = {"conv/1": 3, "conv 2 [a=b],é": 4}
        self.blocks = nn.ModuleDict({n: nn.Conv2d(c, 4, 3, stride=2) for n, c in colours.items()})
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks.values():
            x = F.relu(block(x))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


# --- number formats ------------------------------------------------------------------------------


def double() -> nn.Module:
    return Plain().double()


def half() -> nn.Module:
    return Plain().half()


def brain() -> nn.Module:
    return Plain().bfloat16()


class FFT(Plain):
    def between(self, x: Tensor) -> Tensor:
        return torch.fft.irfft2(0.9 * torch.fft.rfft2(x), s=x.shape[-2:])


class ComplexFilter(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(8, 16, 9, dtype=torch.complex64))

    def between(self, x: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x) * self.filter, s=x.shape[-2:])


class FloatInside(Plain):
    """Casts the image to fp32, whatever the weights are in."""

    def first(self, x: Tensor) -> Tensor:
        return super().first(x.float())


class DoubleInside(Plain):
    def between(self, x: Tensor) -> Tensor:
        return (x.double() - x.double().mean((2, 3), keepdim=True)).float()


class FloatConstant(Plain):
    """A constant that is no buffer, in fp32."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = torch.randn(8, 1, 3, 3)

    def between(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel.to(x.device), padding=1, groups=8)


class IntegerBuffer(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.randperm(8))

    def between(self, x: Tensor) -> Tensor:
        return x[:, self.order]


# --- dependence on the batch ---------------------------------------------------------------------


class BatchStatistics(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(8, track_running_stats=False)


class BatchMean(Plain):
    def between(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


class BatchMaximum(Plain):
    def between(self, x: Tensor) -> Tensor:
        return x / x.abs().max()


class GhostNorm(nn.BatchNorm2d):
    """Normalises over each two images of a batch."""

    def forward(self, x: Tensor) -> Tensor:
        parts = x.split(2)
        return torch.cat([F.batch_norm(p, None, None, training=True) for p in parts])


class GhostNormed(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.bn1 = GhostNorm(8)


class SortsBatch(Plain):
    def between(self, x: Tensor) -> Tensor:
        return x.sort(0).values


class BranchesOnBatchSize(Plain):
    def between(self, x: Tensor) -> Tensor:
        return x if len(x) == 1 else 2 * x


class SoftmaxOverBatch(Plain):
    def between(self, x: Tensor) -> Tensor:
        return x.softmax(0)


class AttendsOverBatch(nn.Module):
    """`batch_first` forgotten: images attend to each other."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 8, stride=8)
        self.block = Block(12, batch_first=False)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.patches(x).flatten(2).mT)
        return self.head(x.mean(1))  # type: ignore[no-any-return]


class BatchMeanAtOutput(Plain):
    """Layers before the output do not depend on it."""

    def head(self, x: Tensor) -> Tensor:
        logits = super().head(x)
        return logits - logits.mean(0, keepdim=True)


# --- chance --------------------------------------------------------------------------------------


class Noise(Plain):
    def between(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class DropoutAlways(Plain):
    def between(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, training=True)


class RandomCrop(Plain):
    def between(self, x: Tensor) -> Tensor:
        left = int(torch.randint(0, 8, ()))
        return x[..., left : left + 8]


class PythonRandom(Plain):
    def between(self, x: Tensor) -> Tensor:
        return x * random.random()


class NumpyRandom(Plain):
    def between(self, x: Tensor) -> Tensor:
        return x * float(np.random.rand())


class OwnGenerator(Plain):
    """Random numbers of its own, which seeds do not reach."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)

    def between(self, x: Tensor) -> Tensor:
        return x * torch.rand((), generator=self.generator)


class Clock(Plain):
    def between(self, x: Tensor) -> Tensor:
        return x * (time.perf_counter() % 1.0)


class NoiseAtOutput(Plain):
    """As variational autoencoders have; layers before the output do not depend on it."""

    def head(self, x: Tensor) -> Tensor:
        logits = super().head(x)
        return logits + torch.randn_like(logits)


# --- what it returns -----------------------------------------------------------------------------

Pair = namedtuple("Pair", "logits features")


@dataclass
class Record:
    features: Tensor
    logits: Tensor


class Bag:
    def __init__(self, logits: Tensor) -> None:
        self.loss, self.logits = None, logits


class ReturnsNamedTuple(Plain):
    def head(self, x: Tensor) -> Any:
        return Pair(super().head(x), x)


class ReturnsNestedDict(Plain):
    def head(self, x: Tensor) -> Any:
        return {"meta": {"size": 3}, "aux": None, "out": {"logits": super().head(x)}}


class ReturnsRecord(Plain):
    def head(self, x: Tensor) -> Any:
        return Record(features=x, logits=super().head(x))


class ReturnsObject(Plain):
    def head(self, x: Tensor) -> Any:
        return Bag(super().head(x))


class ReturnsLists(Plain):
    def head(self, x: Tensor) -> Any:
        return [[super().head(x)], x]


# --- hooks of the user ---------------------------------------------------------------------------


class HookChangesOutput(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, Tensor] = {}
        self.conv1.register_forward_hook(lambda module, args, output: 2 * output)
        self.conv2.register_forward_hook(self.keep)

    def keep(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.kept["conv2"] = output


class HookChangesInput(Plain):
    """With keyword arguments, and on the network itself, where a tracer does not look."""

    def __init__(self) -> None:
        super().__init__()
        hook = lambda module, args, kwargs: ((args[0] * 0.5,), kwargs)  # noqa: E731
        self.conv2.register_forward_pre_hook(hook, with_kwargs=True)
        self.register_forward_pre_hook(lambda module, args: (args[0] + 0.3,))


class HookOnBackward(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.conv2.register_full_backward_hook(lambda module, given, made: None)


class HookOnWay(Plain):
    """A hook on a block in between, which is no leaf of a trace."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())
        self.inner.register_forward_hook(lambda module, args, output: output + 1)

    def between(self, x: Tensor) -> Tensor:
        return self.inner(x)  # type: ignore[no-any-return]


# --- memory --------------------------------------------------------------------------------------


class WritesEverywhere(Plain):
    """Over its input, and over everything after."""

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2).add_(0.1)
        y = self.conv1(x).relu_()
        y += 1
        z = self.bn2(self.conv2(y))
        z.clamp_(-1, 1)
        F.relu_(z)
        return self.head(z)


class WritesOverFirstMap(Plain):
    """What the gradient of a convolution needs is written over after it."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        z = self.conv2(y)
        y.mul_(0)
        return self.head(F.relu(z) + y.mean())


class Aliased(Plain):
    """One module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.also = self.conv2


class CalledTwice(Plain):
    """One convolution and its norm, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.again[1].running_mean.fill_(0.7)

    def between(self, x: Tensor) -> Tensor:
        return F.relu(self.again(F.relu(self.again(x))))


class Bypassed(Plain):
    """Calls a forward by name, so that no hook of that module fires."""

    def first(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1.forward(self.conv1.forward(x)))


# --- wrappers ------------------------------------------------------------------------------------


def data_parallel() -> nn.Module:
    return nn.DataParallel(Plain())


def compiled() -> nn.Module:
    return torch.compile(Plain())  # type: ignore[return-value]


def compiled_in_place() -> nn.Module:
    network = Plain()
    network.compile()
    network.conv2.compile()
    return network


class Strided(Plain):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.conv2 = nn.Conv2d(8, 12, 3, stride=stride)


strided: Callable[[], nn.Module] = functools.partial(Strided, stride=3)


class Checkpointed(Plain):
    def between(self, x: Tensor) -> Tensor:
        return checkpoint(F.gelu, x, use_reentrant=False)  # type: ignore[no-any-return]

    def second(self, x: Tensor) -> Tensor:
        return checkpoint(super().second, x, use_reentrant=False)  # type: ignore[no-any-return]


class CheckpointedReentrant(Plain):
    def first(self, x: Tensor) -> Tensor:
        return checkpoint(super().first, x, use_reentrant=True)  # type: ignore[no-any-return]


def scripted() -> nn.Module:
    return torch.jit.script(Plain().eval())  # type: ignore[no-any-return]


def quantized() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(  # type: ignore[no-any-return]
        Plain().eval(), {nn.Linear}, dtype=torch.qint8
    )


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return Strided(2)


# --- the process ---------------------------------------------------------------------------------


class ChangesFolder(Plain):
    def between(self, x: Tensor) -> Tensor:
        os.chdir(Path(tempfile.gettempdir()))
        return x


class ChangesDefaultDtype(Plain):
    def between(self, x: Tensor) -> Tensor:
        torch.set_default_dtype(torch.float64)
        return x


class StopsGradientsLater(Plain):
    """Behind its convolutions, for good."""

    def head(self, x: Tensor) -> Tensor:
        torch.set_grad_enabled(False)
        return super().head(x)


class Seeds(Plain):
    """The same numbers every time, so that it is a constant."""

    def between(self, x: Tensor) -> Tensor:
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)
        return x + torch.randn(x.shape[1:])


class NoGradient(Plain):
    @torch.no_grad()
    def first(self, x: Tensor) -> Tensor:
        return super().first(x)


class StopsGradients(Plain):
    def first(self, x: Tensor) -> Tensor:
        torch.set_grad_enabled(False)
        return super().first(x)


class Inference(Plain):
    @torch.inference_mode()
    def first(self, x: Tensor) -> Tensor:
        return super().first(x)


class Detached(Plain):
    def between(self, x: Tensor) -> Tensor:
        return x.detach()


# --- the way through -----------------------------------------------------------------------------


class Untraceable(Plain):
    def forward(self, x: Tensor) -> Tensor:
        n = len(x)
        if float(x.sum()) > 1e30:
            x = x * 0
        return super().forward(x)[:n]  # type: ignore[no-any-return]


class Moody(Plain):
    """Takes another way for dark images."""

    def __init__(self) -> None:
        super().__init__()
        self.light, self.dark = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Any:
        bright = bool(x.mean() > 0)
        y = self.first(x)
        return self.head(self.second(self.light(y) if bright else self.dark(y)))


class TwoInputs(Plain):
    def forward(self, x: Tensor, mask: Tensor) -> Any:  # type: ignore[override]
        return super().forward(x * mask)


class TakesMapping(Plain):
    def forward(self, batch: dict[str, Tensor]) -> Any:  # type: ignore[override]
        return super().forward(batch["image"])


class Volumes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, 8, 3, stride=(1, 2, 2), padding=1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv1(x)).mean((2, 3, 4)))  # type: ignore[no-any-return]


class StillClip(Volumes):
    """Takes an image for a video that stands still."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.unsqueeze(2).expand(-1, -1, 4, -1, -1))


class NoGradientAtAll(Plain):
    def forward(self, x: Tensor) -> Any:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            return super().forward(x)


# --- more that was hunted for --------------------------------------------------------------------


class HiddenConvolution(Plain):
    """In a list, where neither `eval()` nor a conversion reaches it."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [nn.Conv2d(8, 8, 3, padding=1), nn.Tanh()]

    def between(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            x = layer(x)
        return x


class HiddenNorm(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = [nn.BatchNorm2d(8)]

    def between(self, x: Tensor) -> Tensor:
        return self.hidden[0](x)  # type: ignore[no-any-return]


class TiedWeights(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.tied = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.tied.append(nn.Conv2d(8, 8, 3, padding=1))
        self.tied[1].running_mean.fill_(0.5)
        self.tied[3].weight = self.tied[0].weight

    def between(self, x: Tensor) -> Tensor:
        return self.tied(x)  # type: ignore[no-any-return]


class OneConvolutionTwoNorms(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Conv2d(8, 8, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8)])
        self.norms[0].running_mean.fill_(0.5)
        self.norms[1].running_var.fill_(0.3)

    def between(self, x: Tensor) -> Tensor:
        for norm in self.norms:
            x = F.relu(norm(self.shared(x)))
        return x


def forward_replaced() -> nn.Module:
    """Where a tracer, which looks at the class, does not look."""
    network = Plain()
    network.forward = lambda x: Plain.forward(network, 2 * x)  # type: ignore[method-assign]
    return network


def forward_of_a_layer_replaced() -> nn.Module:
    network = Plain()
    conv = network.conv2
    conv.forward = lambda x: nn.Conv2d.forward(conv, x).abs()  # type: ignore[method-assign]
    return network


def synchronised() -> nn.Module:
    module: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(Plain())
    return module


class NormsByFunction(Plain):
    def first(self, x: Tensor) -> Tensor:
        norm = self.bn1
        y = self.conv1(x)
        return F.relu(F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias))


class MindsGradients(Plain):
    """Computes something else where gradients are asked for."""

    def between(self, x: Tensor) -> Tensor:
        return 2 * x if torch.is_grad_enabled() else x


class _OneWay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        raise NotImplementedError("no way back")


class BackwardRaises(Plain):
    def between(self, x: Tensor) -> Tensor:
        return _OneWay.apply(x)  # type: ignore[no-any-return]


class SetsBackends(Plain):
    """As scripts for training do, when it is built and when it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.between(torch.zeros(()))

    def between(self, x: Tensor) -> Tensor:
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.deterministic = False
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("medium")
        torch.use_deterministic_algorithms(True)
        torch.set_num_threads(2)
        return x


class KeepsGridOfFirstBatch(Plain):
    """For as many images as came first."""

    grid: Tensor | None = None

    def between(self, x: Tensor) -> Tensor:
        if self.grid is None:
            self.grid = 0.5 * torch.ones_like(x)
        return x * self.grid


class TakesOneImage(Plain):
    def between(self, x: Tensor) -> Tensor:
        return x.view(1, 8, 16, 16)


class SharesAcrossInstances(Plain):
    """What it saw last is an attribute of the class, which all instances share."""

    seen: list[Tensor] = []  # noqa: RUF012

    def between(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().mean((0, 2, 3), keepdim=True))
        return x - torch.stack(self.seen).mean(0)


class _Rounded(torch.autograd.Function):
    """Rounds, and lets gradients through as if it had not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class StraightThrough(Plain):
    def between(self, x: Tensor) -> Tensor:
        return _Rounded.apply(4 * x)  # type: ignore[no-any-return]
