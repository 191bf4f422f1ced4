"""A GPU that is not there: whole batches on tensors of device `cuda` that hold no numbers.

    python -P tests/fake_cuda.py            # every case, as JSON; or those that are named

torch's FakeTensorMode propagates shape, dtype, stride and device through every operation, so an
operation that mixes devices fails as it would on a GPU. What is captured as a CUDA graph runs under
a dispatch mode that refuses what CUDA refuses there: to wait for a value, to copy between devices,
to make a tensor of Python numbers; and operations on CPU tensors, which a replay would not repeat.

It cannot see numbers, time, memory, a real capture, or what happens within libraries. Autograd
asks the CUDA runtime how many devices there are, so a stub of it that answers "one" is compiled
with `cc` and preloaded. That is for a whole process, which is why this is a program.
"""

# ruff: noqa: E402 - torch must be imported after the process has its stub
import contextlib
import io
import json
import logging
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from math import prod
from pathlib import Path
from typing import Any
from unittest import mock

_RUNTIME = """
int cudaGetDeviceCount(int *n) { *n = 1; return 0; }
int cudaGetDevice(int *n) { *n = 0; return 0; }
int cudaSetDevice(int n) { return 0; }
int cudaGetLastError(void) { return 0; }
int cudaPeekAtLastError(void) { return 0; }
int cudaDeviceSynchronize(void) { return 0; }
int cudaStreamSynchronize(void *stream) { return 0; }
int cudaStreamIsCapturing(void *stream, int *status) { *status = 0; return 0; }
int cudaDeviceGetStreamPriorityRange(int *low, int *high) { *low = 0; *high = -5; return 0; }
int cudaDriverGetVersion(int *version) { *version = 13020; return 0; }
"""
_DRIVER = """
#include <stddef.h>
int cuInit(unsigned flags) { return 0; }
int cuDevicePrimaryCtxGetState(int d, unsigned *f, int *a) { *f = 0; *a = 0; return 0; }
int cuGetErrorString(int error, const char **text) { *text = "stub"; return 0; }
int cuDriverGetVersion(int *version) { *version = 13020; return 0; }
int cuGetProcAddress_v2(const char *name, void **p, int v, unsigned long f, int *s) {
    *p = NULL;
    if (s) *s = 1;
    return 0;
}
"""
_IS_STUBBED = "LAYER_ATLAS_FAKE_CUDA"


def start_again_with_stub() -> None:
    """Replace this process by one whose CUDA runtime claims a device; return if it is that one."""
    if _IS_STUBBED in os.environ:
        return
    folder = Path(tempfile.mkdtemp(prefix="fake_cuda-"))
    for name, source in (("libruntime.so", _RUNTIME), ("libcuda.so.1", _DRIVER)):
        command = ["cc", "-shared", "-fPIC", "-x", "c", "-o", str(folder / name), "-"]
        subprocess.run(command, input=source.encode(), check=True)
    libraries = os.pathsep.join(filter(None, (str(folder), os.environ.get("LD_LIBRARY_PATH"))))
    variables = {
        _IS_STUBBED: str(folder),
        "LD_PRELOAD": str(folder / "libruntime.so"),
        "LD_LIBRARY_PATH": libraries,
    }
    argv = [sys.executable, "-W", "ignore", "-P", __file__, *sys.argv[1:]]
    os.execve(sys.executable, argv, {**os.environ, **variables})


if __name__ == "__main__":
    start_again_with_stub()

import torch
from images import AREA, FAMILY, MASK, WEIGHTS, Prior, for_colours
from images import find as find_file
from test_invariance import EVERY_TRANSFORM
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from layer_atlas.config import objectives as o
from layer_atlas.config.config import ModelConfig
from layer_atlas.config.optimizers import LBFGS, SGD, Adam, AdamW, NAdam
from layer_atlas.config.parameterizations import Fourier, NaturalFourier, Pixel, Pyramid
from layer_atlas.config.recipe import (
    DatasetInit,
    Growth,
    Octaves,
    PhotographInit,
    Recipe,
    Regularizers,
    SpectrumInit,
    Transforms,
)
from layer_atlas.models import device_model, forwards, load
from layer_atlas.models.introspection import describe_layers
from layer_atlas.models.load import load_network
from layer_atlas.plan.jobs import LayerInfo
from layer_atlas.visualization import rng, spectrum
from layer_atlas.visualization.optimization import image_statistics
from layer_atlas.visualization.optimization.loop import GradientAscent
from layer_atlas.visualization.optimization.renderer import Renderer
from layer_atlas.visualization.parameterizations import generator

CUDA = torch.device("cuda", 0)
BATCH = 8

# --- cases ---------------------------------------------------------------------------------------

PICTURE = "picture.png"
FILES = (PICTURE, AREA, f"3-{WEIGHTS}")
HELD_BACK = Regularizers(0.1, 0.1, 0.1, 0.1, blur=0.5, clip=1.0)
LIGHT = Transforms(jitter=0.02, scale=(0.97, 1.03), rotate=2.0)
STILL = Transforms(jitter=0.0, scale=(1.0, 1.0), rotate=0.0)
FACTORS = (0.8, 1.2)
ROBUST = Transforms(perspective=0.2, brightness=FACTORS, contrast=FACTORS, saturation=FACTORS)
RECIPE = Recipe(
    objective=o.ChannelObjective(),
    parameterization=NaturalFourier(),
    transforms=Transforms(),
    optimizer=Adam(steps=6, leaky_steps=2),
    image_size=(48, 48),
    precision="bf16",
)


def quiet(activations: Tensor, channel: Tensor) -> Tensor:
    """An objective of a user's."""
    return activations.mean(dim=2).gather(1, channel[:, None])[:, 0]


def waits(activations: Tensor, channel: Tensor) -> Tensor:
    """An objective of a user's that looks at a value, which a capture forbids."""
    score = quiet(activations, channel)
    return score if float(score.detach().abs().max()) >= 0.0 else -score


DEMO = ModelConfig("demo", weights="none")
NORMALISED = ModelConfig("norms", target="fake_cuda.normalized")


def normalized() -> nn.Module:
    """A network with batch norms before its last layer."""
    first = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()
    return nn.Sequential(*first, nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3))


@dataclass(frozen=True)
class Case:
    """A recipe, as changes of `RECIPE`, and the layer that images are made for."""

    changes: dict[str, Any]
    layer: str = "conv5"
    network: ModelConfig = DEMO

    @property
    def recipe(self) -> Recipe:
        return replace(RECIPE, **self.changes)

    @property
    def is_captured(self) -> bool:
        """Whether its steps become CUDA graphs: they must not wait for the device."""
        return not isinstance(self.recipe.optimizer, LBFGS) and "waits" not in str(self.changes)


def _layer(objective: o.Objective) -> str:
    return "conv5" if objective.own_layers == o.Objective.own_layers else "output"


OBJECTIVES: dict[str, o.Objective] = {
    "channel": o.ChannelObjective(),
    "channel negative": o.ChannelObjective(sign="negative"),
    "channel both": o.ChannelObjective(sign="both"),
    "neuron": o.NeuronObjective(),
    "direction": o.DirectionObjective(cosine_power=1.0),
    "logit": o.LogitObjective(),
    "probability": o.ProbabilityObjective(),
    "layer": o.LayerObjective(),
    "custom": o.CustomObjective(function="fake_cuda.quiet"),
    "custom that waits": o.CustomObjective(function="fake_cuda.waits"),
    "diversity": o.DiversityObjective(images=4),
    "interpolation": o.InterpolationObjective(images=4),
    "caricature": o.CaricatureObjective(photograph=PICTURE),
    "inversion": o.InversionObjective(photograph=PICTURE),
    "accentuation": o.AccentuationObjective(photograph=PICTURE),
    "prototype": o.PrototypeObjective(top=2),
    "facets": o.FacetsObjective(top=2, facets=2),
    # Without a map every cell has the same direction.
    "activation atlas": o.ActivationAtlasObjective(grid=(2,)),
}
OPTIMIZERS = {
    "adam": Adam(steps=6, leaky_steps=2),
    "adamw": AdamW(steps=6, leaky_steps=2),
    "nadam": NAdam(steps=6, leaky_steps=2, weight_decay=0.01),
    "sgd": SGD(steps=6, leaky_steps=2, weight_decay=0.01),
    "sgd plain": SGD(steps=6, leaky_steps=2, momentum=0.0, normalized=False),
    "lbfgs": LBFGS(steps=2, leaky_steps=1, evaluations=3),
}
TRANSFORMS = {"robust": Transforms(), "light": LIGHT, "none": STILL, "every": EVERY_TRANSFORM}
OTHERS: dict[str, dict[str, Any]] = {
    "from spectrum": {"init": SpectrumInit()},
    "from a photograph": {"init": PhotographInit(photograph=PICTURE)},
    "from the dataset": {"init": DatasetInit()},
    "octaves": {"octaves": Octaves(count=2, scale=1.4)},
    "growth": {
        "growth": Growth(sides=(0.5,), costs=(0.25,)),
        "optimizer": Adam(steps=8, leaky_steps=2),
    },
    "snapshots": {"snapshots": 2},
    "odd size": {"image_size": (45, 67)},
    "mask": {"mask": MASK},
    "alpha": {"parameterization": Fourier(alpha=True)},
    "held back": {"regularizers": HELD_BACK},
    "held back pixels": {"regularizers": HELD_BACK, "parameterization": Pixel()},
    "held back pyramid": {"regularizers": HELD_BACK, "parameterization": Pyramid()},
    "fp32": {"precision": "fp32"},
    "224 px": {"image_size": (224, 224), "transforms": ROBUST},
}
CASES = {
    "everything else": Case({}),
    **{f"objective {k}": Case({"objective": v}, _layer(v)) for k, v in OBJECTIVES.items()},
    **{
        f"parameterization {v.name} {n}": Case({"parameterization": for_colours(v, 3)})
        for n, v in enumerate(FAMILY)
    },
    **{f"optimizer {k}": Case({"optimizer": v}) for k, v in OPTIMIZERS.items()},
    **{f"transforms {k}": Case({"transforms": v}) for k, v in TRANSFORMS.items()},
    **{k: Case(v) for k, v in OTHERS.items()},
    "feature statistics": Case(
        {"regularizers": Regularizers(feature_statistics=1.0)}, "5", NORMALISED
    ),
}


def _paired() -> dict[str, Case]:
    """Cases in which every two members of different factors meet; all products are 10,368.

    Every objective meets every parameterization; the other factors are dealt over these pairs.
    """
    cases = {}
    for (i, (name, objective)), (j, member) in product(
        enumerate(OBJECTIVES.items()), enumerate(FAMILY)
    ):
        transforms = list(TRANSFORMS)[(i + j) % 4]
        optimizer = list(OPTIMIZERS)[(i + j + j // 3) % 6]
        precision = ("bf16", "fp32")[(i // 2 + j // 2 + i * j // 3) % 2]
        changes = {
            "objective": objective,
            "parameterization": for_colours(member, 3),
            "transforms": TRANSFORMS[transforms],
            "optimizer": OPTIMIZERS[optimizer],
            "precision": precision,
        }
        label = f"{name}, {member.name} {j}, {transforms}, {optimizer}, {precision}"
        cases[label] = Case(changes, _layer(objective))
    return cases


PAIRED = _paired()


# --- the device ----------------------------------------------------------------------------------

_WITHOUT_KERNEL = {
    *("view", "_unsafe_view", "expand", "t", "transpose", "permute", "unsqueeze", "squeeze"),
    *("slice", "select", "split", "split_with_sizes", "unbind", "detach", "alias", "as_strided"),
    *("view_as_real", "view_as_complex", "empty", "empty_like", "empty_strided", "new_empty"),
    *("unfold", "diagonal", "lift_fresh", "device", "_reshape_alias", "movedim", "narrow", "set_"),
    *("new_empty_strided", "resize_", "is_same_size", "sym_size", "real", "imag", "chunk"),
}
_WAITING = {
    *("_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "unique_dim", "_unique2"),
    *("masked_select", "unique_consecutive", "is_pinned"),
}
_FROM_NUMBERS = {"lift_fresh", "lift_fresh_copy"}


@dataclass
class Found:
    """What became of a case."""

    stage: str = "begun"
    error: str = ""
    trace: str = ""
    captured: int = 0
    """Steps that were captured, one for each value of the flag and batch."""
    forbidden: list[str] = field(default_factory=list)
    """What a capture must not do, with the line of the package."""
    kernels: int = 0
    """Kernels of the step that was captured last, at least."""
    bytes: int = 0
    """Bytes that these read and write: all of their operands and results."""
    said: str = ""


class Values(TorchDispatchMode):
    """Answers requests for a value, outside captures, with any; or refuses them."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses = False
        self._comparisons: list[Tensor] = []
        aten = torch.ops.aten
        self._answers: dict[Any, Callable[[Tensor], Any]] = {
            aten._local_scalar_dense.default: self._value,
            aten.equal.default: lambda tensor: True,
            aten.allclose.default: lambda tensor: True,
            aten.nonzero.default: lambda x: x.new_zeros((1, x.dim()), dtype=torch.int64),
        }

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self._answers:
            if self.refuses:
                raise RuntimeError("called a synchronizing CUDA operation")
            return self._answers[func](args[0])
        if func._schema.name.startswith("aten::_fused_"):  # in place, and unknown to fake tensors
            devices = {x.device.type for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
            assert devices == {"cuda"}, f"{func} with tensors on {devices}"
            return None
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.lt.Scalar:  # optimizers refuse rates below 0
            self._comparisons = [result]
        return result

    def _value(self, tensor: Tensor) -> float | int | bool:
        if any(tensor is comparison for comparison in self._comparisons):
            return False
        if tensor.dtype == torch.bool:
            return True
        return 0.5 if tensor.is_floating_point() else 1


class Capture(TorchDispatchMode):
    """Counts the kernels of a step and their bytes, and refuses what a capture forbids."""

    def __init__(self, found: Found) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        if name in _WAITING:
            self._forbid(f"waits: {name}")
        if name in _FROM_NUMBERS:
            self._forbid("makes a tensor of Python numbers")
        try:
            result = func(*args, **(kwargs or {}))
        except (DataDependentOutputException, DynamicOutputShapeException):
            self._forbid(f"waits: {name}")
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
        devices = {x.device.type for x in tensors if x.dim() or name == "_to_copy"}
        if name in ("_to_copy", "copy_", "copy") and devices >= {"cpu", "cuda"}:
            self._forbid(f"copies between devices: {name}")
        if devices == {"cpu"}:
            self._forbid(f"computes on the CPU: {name}")
        if name not in _WITHOUT_KERNEL:
            self.found.kernels += 1
            self.found.bytes += _moved(func, args, kwargs or {}, result)
        return result

    def _forbid(self, what: str) -> None:
        self.found.forbidden.append(f"{what} at {_line_of_package()}")
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")


_READS_WHAT_IT_RETURNS = {"index_select", "gather", "index", "new_zeros", "zero_", "fill_", "copy_"}


def _moved(func: Any, args: Any, kwargs: Any, result: Any) -> int:
    """Return the bytes that a kernel reads and writes."""
    given = {a.name: x for a, x in zip(func._schema.arguments, args, strict=False)} | kwargs
    changed = [given.get(a.name) for a in func._schema.arguments if a.is_write]
    read = [given.get(a.name) for a in func._schema.arguments if not a.is_out]
    written = _size(result) or _size(changed)
    is_partial = func._schema.name.partition("::")[2] in _READS_WHAT_IT_RETURNS
    return written + (written if is_partial else _size(read))


def _size(tensors: Any) -> int:
    """Return the bytes of some tensors; numbers that an expanded one repeats count once."""
    return sum(
        x.element_size() * prod(n for n, stride in zip(x.shape, x.stride(), strict=True) if stride)
        for x in tree_leaves(tensors)
        if isinstance(x, Tensor)
    )


def _line_of_package() -> str:
    stack = traceback.extract_stack()
    ours = [frame for frame in stack if "/layer_atlas/" in frame.filename] or stack[-1:]
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"


class Graph:
    """Stands for a CUDA graph: its tensors hold no numbers, so a replay has nothing to do."""

    def replay(self) -> None: ...


def _converted(
    network: nn.Module, device: torch.device, dtype: torch.dtype, channels_last: bool
) -> nn.Module:
    """As `load.converted`, which swaps the data of parameters; fake tensors do not bear that."""

    def moved(tensor: Tensor) -> Tensor:
        number = dtype if tensor.is_floating_point() else tensor.dtype
        last = channels_last and tensor.dim() == 4
        layout = torch.channels_last if last else torch.preserve_format
        return tensor.detach().to(device, number, memory_format=layout)

    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(moved(parameter), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = moved(buffer)
    return network


def _prior(config: object, weights: object) -> nn.Module:
    """As `generator._with_weights`, on the device already: it is moved there as a whole."""
    prior = _converted(Prior(3), CUDA, torch.float32, channels_last=False)
    prior.to = lambda *_: prior  # type: ignore[method-assign, assignment]
    return prior


@contextlib.contextmanager
def fake_gpu(found: Found) -> Iterator[None]:
    """Compute on a GPU that is not there."""
    values = Values()

    @contextlib.contextmanager
    def graph(graph: Graph, pool: Any = None) -> Iterator[None]:
        found.kernels = found.bytes = 0
        with Capture(found):
            yield
        found.captured += 1

    cuda = {
        "graph": graph,
        "CUDAGraph": Graph,
        "graph_pool_handle": lambda: (0, 1),
        "empty_cache": lambda: None,
        "current_stream": lambda: None,
        "set_stream": lambda stream: None,
        "get_sync_debug_mode": lambda: "default",
        "set_sync_debug_mode": lambda mode: setattr(values, "refuses", mode == "error"),
        "is_available": lambda: False,
        "_lazy_init": lambda: None,
    }
    nothing = lambda *_: 0.0  # noqa: E731 - what is compared holds no numbers
    patches = (
        mock.patch.multiple(torch.cuda, **cuda),
        mock.patch.object(fake_tensor, "init_gpu_context"),
        mock.patch.object(fake_tensor.FakeTensor, "__deepcopy__", _copied, create=True),
        mock.patch.object(
            torch._C, "_select_conv_backend", return_value=torch._C._ConvBackend.Cudnn
        ),
        mock.patch.object(generator, "_with_weights", side_effect=_prior),
        mock.patch.object(image_statistics, "ROBUST_VIEWS", 2),  # all are alike
        mock.patch.multiple(forwards, disagreement=nothing, _gradient_error=nothing),
        mock.patch.multiple(device_model, converted=_converted, fingerprint=lambda activation: ()),
        mock.patch.multiple(load, converted=_converted, weights_digest=lambda module: "0" * 64),
        FakeTensorMode(allow_non_fake_inputs=True),
        values,
    )
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield


def _copied(tensor: Tensor, memo: Any) -> Tensor:
    copied = tensor.detach().clone()
    if getattr(tensor, "_is_param", False):
        copied = nn.Parameter(copied, requires_grad=tensor.requires_grad)
    memo[id(tensor)] = copied
    return copied


# --- a batch -------------------------------------------------------------------------------------


def check(case: Case) -> Found:
    """Make and measure batches of images of a case; returns what became of it.

    With `everything else` dead jobs are tried again, batch sizes tried out, dataset images seen.
    """
    found = Found()
    layers = _layers(case)
    for name in FILES:  # written while tensors are real
        find_file(name)
    _forget_cached()
    log = logging.StreamHandler(io.StringIO())
    logging.getLogger("layer_atlas").addHandler(log)
    with fake_gpu(found):
        try:
            _make(case, layers, found)
        except Exception as error:  # noqa: BLE001 - any is a finding
            found.error, found.trace = f"{type(error).__name__}: {error}", traceback.format_exc()
    logging.getLogger("layer_atlas").removeHandler(log)
    found.said = log.stream.getvalue()
    _forget_cached()
    return found


def _make(case: Case, layers: dict[str, LayerInfo], found: Found) -> None:
    recipe, info = case.recipe, layers[case.layer]
    found.stage = "network"
    renderer = Renderer(load_network(case.network), recipe, CUDA, find=find_file)
    layer = renderer.layer(info)
    found.stage = "optimization"
    keys = rng.keys([f"{i:016x}" + "0" * 48 for i in range(BATCH)], CUDA)
    targets = torch.zeros(BATCH, dtype=torch.int64, device=CUDA)
    used = max(recipe.dataset_images_used, 1)
    jobs = layer._jobs(keys, targets, torch.zeros(BATCH, used, layer.colours, *recipe.image_size))
    samples = jobs.with_variants(recipe.variants)
    if isinstance(recipe.optimizer, LBFGS):
        assert isinstance(layer.loop, GradientAscent)
        layer.loop._start(samples)._evaluate(True)
        found.stage = "done"
        return
    for _ in range(2):  # the second batch is loaded into the tensors of the first
        optimized = layer.loop.optimize(samples, lambda step: None)
    assert {optimized.images.device, optimized.trace.device} == {CUDA}
    found.stage = "whole jobs, with their measurement"
    rows = layer._attempt(layer.loop, jobs, lambda step: None)
    assert {row.device for row in rows.values()} == {CUDA}
    if case is not CASES["everything else"]:
        found.stage = "done"
        return
    layer.gpu_multiple = 4 * BATCH  # a batch size that the user has set
    assert len(layer._attempt(layer._loop_for(recipe), jobs, lambda step: None)["image"]) == BATCH
    found.stage = "another start of some"
    some = jobs.select(torch.arange(3, device=CUDA))
    again = replace(some, keys=rng.derived(some.keys, rng.START, 1))
    layer._attempt(layer._loop_for(recipe), again, lambda step: None)
    found.stage = "trial of a batch size"
    captured = found.captured
    layer._try_out(4)
    assert found.captured == captured, "a trial captured graphs"
    found.stage = "dataset images"
    views = torch.zeros(4, *recipe.image_size, 3, dtype=torch.uint8)
    for answer in renderer.network.observer([info])(views).values():
        assert answer.mean.device == CUDA
    found.stage = "done"


def _layers(case: Case) -> dict[str, LayerInfo]:
    network = load_network(case.network)
    example = network.example(case.recipe.image_size)
    return {info.name: info for info in describe_layers(network.module, example)}


def _forget_cached() -> None:
    """Empty the caches of the package: a kept tensor would mix real and fake ones."""
    for name, module in list(sys.modules.items()):
        if name.startswith("layer_atlas"):
            for value in list(vars(module).values()):
                clear: Callable[[], None] | None = getattr(value, "cache_clear", None)
                if clear is not None and value is not spectrum._stored_spectrum:
                    clear()
    spectrum._stored_spectrum()  # a file: read while tensors are real


def main(names: list[str]) -> None:
    """Check cases and print what became of each, as JSON."""
    sys.modules.setdefault("fake_cuda", sys.modules["__main__"])
    cases = {**CASES, **PAIRED}
    print(json.dumps({name: asdict(check(cases[name])) for name in names or CASES}))


if __name__ == "__main__":
    main(sys.argv[1:])
