"""The public API: `visualize` a module in memory, `run` a sweep from Python.

Both do what `atlas run` does, by the same plan, the same engine and the same files. A module in
memory is optimized in this process; what the caller's torch is set to is set aside meanwhile.
"""

import contextlib
import dataclasses
import logging
import os
import shutil
import signal
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from layer_atlas.atlas.reader import read_atlas
from layer_atlas.config.compose import compose
from layer_atlas.config.config import Config
from layer_atlas.config.executors import InProcessSettings, LocalSettings
from layer_atlas.config.records import plain
from layer_atlas.errors import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_PREEMPTED,
    StorageError,
    UserError,
)
from layer_atlas.logs import program_logging
from layer_atlas.models.architectures import MEMORY, in_memory
from layer_atlas.models.containment import contained
from layer_atlas.presentation.collate import make_atlas, write_atlas_alone
from layer_atlas.presentation.notebook import Atlas, open_atlas
from layer_atlas.store.files import write_json
from layer_atlas.store.folder import OutputFolder, output_folder
from layer_atlas.store.lock import locked
from layer_atlas.store.manifest import read_manifest
from layer_atlas.store.quarantine import read_failures
from layer_atlas.sweep import run as sweep

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


def _public(function: Callable[P, T]) -> Callable[P, T]:
    """Have a mistake of the caller's end in one message at the end of a short traceback."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except (UserError, StorageError) as error:
            mistake = error
        raise mistake.with_traceback(None) from None

    return call


# --- modules in memory ---------------------------------------------------------------------------


class Visualization(Atlas):
    """The images that `visualize` made: an atlas in a temporary folder of its own.

    The folder is removed with this object; `save` keeps it.
    """

    folder: OutputFolder

    @_public
    def save(self, folder: str | Path) -> Path:
        """Keep the atlas, with montages and a site to browse it, as `atlas run` leaves them.

        Args:
            folder: the output folder to make; `atlas figure`, `collate` and others take it.
        Returns: the folder.
        Raises:
            UserError: it exists already, or cannot be an output folder.
            StorageError: the disk is full or fails.
        """
        path = Path(folder).expanduser()
        target = output_folder(str(path.parent), path.name)
        if target.root.exists():
            raise UserError(f"{str(path)!r} exists already; choose another folder.")
        with _on_disk():
            shutil.copytree(self.folder.root, target.root)
            manifest = read_manifest(target)
            manifest["config"] |= {"output_root": str(path.parent), "name": path.name}
            write_json(target.manifest, manifest)
            with locked(target):
                make_atlas(target, compose({}).collate)
        return target.root


@contextlib.contextmanager
def _on_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"the atlas cannot be saved: {error}.") from error


@_public
def visualize(
    model: nn.Module,
    layers: str | Sequence[str] | None = None,
    channels: Any = "all",
    *,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    input_size: int | None = None,
    inputs: Mapping[str, Any] | None = None,
    name: str | None = None,
    categories: str | None = None,
    device: str = "auto",
    progress: bool = True,
    **settings: Any,
) -> Visualization:
    """Optimize images for channels of a network in memory.

    The module is copied, and stays as it is: its mode, gradients, hooks, buffers and device.

    Args:
        model: takes images (B, C, H, W).
        layers: names of `model.named_modules()`, or globs: `"layer4"`, `"layer3.*@Conv2d"`.
        channels: `"all"`, a number, a list, a range, or `{"random": 32}`.
        mean: of the training images for each colour, for images in [0, 1]; default: that of the
            module's `pretrained_cfg` (timm), or ImageNet's, as a line says.
        std: standard deviation of the same.
        input_size: height and width that the network was trained for; the default of `image_size`.
        inputs: fixed values for further arguments of its forward pass, by their names; arrays and
            tensors too. `"images"` stands for the images: `{"batch": {"image": "images"}}`.
        name: label of the model; default: the name of its class.
        categories: text file with the names of the classes, one per line.
        device: `"auto"` for the first GPU, or the CPU where there is none; `"cpu"`, `"cuda:1"`.
        progress: whether to print what is being done, and a bar.
        settings: of the config, by their names: `image_size=96`, `quality="draft"`, `seeds=[0, 1]`,
            `objective={"name": "neuron", "position": [3, 3]}`, `**{"optimizer.steps": 96}`.
    Returns: the images with their statistics. In a notebook they show as a contact sheet.
    Raises:
        UserError: a mistake in the arguments, with the nearest valid names.
        RuntimeError: the network failed while the images were made.
        KeyboardInterrupt: on Ctrl-C.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"visualize takes a torch.nn.Module, not {type(model).__name__}.")
    if layers is None and not {"objective", "experiment"} & settings.keys():
        parts = [part for part, _ in model.named_modules() if part.count(".") < 2 and part]
        raise UserError(f"layers must name the layers to visualize; there are: {_some(parts)}.")
    _refuse(settings, "models", "the first argument", "model")
    _refuse(settings, "executor", "device", "device")
    entry: dict[str, Any] = {
        "target": model,
        "label": name,
        "mean": mean,
        "std": std,
        "input_size": input_size,
    }
    entry |= {"inputs": inputs, "categories": categories}
    folder = tempfile.mkdtemp(prefix="layer-atlas-")
    given = {
        **settings,
        **({} if layers is None else {"layers": layers}),
        "channels": channels,
        "models": [{key: value for key, value in entry.items() if value is not None}],
        # One attempt: what fails here fails again, and the caller waits.
        "executor": {"name": "in_process", "device": device, "attempts": 1},
        "name": "atlas",
        "output_root": folder,
    }
    try:
        result = _run(*_composed(given), progress, write_atlas_alone)
        _check_outcome(result)
        made = read_atlas(result.folder.root, Visualization)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    made.folder = result.folder
    weakref.finalize(made, shutil.rmtree, folder, ignore_errors=True)
    return made


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")


def _refuse(settings: Mapping[str, Any], key: str, instead: str, what: str) -> None:
    for given in settings:
        if given.partition(".")[0] == key:
            raise UserError(f"visualize takes no {given!r}: {instead} is the {what}.")


def _check_outcome(result: sweep.RunResult) -> None:
    """Raise what ended a run before its images were made."""
    if result.exit_code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    if result.exit_code == EXIT_PREEMPTED:
        signal.raise_signal(signal.SIGTERM)  # for the program's own handler
        raise KeyboardInterrupt
    if result.exit_code != EXIT_OK:
        failure = next(iter(read_failures(result.folder)), None)
        reason = failure.said if failure else f"exit code {result.exit_code}"
        raise RuntimeError(f"the images could not be made:\n{reason}")


# --- sweeps --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that has ended."""

    folder: Path
    """The output folder."""
    exit_code: int
    """As `atlas run` exits: 0 all done, 1 some jobs failed, 130 interrupted."""
    is_collated: bool
    """Whether the atlas is up to date; it is not while detached workers continue."""

    @property
    def atlas(self) -> Atlas:
        """The atlas, open for reading. Raises UserError if there is none yet."""
        return open_atlas(self.folder)


@_public
def run(
    config: Mapping[str, Any] | str | os.PathLike[str] | Config,
    *,
    progress: bool = True,
    **settings: Any,
) -> Run:
    """Run a sweep, as `atlas run` does; running it again resumes.

    Args:
        config: settings as a YAML file has them, such a file, or a checked config. A model's
            `target` may be an `nn.Module`, which is optimized in this process; so may a model.
        progress: whether to print what is being done, and a bar.
        settings: further settings, which override those of the config.
    Returns: where the atlas is, and how the run ended.
    Raises:
        UserError: a mistake in the config or the input, or another run at work in the folder.
        StorageError: the disk is full or fails.
    """
    if isinstance(config, Config):
        composed, modules = dataclasses.replace(config, **settings), dict[str, nn.Module]()
    elif isinstance(config, Mapping):
        composed, modules = _composed({**config, **settings})
    else:
        composed, modules = _composed(settings, Path(config).expanduser())
    result = _run(composed, modules, progress, make_atlas)
    return Run(result.folder.root, result.exit_code, result.is_collated)


def _run(
    config: Config, modules: dict[str, nn.Module], progress: bool, collate: sweep.Collate
) -> sweep.RunResult:
    """Run a sweep in a process that belongs to somebody else."""
    shown = program_logging() if progress else contextlib.nullcontext()
    with shown, _torch_set_aside(), in_memory(modules):
        # A first line at once: whoever waits at a notebook sees that it has begun.
        logger.info("checking: %s", ", ".join(model.title for model in config.models))
        return sweep.run(config, collate)


@contextlib.contextmanager
def _torch_set_aside() -> Iterator[None]:
    """Set torch as a new process has it, and as it was at the end.

    A program may train: under autocast or `no_grad`, with compiled networks, in other dtypes.
    """
    fastpath = torch.backends.mha.get_fastpath_enabled()
    with contextlib.ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fastpath)
        stack.enter_context(contained())
        stack.enter_context(_run_as_written())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
            stack.enter_context(torch.autocast(kind, enabled=False))
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
        if torch.are_deterministic_algorithms_enabled():  # the setter imports the compiler
            torch.use_deterministic_algorithms(False)
        yield


@contextlib.contextmanager
def _run_as_written() -> Iterator[None]:
    """Run compiled networks as plain Python, whose hooks fire; restores the compiler on exit."""
    if "torch._dynamo" in sys.modules:
        with torch.compiler.set_stance("force_eager"):
            yield
        return
    # Importing the compiler takes as long as torch itself, and leaves a temporary folder behind.
    try:
        yield
    finally:
        # The network's own code may have imported it, and loading has set it aside since.
        if "torch._dynamo" in sys.modules:
            torch.compiler.set_stance("default")


# --- settings ------------------------------------------------------------------------------------


def _composed(
    settings: Mapping[str, Any], file: Path | None = None
) -> tuple[Config, dict[str, nn.Module]]:
    """Compose the config of settings; returns it, and the modules in memory by their addresses.

    Raises:
        UserError: a mistake in the settings, or a module in memory for workers on other machines.
    """
    modules: dict[str, nn.Module] = {}
    values = {key: _plain(value, str(key)) for key, value in settings.items() if key != "models"}
    if "models" in settings:
        models = settings["models"]
        entries = models if isinstance(models, list | tuple) else [models]
        values["models"] = [_model_entry(entry, modules) for entry in entries]
    if isinstance(values.get("channels"), int):
        values["channels"] = [values["channels"]]
    config = compose(values, file)
    if not modules or isinstance(config.executor, InProcessSettings):
        return config, modules
    if not isinstance(config.executor, LocalSettings):
        raise UserError(
            f"executor={config.executor.name} starts processes, which cannot have a module in "
            "memory; take executor=local, or name a callable that returns the module as target."
        )
    devices = config.executor.devices
    device = devices if isinstance(devices, str) else devices[0]
    patience = {
        field.name: getattr(config.executor, field.name)
        for field in dataclasses.fields(config.executor)
        if field.name not in ("name", "devices")
    }
    return dataclasses.replace(
        config, executor=InProcessSettings(device=device, **patience)
    ), modules


def _model_entry(entry: Any, modules: dict[str, nn.Module]) -> Any:
    """Write the entry of a model as plain data; a module in it is replaced by its address."""
    entry = {"target": entry} if isinstance(entry, nn.Module) else entry
    if not isinstance(entry, Mapping):
        return _plain(entry, "models[]")
    module = entry.get("target")
    if not isinstance(module, nn.Module):
        return {key: _plain(value, f"models[].{key}") for key, value in entry.items()}
    if entry.get("args"):
        raise UserError("args are for a callable; a module in memory as target takes none.")
    name = entry.get("name") or entry.get("label") or type(module).__name__
    address = f"{MEMORY}{name}"
    if address in modules:
        raise UserError(f"two modules in memory are called {name!r}; give each its own name.")
    modules[address] = module
    return {"name": name, **_model_entry({**entry, "target": address}, {})}


def _plain(value: Any, key: str) -> Any:
    """Turn what a program has at hand into plain data: ranges, arrays, paths, records."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(k): _plain(item, f"{key}.{k}") for k, item in value.items()}
    if isinstance(value, range) and key.endswith("channels") and value.step > 0 and value:
        return plain(value)
    if isinstance(value, list | tuple | set | frozenset | range):
        return [_plain(item, key) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(value)
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise UserError(
        f"{key} must be plain data, not {type(value).__name__}; functions and classes are given by "
        "their dotted names."
    )
