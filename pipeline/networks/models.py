"""Models: from a name in the config to a frozen network in eval mode, with its preprocessing.

Weights come from the libraries' published files, or from a local file (`weights`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.errors import UnusableFile, UserError, unknown
from pipeline.jobs import LayerInfo, NetworkIdentity
from pipeline.networks.architectures import TIMM, Blueprint, build_module, find_architecture
from pipeline.networks.origins import origin_of
from pipeline.networks.weights import is_weights_file, load_state, read_weights, weights_digest
from pipeline.origin import UNKNOWN, Origin
from pipeline.settings.config import ModelConfig
from pipeline.settings.paths import user_file

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Number formats of the ascent, by their names in a recipe."""


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
    """Names of the classes that the network tells apart, in the order of its output; () where they
    are not known."""
    fixed_size: int | None = None
    """Height and width that images are resized to, if it takes no others; the survey finds out."""
    origin: Origin = UNKNOWN
    """Where weights and preprocessing come from; no part of the identity."""

    @property
    def identity(self) -> NetworkIdentity:
        """What of the network decides pixels."""
        told = (self.source, self.weights_sha256, self.mean, self.std, self.fixed_size)
        return NetworkIdentity(*told)

    def seen_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of what the network sees of images of a size."""
        return size if self.fixed_size is None else (self.fixed_size, self.fixed_size)

    def example(self, size: tuple[int, int]) -> Tensor:
        """Normalised noise (1, C, *size), the same every time."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(1, len(self.mean), *size, generator=generator)


def load_network(config: ModelConfig) -> Network:
    """Build the network that a model entry describes and load its weights.

    Raises:
        UserError: unknown model or weights, no such weights file, no network access.
        UnusableFile: the weights file is unreadable, or of another network.
    """
    weights = config.weights or "default"
    blueprint = find_architecture(config, weights)
    mean, std = config.mean or blueprint.mean, config.std or blueprint.std
    if len(mean) != len(std):
        raise UserError(
            f"model {config.title!r} has mean {list(mean)} and std {list(std)}; give both, with a "
            "number for each colour of its images."
        )
    module = build_module(blueprint.build, "target", config.target)
    missing: tuple[str, ...] = ()
    if weights == "default" and config.target:
        pass  # a callable of the user's own brings its weights along
    elif weights != "none":
        state = _state(blueprint, weights, config)
        missing = load_state(module, state, weights, config.title)
    module = module.eval().requires_grad_(False)
    return Network(
        label=config.title,
        source=blueprint.source,
        module=module,
        mean=mean,
        std=std,
        input_size=config.input_size or blueprint.input_size,
        weights_sha256=weights_digest(module),
        missing=missing,
        categories=_categories(config.categories) or blueprint.categories,
        origin=origin_of(config, blueprint, weights),
    )


def check_weights(network: Network, layer: LayerInfo, activation: Tensor) -> None:
    """Make sure that no missing tensor is needed for a layer.

    Missing tensors hold NaN, and NaN spreads: an activation that depends on one shows it.

    Raises:
        UnusableFile: names the missing tensors that lie on the way to the layer.
    """
    if not network.missing or not torch.isnan(activation).any():
        return
    shown = ", ".join(network.missing[:5]) + (", ..." if len(network.missing) > 5 else "")
    raise UnusableFile(
        f"layer {layer.name!r} of model {network.label!r} needs tensors that its weights file lacks"
        f" or has no numbers for (missing: {shown}). Choose layers that lie before them, or give a "
        "complete file."
    )


def _categories(path: str | None) -> tuple[str, ...]:
    """The lines of a text file."""
    if path is None:
        return ()
    try:
        lines = user_file(path, "categories").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(
            f"categories {path!r} cannot be read ({error}). Give a text file with the name of one "
            "class per line, in the order of the network's output."
        ) from error
    if not any(line.strip() for line in lines):
        raise UserError(f"categories {path!r} names no class; give one per line.")
    return tuple(line.strip() for line in lines)


def _state(blueprint: Blueprint, weights: str, config: ModelConfig) -> Mapping[str, Tensor]:
    if is_weights_file(weights):
        return read_weights(user_file(weights, "weights file"))
    _check_published(blueprint, weights, config)
    assert blueprint.published is not None
    try:
        return blueprint.published()
    except Exception as error:
        if blueprint.cached is not None and blueprint.cached().is_file():
            raise UnusableFile(
                f"{str(blueprint.cached())!r}, the published weights of {config.name!r}, cannot be "
                "read; delete the file, and it will be downloaded anew."
            ) from error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"the published weights of {config.name!r} cannot be downloaded ({reason}). Fetch them "
            f"on a machine with access ({blueprint.address}) and name the file: "
            "weights=path/to/file.pth; or weights=none."
        ) from error


def _check_published(blueprint: Blueprint, weights: str, config: ModelConfig) -> None:
    """Make sure that there is such a published set; raises UserError."""
    known = ["default", "none"] if blueprint.published or config.target else ["none"]
    if weights in known or (blueprint.published and blueprint.source.startswith("torchvision/")):
        return
    remedy = "Or the path of a .safetensors, .pth or .pt file."
    if blueprint.source.startswith(TIMM) and blueprint.published:
        remedy += " Sets of timm are part of the name: timm/resnet18.a1_in1k."
    raise unknown(f"weights of model {config.title!r}:", weights, known, remedy)
