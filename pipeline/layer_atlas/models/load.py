"""Models: from a name in the config to a frozen network in eval mode, with its preprocessing.

Weights come from the libraries' published files, or from a local file (`weights`).
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from layer_atlas.config.config import ModelConfig
from layer_atlas.config.paths import user_file
from layer_atlas.errors import UnusableFile, UserError, unknown
from layer_atlas.models.architectures import TIMM, Blueprint, build_module, find_architecture
from layer_atlas.models.code import code_digest
from layer_atlas.models.containment import tensors_of
from layer_atlas.models.conversion import check_kind, frozen, in_fp32, run_as_written, share_memory
from layer_atlas.models.weights import is_weights_file, load_state, read_weights, weights_digest
from layer_atlas.plan.jobs import LayerInfo, NetworkIdentity
from layer_atlas.plan.origin import AS_CONSTRUCTED, UNKNOWN, UNTRAINED, Origin

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Number formats of the ascent, by their names in a recipe."""


@dataclass(frozen=True)
class Network:
    """A network ready to be looked into."""

    label: str
    source: str
    module: nn.Module
    """In eval mode, frozen, on the CPU, in fp32. It is never traced or converted further: all that
    is faster is compared with it."""
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
    code: str = ""
    """Digest of the code that it consists of."""
    stored_as: str = ""
    """The number format of its weights where that is not fp32, in which it is run all the same."""
    build: Callable[[], nn.Module] | None = field(default=None, compare=False, repr=False)
    """Builds it anew; without, it is copied."""

    def fresh(self) -> nn.Module:
        """Another instance with the same weights, in eval mode, frozen, on the CPU.

        Built anew rather than copied: what a module keeps in its attributes may not be copied, and
        should not be.

        Raises:
            UserError: it can be neither built a second time nor copied.
        """
        module = self.build() if self.build else self.module
        if module is self.module or share_memory(module, self.module):
            module = _copied(self)
        with torch.no_grad():
            for own, other in zip(tensors_of(module), tensors_of(self.module), strict=True):
                own.copy_(other)
        return module

    origin: Origin = UNKNOWN
    """Where weights and preprocessing come from; no part of the identity."""

    @property
    def identity(self) -> NetworkIdentity:
        """What of the network decides pixels."""
        decisive = (self.source, self.weights_sha256, self.mean, self.std, self.fixed_size)
        return NetworkIdentity(*decisive, code=self.code)

    def seen_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of what the network sees of images of a size."""
        return size if self.fixed_size is None else (self.fixed_size, self.fixed_size)

    def example(self, size: tuple[int, int]) -> Tensor:
        """Normalised noise (1, C, *size), the same every time."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(1, len(self.mean), *size, generator=generator)

    def probes(self, size: tuple[int, int]) -> Tensor:
        """Images (4, C, *size) in [0, 1] for checks, the same every time.

        Noise, in dark, bright and full range, and a ramp: what depends on brightness, or on the
        other images of a batch, shows.
        """
        generator = torch.Generator().manual_seed(1)
        noise = torch.rand(3, len(self.mean), *size, generator=generator)
        ramp = torch.linspace(0, 1, size[1]).expand(1, len(self.mean), *size)
        return torch.cat([noise[:1], 0.3 * noise[1:2], 0.7 + 0.3 * noise[2:], ramp])

    def normalise(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] as the network was trained with."""
        mean, std = (torch.tensor(v).view(1, -1, 1, 1).to(images) for v in (self.mean, self.std))
        return (images - mean) / std


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
    brings_weights = weights == "default" and config.target is not None
    state = None if weights == "none" or brings_weights else _state(blueprint, weights, config)
    missing: tuple[str, ...] = ()

    def build() -> nn.Module:
        nonlocal missing
        module = build_module(blueprint.build, "target", config.target)
        check_kind(module, config.title)
        run_as_written()
        if state is not None:
            missing = load_state(module, state, weights, config.title)
        return frozen(module, config.title)

    module = build()
    formats = {tensor.dtype for tensor in tensors_of(module) if tensor.is_floating_point()}
    return Network(
        label=config.title,
        source=blueprint.source,
        weights_sha256=weights_digest(module),
        code=code_digest(module, blueprint.factory),
        stored_as=", ".join(
            sorted(str(f).removeprefix("torch.") for f in formats - {torch.float32})
        ),
        module=in_fp32(module),
        mean=mean,
        std=std,
        input_size=config.input_size or blueprint.input_size,
        missing=missing,
        categories=_categories(config.categories) or blueprint.categories,
        build=lambda: in_fp32(build()),
        origin=origin_of(config, blueprint, weights),
    )


def _copied(network: Network) -> nn.Module:
    try:
        return copy.deepcopy(network.module)
    except Exception as error:
        raise UserError(
            f"target of model {network.label!r} returns the same network every time, and it cannot "
            f"be copied ({type(error).__name__}); build a new one at each call."
        ) from error


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


_GIVEN = "given in the config"


def origin_of(config: ModelConfig, blueprint: Blueprint, weights: str) -> Origin:
    """Name the sources of a network's weights, mean, standard deviation and input size.

    Args:
        config: the model's entry.
        blueprint: what its architecture is known by.
        weights: `default`, `none`, a published set or a file.
    """
    # The preset belongs to the published weights; with others it is a guess.
    fits = config.target or (weights not in ("none",) and not is_weights_file(weights))
    preset = blueprint.preset if fits else f"{blueprint.preset}, assumed"
    return Origin(
        weights=_weights_words(config, blueprint, weights),
        mean=_GIVEN if config.mean else preset,
        std=_GIVEN if config.std else preset,
        input_size=_GIVEN if config.input_size else preset,
    )


def _weights_words(config: ModelConfig, blueprint: Blueprint, weights: str) -> str:
    if is_weights_file(weights):
        return f"weights from file {Path(weights).name}"
    if config.target:
        # `none` loads nothing, but the callable may have loaded weights itself.
        return AS_CONSTRUCTED
    return UNTRAINED if weights == "none" else blueprint.trained
