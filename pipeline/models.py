"""Models: from a name in the config to a frozen network in eval mode, with its preprocessing.

Weights come from the libraries' published files, or from a local file (`weights`).
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pipeline.config import ModelConfig
from pipeline.dotted import import_callable
from pipeline.errors import UserError, unknown
from pipeline.jobs import LayerInfo, NetworkIdentity
from pipeline.records import canonical_json
from pipeline.weights import is_weights_file, load_state, read_weights, weights_digest

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Number formats of the ascent, by their names in a recipe."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# What torchvision's builders set when they load published weights, and weights alone do not say.
_PUBLISHED_ARGS: dict[str, dict[str, Any]] = {
    "googlenet": {"transform_input": True, "aux_logits": True, "init_weights": False},
    "inception_v3": {"transform_input": True, "aux_logits": True, "init_weights": False},
}


@dataclass(frozen=True)
class Network:
    """A network ready to be looked into."""

    label: str
    source: str
    module: nn.Module
    """In eval mode, frozen, on the CPU, fp32."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_size: int
    weights_sha256: str
    missing: tuple[str, ...]
    """Tensors that the weights file lacks; they hold NaN."""
    categories: tuple[str, ...] = ()
    """Names of the classes that its output tells apart, if they are known."""

    @property
    def identity(self) -> NetworkIdentity:
        """What of the network decides pixels."""
        return NetworkIdentity(self.source, self.weights_sha256, self.mean, self.std)

    def example(self, size: tuple[int, int]) -> Tensor:
        """Normalised noise (1, C, *size), the same every time."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(1, len(self.mean), *size, generator=generator)


@dataclass(frozen=True)
class _Blueprint:
    """A network without weights, and where its published weights would come from."""

    source: str
    build: Callable[[], nn.Module]
    published: Callable[[], Mapping[str, Tensor]] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_size: int
    cached: Callable[[], Path] | None = None
    """Where a download of the published weights is kept."""


def load_network(config: ModelConfig) -> Network:
    """Build the network that a model entry describes and load its weights.

    Raises:
        UserError: unknown model or weights, unreadable or foreign weights file, no network access.
    """
    weights = config.weights or "default"
    blueprint = _blueprint(config, weights)
    module = build_module(blueprint.build, "target", config.target)
    missing: tuple[str, ...] = ()
    if weights == "default" and blueprint.published is None and config.target:
        pass  # a callable of the user's own brings its weights along
    elif weights != "none":
        state = _state(blueprint, weights, config)
        missing = load_state(module, state, weights, config.title)
    module = module.eval().requires_grad_(False)
    return Network(
        label=config.title,
        source=blueprint.source,
        module=module,
        mean=config.mean or blueprint.mean,
        std=config.std or blueprint.std,
        input_size=config.input_size or blueprint.input_size,
        weights_sha256=weights_digest(module),
        missing=missing,
    )


def check_weights(network: Network, layer: LayerInfo, activation: Tensor) -> None:
    """Make sure that no missing tensor is needed for a layer.

    Missing tensors hold NaN, and NaN spreads: an activation that depends on one shows it.

    Raises:
        UserError: names the missing tensors that lie on the way to the layer.
    """
    if not network.missing or not torch.isnan(activation).any():
        return
    shown = ", ".join(network.missing[:5]) + (", ..." if len(network.missing) > 5 else "")
    raise UserError(
        f"layer {layer.name!r} of model {network.label!r} needs tensors that its weights file lacks"
        f" (missing: {shown}). Choose layers that lie before them, or give a complete file."
    )


# --- architectures -------------------------------------------------------------------------------


def _blueprint(config: ModelConfig, weights: str) -> _Blueprint:
    if config.target:
        return _from_target(config, config.target)
    if config.name == "demo":
        return _demo()
    return _from_torchvision(config.name, weights)


def _demo() -> _Blueprint:
    from pipeline import demo

    return _Blueprint(
        source="demo",
        build=demo.DemoNet,
        published=lambda: demo.demo_network().state_dict(),
        mean=demo.MEAN,
        std=demo.STD,
        input_size=demo.INPUT_SIZE,
    )


def _from_torchvision(name: str, weights: str) -> _Blueprint:
    import torchvision.models as zoo

    names = zoo.list_models(module=zoo)
    if name not in names:
        remedy = "A network of your own: models=[{name: mine, target: package.module.build}]."
        raise unknown("model", name, ["demo", *names], remedy)
    enum = zoo.get_model_weights(name)
    entry = _weights_entry(enum, weights)
    preset = entry.transforms()
    args = {} if weights == "none" else _PUBLISHED_ARGS.get(name, {})
    return _Blueprint(
        source=f"torchvision/{name}",
        build=lambda: zoo.get_model(name, weights=None, **args),
        published=lambda: entry.get_state_dict(progress=False, check_hash=True, weights_only=True),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        input_size=int(preset.crop_size[0]),
        cached=lambda: Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name,
    )


def _weights_entry(enum: Any, weights: str) -> Any:
    """The member of a torchvision weights enum; its default stands for `none` and for files."""
    if weights in ("default", "none") or is_weights_file(weights):
        return enum.DEFAULT
    if weights not in enum.__members__:
        choices = ["default", "none", *enum.__members__]
        remedy = "Or the path of a .safetensors, .pth or .pt file."
        raise unknown(f"weights of {enum.__name__}:", weights, choices, remedy)
    return enum[weights]


def _from_target(config: ModelConfig, target: str) -> _Blueprint:
    function = import_callable(target, "target", "that returns the network")
    return _Blueprint(
        source=target + (f"({canonical_json(config.args)})" if config.args else ""),
        build=lambda: function(**(config.args or {})),
        published=None,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        input_size=224,
    )


def build_module(
    build: Callable[[], nn.Module], setting: str = "", target: str | None = None
) -> nn.Module:
    """Build a network; random weights are the same every time.

    Args:
        build: what builds it.
        setting: where the user gave its name, for messages.
        target: that name, if the user gave one.
    Raises:
        UserError: the user's callable fails, or does not return a network that is ready.
    """
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(0)
        try:
            module = build()
        except (Exception, SystemExit) as error:
            if not target:
                raise
            raise UserError(f"{setting} {target!r} failed: {error!r}.") from error
    if not isinstance(module, nn.Module):
        raise UserError(
            f"{setting} {target!r} returned {type(module).__name__}, not a torch.nn.Module."
        )
    if any(is_lazy(tensor) for tensor in (*module.parameters(), *module.buffers())):
        raise UserError(
            f"{setting} {target!r} returned a network with lazy modules, whose shapes are not yet "
            "known; run it once before returning it."
        )
    return module


def _state(blueprint: _Blueprint, weights: str, config: ModelConfig) -> Mapping[str, Tensor]:
    if is_weights_file(weights):
        return read_weights(Path(weights))
    if blueprint.published is None or (blueprint.source == "demo" and weights != "default"):
        raise unknown(
            f"weights of model {config.title!r}:",
            weights,
            ["default", "none"],
            "Or the path of a .safetensors, .pth or .pt file.",
        )
    try:
        return blueprint.published()
    except Exception as error:
        if blueprint.cached is not None and blueprint.cached().is_file():
            raise UserError(
                f"{str(blueprint.cached())!r}, the published weights of {config.name!r}, cannot be "
                "read; delete the file, and it will be downloaded anew."
            ) from error
        raise UserError(
            f"the published weights of {config.name!r} cannot be downloaded ({error}). Fetch them "
            "on a machine with access and name the file: weights=path/to/file.pth; "
            "or weights=none."
        ) from error
