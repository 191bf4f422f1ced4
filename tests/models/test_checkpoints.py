"""Checkpoints as tools leave them: the right tensors are taken, or one message says what to write.

Every case writes a file with the libraries' own writers and compares the loaded network with the
tensors that were written, which are still in memory.
"""

import argparse
import collections
import dataclasses
import datetime
import enum
import functools
import json
import logging
import os
import pathlib
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_files import (
    MINE,
    OTHER,
    Net,
    State,
    Write,
    legacy,
    load,
    network_of,
    pickled,
    prefixed,
    saved,
    state_of,
)
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import nn
from toys import composed

from layer_atlas.errors import UnusableFile, UserError
from layer_atlas.models.activations import plain_activations
from layer_atlas.models.introspection import describe_layers
from layer_atlas.models.load import check_weights
from layer_atlas.plan.plan import Plan
from layer_atlas.sweep.planning import inspect_models, make_plan
from layer_atlas.sweep.planning.devices import WorkerDevice

# --- what stands beside the tensors --------------------------------------------------------------


class Phase(enum.Enum):
    TRAIN = "train"


@dataclasses.dataclass
class Progress:
    epoch: int
    best: float


class Vanished:
    """Stands for classes of a library that is not installed where the file is read."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class VanishedDict(dict[str, Any]):
    pass


@pytest.fixture
def vanished() -> Any:
    """Makes `Vanished` and `VanishedDict` classes of a module that is gone after writing."""
    module = types.ModuleType("some_trainer.utilities")
    package = types.ModuleType("some_trainer")
    for cls in (Vanished, VanishedDict):
        setattr(module, cls.__name__, cls)
        cls.__module__ = module.__name__
    sys.modules |= {package.__name__: package, module.__name__: module}

    def forget() -> None:
        for name in (package.__name__, module.__name__):
            sys.modules.pop(name, None)

    yield forget
    forget()


def optimizer_state() -> dict[str, Any]:
    network = network_of(OTHER)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


SIBLINGS: dict[str, Callable[[], Any]] = {
    "Namespace": lambda: argparse.Namespace(lr=0.1, layers=[1, 2]),
    "OmegaConf": lambda: OmegaConf.create({"model": {"name": "x", "dims": [1, 2]}}),
    "hyperparameters of a class that is not installed": lambda: VanishedDict(
        lr=1, inner=Vanished()
    ),
    "an object of a class that is not installed": lambda: Vanished(a=[1, {"b": 2}], c=np.ones(3)),
    "numpy scalars": lambda: {"best": np.float64(0.5), "n": np.int64(3), "ok": np.bool_(True)},
    "a random state": lambda: {"numpy": np.random.get_state(), "torch": torch.get_rng_state()},
    "paths and dates": lambda: [pathlib.Path("/data"), datetime.datetime(2026, 1, 1)],
    "an enum and a dataclass": lambda: {"phase": Phase.TRAIN, "progress": Progress(3, 0.5)},
    "a partial of a class": lambda: functools.partial(torch.optim.Adam, lr=1e-3),
    "the state of an optimizer": optimizer_state,
    "containers": lambda: [
        collections.defaultdict(list, a=[1]),
        collections.Counter("abc"),
        collections.deque([1, 2]),
        {1, 2},
        frozenset({3}),
    ],
    "a loss and a logger": lambda: [
        nn.CrossEntropyLoss(weight=torch.ones(5)),
        logging.getLogger("a"),
    ],
    "a device, a dtype and a size": lambda: [
        torch.device("cuda:3"),
        torch.float16,
        torch.Size([2]),
    ],
    "functions": lambda: [torch.relu, os.path.join, len, print],
    "odd tensors": lambda: [
        torch.eye(3).to_sparse(),
        torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.qint8),
        torch.zeros(2, device="meta"),
    ],
}


# --- files ---------------------------------------------------------------------------------------


def safetensors(state: State, name: str) -> Write:
    def write(folder: Path) -> Path:
        save_file(state, folder / name)
        return folder / name

    return write


def sharded(suffix: str, found: str) -> Write:
    def write(folder: Path) -> Path:
        names = list(MINE)
        parts = {f"part-{i}-of-2.{suffix}": names[i::2] for i in (0, 1)}
        for part, some in parts.items():
            tensors = {name: MINE[name] for name in some}
            if suffix == "bin":
                torch.save(tensors, folder / part)
            else:
                save_file(tensors, folder / part)
        index = {"metadata": {}, "weight_map": {n: p for p, some in parts.items() for n in some}}
        stem = "pytorch_model" if suffix == "bin" else "model"
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
        return folder / found if found else folder

    return write


def numpy_state(state: State) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in state.items()}


def views() -> State:
    """Every tensor is a view into one storage, as flattened parameters are."""
    flat = torch.cat([torch.zeros(7), *(t.reshape(-1).float() for t in MINE.values())])
    start, found = 7, {}
    for name, tensor in MINE.items():
        found[name] = flat[start : start + tensor.numel()].view(tensor.shape)
        start += tensor.numel()
    return found


def transposed() -> State:
    return {
        n: t.transpose(0, -1).contiguous().transpose(0, -1) if t.ndim else t
        for n, t in MINE.items()
    }


def averaged() -> nn.Module:
    return torch.optim.swa_utils.AveragedModel(network_of(MINE))


class Parallel(nn.DataParallel[Net]):
    pass


def ema_object() -> Any:
    return Vanished(decay=0.99, ema=network_of(MINE), updates=7)


CONTAINERS = (
    *("state_dict", "model", "net", "params", "weights", "network", "model_state"),
    *("model_state_dict", "ema", "model_ema", "teacher", "student", "generator", "0"),
)
PREFIXES = {
    "module.": "stripped `module.`",
    "_orig_mod.": "stripped `_orig_mod.`",
    "model.": "stripped `model.`",
    "net.backbone.": "stripped `net.backbone.`",
    "encoder.": "stripped `encoder.`",
    "module._orig_mod.model.": "stripped `module._orig_mod.model.`",
    "_fsdp_wrapped_module.": "stripped `_fsdp_wrapped_module.`",
    "a.b.c.d.e.": "stripped `a.b.c.d.e.`",
}

ALL = f"{len(MINE)} of {len(MINE)} tensors"

LOADED: dict[str, tuple[Write, dict[str, Any], str]] = {
    **{
        f"plain{suffix}": (saved(MINE, f"w{suffix}"), {}, ALL)
        for suffix in (".pth", ".pt", ".ckpt", ".bin", ".pkl", ".pth.tar", ".PTH", "")
    },
    **{f"in {key}": (saved({"epoch": 3, key: MINE}), {}, f"took `{key}`") for key in CONTAINERS},
    **{f"behind {p}": (saved(prefixed(p)), {}, words) for p, words in PREFIXES.items()},
    **{
        f"{key}, behind {prefix}": (saved({key: prefixed(prefix)}, "w.ckpt"), {}, f"took `{key}`")
        for key in ("state_dict", "model", "ema")
        for prefix in ("module.", "model.", "net.backbone.")
    },
    **{
        f"beside {name}": (
            saved(lambda make=make: {"other": make(), "model": MINE, "x": make()}),
            {},
            "took",
        )
        for name, make in SIBLINGS.items()
    },
    "legacy": (legacy(MINE), {}, ALL),
    "legacy, of a trainer": (
        legacy(
            lambda: {"args": argparse.Namespace(a=1), "state_dict": prefixed("module.")},
            "w.pth.tar",
        ),
        {},
        "took `state_dict`, stripped `module.`",
    ),
    "legacy, beside the state of an optimizer": (
        legacy(lambda: {"model": MINE, "optimizer": optimizer_state()}),
        {},
        "took `model`",
    ),
    **{
        f"pickle, protocol {n}": (pickled({"model": MINE, "step": 1}, n), {}, "took `model`")
        for n in (0, 2, 4, 5)
    },
    **{
        f"arrays of numpy, protocol {n}": (
            pickled({"model": numpy_state(MINE)}, n),
            {},
            "took `model`",
        )
        for n in (0, 2, 4, 5)
    },
    "arrays of numpy, saved by torch": (saved({"model": numpy_state(MINE)}), {}, "took `model`"),
    "safetensors": (safetensors(MINE, "w.safetensors"), {}, ALL),
    "safetensors behind a prefix": (
        safetensors(prefixed("vit.encoder."), "w.safetensors"),
        {},
        "stripped `vit.encoder.`",
    ),
    "safetensors under another name": (safetensors(MINE, "pytorch_model.bin"), {}, ALL),
    "an index of safetensors": (sharded("safetensors", "model.safetensors.index.json"), {}, ALL),
    "an index of .bin": (sharded("bin", "pytorch_model.bin.index.json"), {}, ALL),
    "a folder of transformers": (sharded("safetensors", ""), {}, ALL),
    "nested in two mappings": (
        saved({"checkpoint": {"model": MINE}}),
        {},
        "took `checkpoint.model`",
    ),
    "nested parameters": (
        saved(
            {
                "params": {
                    "conv1": {k: MINE[f"conv1.{k}"] for k in ("weight", "bias")},
                    "block": {
                        "0": {"weight": MINE["block.0.weight"]},
                        "1": {
                            k.split(".")[2]: t for k, t in MINE.items() if k.startswith("block.1.")
                        },
                    },
                    "fc": {k: MINE[f"fc.{k}"] for k in ("weight", "bias")},
                }
            }
        ),
        {},
        "took `params`",
    ),
    "in a tuple": (saved((3, MINE, {"lr": 1})), {}, "took `1`"),
    "in a list": (saved([OTHER["fc.bias"], MINE]), {}, "took `1`"),
    "parameters": (
        saved({k: nn.Parameter(t) if t.is_floating_point() else t for k, t in MINE.items()}),
        {},
        ALL,
    ),
    "an ordered dict with metadata": (saved(lambda: network_of(MINE).state_dict()), {}, ALL),
    "in an object's attributes": (saved(lambda: Vanished(step=1, model=MINE)), {}, "took `model`"),
    "in a mapping of a class that is not installed": (
        saved(lambda: VanishedDict(state_dict=VanishedDict(prefixed("model.")))),
        {},
        "took `state_dict`, stripped `model.`",
    ),
    "views of one storage": (saved(views), {}, ALL),
    "transposed": (saved(transposed), {}, ALL),
    "as double": (saved(lambda: {k: t.double() for k, t in MINE.items()}), {}, ALL),
    "a whole module": (saved(lambda: network_of(MINE)), {}, ALL),
    "a whole module in a mapping": (saved(lambda: {"model": network_of(MINE)}), {}, "took `model`"),
    "a whole module, legacy": (legacy(lambda: {"model": network_of(MINE)}), {}, "took `model`"),
    "a parallel module": (saved(lambda: Parallel(network_of(MINE))), {}, "took `module`"),
    "an average of modules": (saved(averaged), {}, "took `module`"),
    "the average of an object": (saved(ema_object), {}, "took `ema`"),
    "an average's state": (saved(lambda: averaged().state_dict()), {}, "stripped `module.`"),
    "compiled inside": (
        saved({("net._orig_mod." if "block" in k else "net.") + k: t for k, t in MINE.items()}),
        {},
        "stripped `net.` and `_orig_mod.`",
    ),
    "wrapped inside": (
        saved(
            {
                k.replace("block.", "block._checkpoint_wrapped_module.module."): t
                for k, t in MINE.items()
            }
        ),
        {},
        "stripped `_checkpoint_wrapped_module.` and `module.`",
    ),
    "the network is wrapped, the file is not": (
        saved(MINE),
        {"target": "checkpoint_files.Wrapped"},
        "put `network.` in front",
    ),
    "both are wrapped, by other names": (
        saved({"state_dict": prefixed("model.")}),
        {"target": "checkpoint_files.Wrapped"},
        "stripped `model.`, put `network.` in front",
    ),
    "a network and its average": (
        saved({"model_ema": OTHER, "model": MINE}),
        {},
        "`model_ema` fits as well, and models[].weights_key=model_ema takes it",
    ),
    "teacher and student": (
        saved({"student": prefixed("module.backbone.", OTHER), "teacher": prefixed("backbone.")}),
        {},
        "took `teacher`, stripped `backbone.`",
    ),
    "teacher and student in one mapping": (
        saved({"state_dict": prefixed("student.", OTHER) | prefixed("teacher.")}),
        {},
        "`student.` fits as well, and models[].weights_prefix=student. takes it",
    ),
    "query and key": (
        saved({"state_dict": prefixed("module.encoder_k.", OTHER) | prefixed("module.encoder_q.")}),
        {},
        "stripped `module.encoder_q.`",
    ),
    "the average is wanted": (
        saved({"model": OTHER, "model_ema": MINE}),
        {"weights_key": "model_ema"},
        "took `model_ema`",
    ),
    "the student is wanted": (
        saved({"state_dict": prefixed("student.") | prefixed("teacher.", OTHER)}),
        {"weights_prefix": "student."},
        "stripped `student.`",
    ),
    "key and prefix are wanted": (
        saved(
            {
                "a": prefixed("x.", OTHER) | prefixed("y.", OTHER),
                "b": prefixed("x.", OTHER) | prefixed("y."),
            }
        ),
        {"weights_key": "b", "weights_prefix": "y"},
        "took `b`, stripped `y.`",
    ),
    "the outermost is wanted": (
        saved({**MINE, "model": OTHER}),
        {"weights_key": "."},
        ALL,
    ),
    "beside a larger network": (
        saved(
            {"state_dict": prefixed("net.") | {f"decoder.{i}.w": torch.rand(3) for i in range(200)}}
        ),
        {},
        "stripped `net.`",
    ),
    "with an unused head": (
        saved({**MINE, "aux.weight": torch.rand(3)}),
        {},
        "1 more in the file unused",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", LOADED)
def test_the_right_tensors_are_loaded(
    case: str, tmp_path: Path, vanished: Callable[[], None]
) -> None:
    write, entry, words = LOADED[case]
    path = write(tmp_path)
    vanished()
    network = load(path, **entry)
    own = network.module.state_dict()
    front = "network." if "Wrapped" in entry.get("target", "") else ""
    assert own.keys() == prefixed(front).keys()
    for name, tensor in MINE.items():
        assert torch.equal(own[front + name], tensor), name
    assert network.missing == ()
    assert words in network.origin.loaded
    assert "some_trainer" not in sys.modules


def test_there_are_enough_cases() -> None:
    assert len(LOADED) >= 80


# --- what is refused, with the remedy ------------------------------------------------------------


def scripted(folder: Path) -> Path:
    torch.jit.trace(network_of(MINE).eval(), torch.rand(1, 3, 8, 8)).save(folder / "w.pt")
    return folder / "w.pt"


def exported(folder: Path) -> Path:
    program = torch.export.export(network_of(MINE).eval(), (torch.rand(1, 3, 8, 8),))
    torch.export.save(program, folder / "w.pt")
    return folder / "w.pt"


def written(data: bytes, name: str = "w.pth") -> Write:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return write


def index_of(part: str) -> Write:
    text = json.dumps({"weight_map": {"conv1.weight": part}})
    return written(text.encode(), "model.safetensors.index.json")


STRANGE = {"stem.kernel": torch.rand(3), "tail.kernel": torch.rand(3)}

REFUSED: dict[str, tuple[Write, dict[str, Any], list[str]]] = {
    "TorchScript": (scripted, {}, ["TorchScript", "torch.jit.load('w.pt').state_dict()"]),
    "an exported program": (exported, {}, ["exported program", "model.state_dict()"]),
    "a pointer of Git LFS": (
        written(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        {},
        ["Git LFS", "git lfs pull"],
    ),
    "HDF5": (written(b"\x89HDF\r\n\x1a\n" + bytes(99), "w.pkl"), {}, ["HDF5", "Keras"]),
    "a web page": (written(b"<!DOCTYPE html><html>log in</html>"), {}, ["web page", "download"]),
    "a compressed file": (written(b"\x1f\x8b" + bytes(99), "w.tar"), {}, ["gzip", "unpack"]),
    "a config file": (written(b"{}", "config.json"), {}, ["no index of weights", "name the"]),
    "an index of a file elsewhere": (index_of("../w.safetensors"), {}, ["no file beside it"]),
    "an index of a missing file": (index_of("part-1.safetensors"), {}, ["part-1", "is missing"]),
    "an empty folder": (lambda folder: folder, {}, ["is a folder", "name a file in it"]),
    "another network": (
        saved({"model": STRANGE}),
        {},
        ["model.stem.kernel", "model.tail.kernel", "conv1.weight", "another network"],
    ),
    "an unknown key": (
        saved({"model": MINE, "ema": OTHER}),
        {"weights_key": "emma"},
        ["weights_key", "'emma'", "choose from: ema"],
    ),
    "an unknown prefix": (
        saved({"model": prefixed("net.")}),
        {"weights_prefix": "nett."},
        ["weights_prefix", "'nett.'", "net."],
    ),
    "a key that does not fit": (
        saved({"model": MINE, "optimizer": {"a": STRANGE}}),
        {"weights_key": "optimizer"},
        ["no tensor of the file has a name of this network"],
    ),
    "other shapes": (
        saved({k: torch.rand(9, 9, 9, 9) for k in MINE}),
        {},
        ["conv1.weight is [9, 9, 9, 9] in the file and [4, 3, 3, 3] in the network"],
    ),
    "nothing but the state of an optimizer": (
        saved(lambda: {"optimizer": optimizer_state()}),
        {},
        ["no tensor of the file has a name of this network", "optimizer.state.0"],
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_in_one_message(case: str, tmp_path: Path) -> None:
    write, entry, words = REFUSED[case]
    path = write(tmp_path)
    with pytest.raises(UserError) as caught:
        load(path, **entry)
    for word in (str(tmp_path), *words):
        assert word in str(caught.value)


def test_a_file_in_the_working_folder_needs_no_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("best.ckpt", "best.pth.tar", "checkpoint"):
        torch.save({"state_dict": prefixed("model.")}, name)
        assert load(name).origin.weights == f"weights from file {name}"


# --- shapes that differ --------------------------------------------------------------------------


def planned(path: Path, layer: str) -> Plan:
    config = composed(
        f"models=[{{name: net, target: checkpoint_files.Net, weights: '{path}'}}]",
        f"layers={layer}",
        "image_size=8",
        "precision=fp32",
    )
    return make_plan(config, inspect_models(config), [WorkerDevice("cpu")])


def test_a_head_for_other_classes_is_ignored_unless_a_layer_needs_it(tmp_path: Path) -> None:
    torch.save({"state_dict": state_of(1, classes=9)}, tmp_path / "w.ckpt")
    plan = planned(tmp_path / "w.ckpt", "block.1")
    (model,) = plan.models
    assert plan.n_jobs == 4
    assert model.origin.loaded == (
        f"took `state_dict`; {ALL} (nothing in the file fits fc.weight, fc.bias)"
    )
    with pytest.raises(UnusableFile) as caught:
        load_and_check(tmp_path / "w.ckpt", "fc")
    assert "layer 'fc' of model 'net'" in str(caught.value)
    assert "fc.weight is [9, 4] in the file and [5, 4] in the network" in str(caught.value)


def test_the_same_tensors_by_another_prefix_are_no_choice(tmp_path: Path) -> None:
    features = {name: tensor for name, tensor in MINE.items() if name.startswith("block.")}
    torch.save(features, tmp_path / "w.pth")
    assert "fits as well" not in load(tmp_path / "w.pth").origin.loaded


def load_and_check(path: Path, layer: str) -> None:
    network = load(path)
    infos = {i.name: i for i in describe_layers(network.module, network.example((8, 8)))}
    (activation,) = [
        plain_activations(network.module, [infos[layer]], network.example((8, 8)))[layer]
    ]
    check_weights(network, infos[layer], activation)


def test_a_network_that_is_built_as_it_was_trained_takes_the_head(tmp_path: Path) -> None:
    torch.save(state_of(1, classes=9), tmp_path / "w.pth")
    assert load(tmp_path / "w.pth", args={"classes": 9}).missing == ()


def test_tied_tensors_are_there_once(tmp_path: Path) -> None:
    save_file({k: v for k, v in MINE.items() if not k.startswith("fc")}, tmp_path / "w.safetensors")
    network = load(tmp_path / "w.safetensors", target="tests.models.test_checkpoints.tied")
    assert network.missing == ()


def tied() -> nn.Module:
    network = Net()
    network.fc = nn.Linear(4, 4, bias=False)
    network.block[1] = nn.BatchNorm2d(4)
    network.fc.weight = nn.Parameter(network.block[0].weight[:, :, 0, 0])
    return network
