"""Architectures: from a name in the config to a network without weights, and what is known of it.

A name is `demo`, one of torchvision's, one of timm's (`timm/...`), or any label of a callable that
returns the network.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pipeline.dotted import import_callable
from pipeline.errors import UserError, unknown
from pipeline.networks.containment import contained
from pipeline.networks.weights import is_weights_file
from pipeline.settings.config import ModelConfig
from pipeline.settings.records import canonical_json

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

TIMM = "timm/"
"""What the names of timm's networks begin with."""

# What torchvision's builders set when they load published weights, and weights alone do not say.
_PUBLISHED_ARGS: dict[str, dict[str, Any]] = {
    "googlenet": {"transform_input": True, "aux_logits": True, "init_weights": False},
    "inception_v3": {"transform_input": True, "aux_logits": True, "init_weights": False},
}


@dataclass(frozen=True)
class Blueprint:
    """A network without weights, and where its published weights would come from."""

    source: str
    build: Callable[[], nn.Module]
    published: Callable[[], Mapping[str, Tensor]] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_size: int
    categories: tuple[str, ...] = ()
    """Names of the classes of its output, where the library tells them."""
    address: str = ""
    """Where the published weights are fetched from, for people."""
    cached: Callable[[], Path] | None = None
    """Where a download of the published weights is kept."""
    factory: Callable[..., nn.Module] | None = None
    """The user's own callable that builds it."""
    trained: str = ""
    """The published weights in words, for captions."""
    preset: str = "ImageNet default, assumed"
    """Where mean, std and input size come from, in words."""


def find_architecture(config: ModelConfig, weights: str) -> Blueprint:
    """The architecture that a model entry names.

    Args:
        weights: `default`, `none`, a published set or a file: sets differ in their preprocessing.
    Raises:
        UserError: unknown model or weights, or a library that is not installed.
    """
    if config.target:
        return _from_target(config, config.target)
    if config.name == "demo":
        return _demo()
    if config.name.startswith(TIMM):
        return _from_timm(config.name.removeprefix(TIMM))
    return _from_torchvision(config.name, weights)


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
    with contained(seed=0):
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


def _demo() -> Blueprint:
    from pipeline.networks import demo

    return Blueprint(
        source="demo",
        build=demo.DemoNet,
        published=lambda: demo.demo_network().state_dict(),
        mean=demo.MEAN,
        std=demo.STD,
        input_size=demo.INPUT_SIZE,
        categories=demo.CLASSES,
        trained="weights that come with the package",
        preset="as it was trained",
    )


# --- torchvision ---------------------------------------------------------------------------------


def _from_torchvision(name: str, weights: str) -> Blueprint:
    import torchvision.models as zoo

    names = zoo.list_models(module=zoo)
    if name not in names:
        remedy = "timm's are timm/NAME; your own: models=[{name: mine, target: package.build}]."
        raise unknown("model", name, ["demo", *names], remedy)
    enum = zoo.get_model_weights(name)
    entry = _weights_entry(enum, weights)
    preset = entry.transforms()
    args = {} if weights == "none" else _PUBLISHED_ARGS.get(name, {})
    return Blueprint(
        source=f"torchvision/{name}",
        build=lambda: zoo.get_model(name, weights=None, **args),
        published=lambda: entry.get_state_dict(progress=False, check_hash=True, weights_only=True),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        input_size=int(preset.crop_size[0]),
        categories=tuple(entry.meta["categories"]),
        address=entry.url,
        cached=lambda: Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name,
        trained=f"ImageNet weights ({entry.name})",
        preset="torchvision's published preset",
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


# --- timm ----------------------------------------------------------------------------------------


def _from_timm(name: str) -> Blueprint:
    """A network of timm: `resnet18` or, with the tag of a published set, `resnet18.a1_in1k`.

    timm reads its published files itself: many of them are not laid out as its networks are.
    """
    timm = _import_timm()
    architecture, _, tag = name.partition(".")
    if architecture not in timm.list_models():
        raise unknown("model", TIMM + name, [TIMM + known for known in timm.list_models()])
    tags = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in tags:
        raise unknown("model", TIMM + name, [TIMM + known for known in (architecture, *tags)])
    known = timm.get_pretrained_cfg(name).to_dict()
    data = timm.data.resolve_data_config(pretrained_cfg=known)
    repository = known.get("hf_hub_id")
    return Blueprint(
        source=TIMM + ".".join(filter(None, (architecture, known.get("tag")))),
        build=lambda: timm.create_model(name),
        published=(lambda: timm.create_model(name, pretrained=True).state_dict()) if tags else None,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        input_size=int(data["input_size"][1]),
        categories=tuple(_timm_categories(timm, known)),
        address=f"https://huggingface.co/{repository}" if repository else known.get("url") or "",
        trained=f"published weights ({'.'.join(filter(None, (architecture, known.get('tag'))))})",
        preset="timm's published preset",
    )


def _import_timm() -> Any:
    try:
        import timm
        import timm.data
    except ImportError as error:
        raise UserError(
            f"models whose names begin with {TIMM} need timm, which cannot be imported ({error}): "
            "pip install 'layer-atlas[timm]'"
        ) from error
    return timm


def _timm_categories(timm: Any, known: Mapping[str, Any]) -> Sequence[str]:
    """Names of the classes, which timm has for the subsets of ImageNet."""
    if known.get("label_names"):
        return list(known["label_names"])
    subset = timm.data.infer_imagenet_subset(known)
    return timm.data.ImageNetInfo(subset).label_descriptions() if subset else []


# --- callables of the user's own -----------------------------------------------------------------


def _from_target(config: ModelConfig, target: str) -> Blueprint:
    with contained():  # scripts set defaults of torch as they are imported
        function = import_callable(target, "target", "that returns the network")
    return Blueprint(
        source=target + (f"({canonical_json(config.args)})" if config.args else ""),
        build=lambda: function(**(config.args or {})),
        published=None,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        input_size=224,
        factory=function,
    )
