"""Model loading: a name in the config to a frozen network in eval mode, with its preprocessing.

Weights come from the libraries' published files, or from a local file (`weights`). What user code
built is converted so that it can be hooked and run, or rejected.
"""

import copy
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from layer_atlas.config.config import ModelConfig
from layer_atlas.config.inputs import WEIGHTS_PARTS, WEIGHTS_SUFFIXES, user_file, user_path
from layer_atlas.errors import UnusableFile, UserError, first_of, reason, unknown
from layer_atlas.models.architectures import (
    MEMORY,
    TIMM,
    Blueprint,
    build_module,
    find_architecture,
    show_attention,
)
from layer_atlas.models.checkpoints import Checkpoint, in_memory
from layer_atlas.models.containment import tensors_of
from layer_atlas.models.digests import code_digest
from layer_atlas.models.inputs import (
    GIVEN,
    Preprocessing,
    feed,
    fixed_inputs,
    inputs_of,
    resolve_preprocessing,
)
from layer_atlas.models.weights import (
    Loaded,
    is_weights_file,
    load_state,
    read_weights,
    weights_digest,
)
from layer_atlas.plan.jobs import (
    AS_CONSTRUCTED,
    UNKNOWN,
    UNTRAINED,
    LayerInfo,
    NetworkIdentity,
    Origin,
)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Number formats of the optimization, by their names in a recipe."""


@dataclass(frozen=True)
class Network:
    """A loaded network, ready for hooks."""

    label: str
    source: str
    module: nn.Module
    """The module in eval mode, frozen, on the CPU, in fp32.

    It is never traced or converted: every faster path is compared with it.
    """
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_size: int
    weights_sha256: str
    missing: tuple[str, ...]
    """Names of tensors that the weights file lacks or has in another shape; they hold NaN."""
    categories: tuple[str, ...] = ()
    """Class names in the order of the network's output; () where they are not known."""
    fixed_size: int | None = None
    """Height and width in pixels of the network's input, if it accepts no other size.

    Images are resized to it. Introspection determines it.
    """
    code: str = ""
    """Digest of the network's source code."""
    is_in_memory: bool = field(default=True, compare=False)
    """Whether a program made it, so that it may hold what no digest shows."""
    stored_as: str = ""
    """Number format of its weights if that is not fp32; the network runs in fp32 anyway."""
    build: Callable[[], nn.Module] | None = field(default=None, compare=False, repr=False)
    """Builds a new instance; without it, the network is copied."""

    def fresh(self) -> nn.Module:
        """Return another instance with the same weights, in eval mode, frozen, on the CPU.

        It is built anew rather than copied: attributes of a module may not be copyable, and their
        state should not be shared.

        Raises:
            UserError: it can be neither built a second time nor copied.
        """
        module = self.build() if self.build else self.module
        # A factory with a cache returns the same tensors every time; converting them would change
        # ours.
        if module is self.module or share_memory(module, self.module):
            module = _copied(self)
        with torch.no_grad():
            # In place: random initialisation and non-persistent buffers of the new instance are
            # overwritten too.
            for own, other in zip(tensors_of(module), tensors_of(self.module), strict=True):
                own.copy_(other)
        return module

    origin: Origin = UNKNOWN
    """Sources of weights and preprocessing, for captions; not part of the identity."""

    @property
    def identity(self) -> NetworkIdentity:
        """The properties of the network that determine pixels."""
        decisive = (self.source, self.weights_sha256, self.mean, self.std, self.fixed_size)
        inputs = inputs_of(self.module)
        return NetworkIdentity(*decisive, self.code, inputs.digest if inputs else "")

    def seen_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the height and width of the network's input for images of a size."""
        return size if self.fixed_size is None else (self.fixed_size, self.fixed_size)

    def example(self, size: tuple[int, int]) -> Tensor:
        """Normalised noise (1, C, *size), the same every time."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(1, len(self.mean), *size, generator=generator)

    def probes(self, size: tuple[int, int]) -> Tensor:
        """Images (4, C, *size) in [0, 1] for checks, the same every time.

        They are noise in full, dark and bright range, and a ramp, so that a dependence on
        brightness or on other images of a batch becomes visible.
        """
        generator = torch.Generator().manual_seed(1)
        noise = torch.rand(3, len(self.mean), *size, generator=generator)
        ramp = torch.linspace(0, 1, size[1]).expand(1, len(self.mean), *size)
        return torch.cat([noise[:1], 0.3 * noise[1:2], 0.7 + 0.3 * noise[2:], ramp])

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise images (B, C, H, W) in [0, 1] by the mean and std of the network's training."""
        mean, std = (torch.tensor(v).view(1, -1, 1, 1).to(images) for v in (self.mean, self.std))
        return (images - mean) / std


def load_network(config: ModelConfig) -> Network:
    """Build the network that a model entry describes and load its weights.

    Raises:
        UserError: unknown model or weights, no such weights file, no network access.
        UnusableFile: the weights file is unreadable, or belongs to another network.
    """
    weights = config.weights or "default"
    blueprint = find_architecture(config, weights)

    def build() -> nn.Module:
        module = build_module(blueprint.build, blueprint.setting, blueprint.given)
        check_kind(module, config.title)
        show_attention(module)
        # After the build, which may compile the network.
        run_as_written()
        return module

    module = build()
    inputs = fixed_inputs(config.inputs, module, config.title)
    feed(module, inputs)
    # A user's callable has no published set: by default it loads its weights itself.
    brings_weights = weights == "default" and config.target is not None
    loaded = Loaded((), "")
    if weights != "none" and not brings_weights:
        state = _state(blueprint, weights, config)
        key, prefix = config.weights_key, config.weights_prefix
        loaded = load_state(module, state, config.title, key, prefix)
    frozen(module, config.title)

    def rebuild() -> nn.Module:
        again = build()
        feed(again, inputs)
        if loaded.summary:
            # Not from the file, which may be large, and another by now.
            own = {k: v for k, v in module.state_dict().items() if isinstance(v, Tensor)}
            again.load_state_dict(own, strict=False)
        return in_fp32(frozen(again, config.title))

    default, preset = _default_preprocessing(config, blueprint, weights)
    found = resolve_preprocessing(config, default, preset, module)
    # Read before `in_fp32` below converts the module in place.
    formats = {tensor.dtype for tensor in tensors_of(module) if tensor.is_floating_point()}
    return Network(
        label=config.title,
        source=blueprint.source,
        weights_sha256=weights_digest(module),
        code=code_digest(module, blueprint.factory),
        is_in_memory=(config.target or "").startswith(MEMORY),
        stored_as=", ".join(
            sorted(str(f).removeprefix("torch.") for f in formats - {torch.float32})
        ),
        module=in_fp32(module),
        mean=found.mean,
        std=found.std,
        input_size=found.input_size,
        missing=loaded.missing,
        categories=_categories(config.categories) or blueprint.categories,
        build=rebuild,
        origin=replace(
            origin_of(config, blueprint, weights),
            **{name: found.sources[name] for name in ("mean", "std", "input_size")},
            # What a library published fits by itself.
            loaded=loaded.summary if is_weights_file(weights) or loaded.missing else "",
            interpolation=found.interpolation,
        ),
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
    """Check that a layer does not depend on missing tensors.

    Missing tensors hold NaN, which propagates to every activation that depends on them.

    Raises:
        UnusableFile: names the missing tensors before the layer.
    """
    if not network.missing or not torch.isnan(activation).any():
        return
    raise UnusableFile(
        f"layer {layer.name!r} of model {network.label!r} needs tensors that its weights file lacks"
        f" or has in another shape (missing: {first_of(network.missing)}). Choose layers that lie "
        "before them, build the network as it was trained (args), or give a complete file."
    )


def _categories(path: str | None) -> tuple[str, ...]:
    """Read class names from a text file, one per line."""
    if path is None:
        return ()
    try:
        # ValueError includes text that is not UTF-8.
        lines = user_file(path, "categories").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(
            f"categories {path!r} cannot be read ({error}). Give a text file with the name of one "
            "class per line, in the order of the network's output."
        ) from error
    if not any(line.strip() for line in lines):
        raise UserError(f"categories {path!r} names no class; give one per line.")
    return tuple(line.strip() for line in lines)


def _state(blueprint: Blueprint, weights: str, config: ModelConfig) -> Checkpoint:
    if is_weights_file(weights):
        return read_weights(_weights_path(weights))
    _check_published(blueprint, weights, config)
    assert blueprint.published is not None
    try:
        return in_memory(blueprint.published(), f"{weights} of {config.name}")
    except Exception as error:
        if blueprint.cached is not None and blueprint.cached().is_file():
            raise UnusableFile(
                f"{str(blueprint.cached())!r}, the published weights of {config.name!r}, cannot be "
                "read; delete the file, and it will be downloaded again."
            ) from error
        raise UserError(
            f"the published weights of {config.name!r} cannot be downloaded ({reason(error)}). "
            f"Fetch them on a machine with access ({blueprint.address}) and name the file: "
            "weights=path/to/file.pth; or weights=none."
        ) from error


def _weights_path(weights: str) -> Path:
    """Return the path of a weights file, or of the weights in a folder; raises UserError."""
    folder = user_path(weights, "weights file")
    if not folder.is_dir():
        return user_file(weights, "weights file")
    parts = [folder / name for name in WEIGHTS_PARTS if (folder / name).is_file()]
    if parts:
        return parts[0]
    if (folder / ".metadata").is_file():
        raise UserError(
            f"weights file {weights!r} is a distributed checkpoint. Make one file of it: python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {weights} weights.pth"
        )
    names = sorted(path.name for path in folder.iterdir() if path.suffix in WEIGHTS_SUFFIXES)
    inside = f"; it has {', '.join(names[:8])}" if names else ""
    raise UserError(f"weights file {weights!r} is a folder{inside}; name a file in it.")


def _check_published(blueprint: Blueprint, weights: str, config: ModelConfig) -> None:
    """Check that such a published set exists; raise UserError otherwise."""
    known = ["default", "none"] if blueprint.published or config.target else ["none"]
    if weights in known or (blueprint.published and blueprint.source.startswith("torchvision/")):
        return
    remedy = "Or the path of a file: .safetensors, .pth, .pt, .ckpt, .bin, .pkl."
    if blueprint.source.startswith(TIMM) and blueprint.published:
        remedy += " Sets of timm are part of the name: timm/resnet18.a1_in1k."
    raise unknown(f"weights of model {config.title!r}:", weights, known, remedy)


def _default_preprocessing(
    config: ModelConfig, blueprint: Blueprint, weights: str
) -> tuple[Preprocessing, str]:
    """Return the preprocessing that the library of a network has for it, and its source."""
    # The preset belongs to the published weights; for other weights it is an assumption.
    fits = config.target or (weights not in ("none",) and not is_weights_file(weights))
    preset = blueprint.preset if fits else f"{blueprint.preset}, assumed"
    values = (blueprint.mean, blueprint.std, blueprint.input_size, blueprint.interpolation)
    return Preprocessing(*values), preset


def origin_of(config: ModelConfig, blueprint: Blueprint, weights: str) -> Origin:
    """Describe the sources of a network's weights, mean, standard deviation and input size.

    Args:
        config: the model entry.
        blueprint: the resolved architecture.
        weights: `default`, `none`, a published set or a file.
    """
    _, preset = _default_preprocessing(config, blueprint, weights)
    return Origin(
        weights=_weights_description(config, blueprint, weights),
        mean=GIVEN if config.mean else preset,
        std=GIVEN if config.std else preset,
        input_size=GIVEN if config.input_size else preset,
    )


def _weights_description(config: ModelConfig, blueprint: Blueprint, weights: str) -> str:
    if is_weights_file(weights):
        return f"weights from file {Path(weights).name}"
    if config.target:
        # `none` loads nothing, but the callable may have loaded weights itself.
        return blueprint.trained or AS_CONSTRUCTED
    return UNTRAINED if weights == "none" else blueprint.trained


_QUANTIZED = re.compile("quantized|FakeQuantize")

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def converted(
    network: nn.Module, device: torch.device, dtype: torch.dtype, channels_last: bool
) -> nn.Module:
    """Convert a network in place and return it.

    Floating-point tensors become `dtype`. Complex ones become complex64, the counterpart of
    float32; integers are unchanged. With `channels_last` only the weights of two-dimensional
    convolutions change layout: the network's code may view other tensors of four axes.
    """

    def convert(tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            return tensor.to(device, torch.complex64)
        return tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)

    # `_apply` instead of `to`: `to` would drop the imaginary parts of complex tensors.
    network._apply(convert)  # type: ignore[no-untyped-call]
    for module in network.modules():
        if channels_last and isinstance(module, _CONVOLUTIONS):
            for weight in module.parameters(recurse=False):
                if weight.ndim == 4:
                    weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return network


def in_fp32(network: nn.Module) -> nn.Module:
    """Convert a network on the CPU to fp32, in place, and return it."""
    return converted(network, torch.device("cpu"), torch.float32, channels_last=False)


def frozen(network: nn.Module, label: str) -> nn.Module:
    """Put a network in eval mode, disable gradients of its parameters, and return it.

    Raises:
        UserError: its `eval()` fails.
    """
    try:
        network.eval()  # an overridden eval() need not return the network
    except Exception as error:
        raise UserError(f"eval() of model {label!r} failed: {error!r}.") from error
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network


def share_memory(network: nn.Module, other: nn.Module) -> bool:
    """Return whether two networks have a tensor in common."""
    addresses = {tensor.data_ptr() for tensor in tensors_of(other) if tensor.numel()}
    return any(tensor.data_ptr() in addresses for tensor in tensors_of(network) if tensor.numel())


def run_as_written() -> None:
    """Run compiled networks as plain Python from now on: compiled code bypasses hooks."""
    if "torch._dynamo" in sys.modules:  # nothing is compiled without it
        torch.compiler.set_stance("force_eager")


def check_kind(network: nn.Module, label: str) -> None:
    """Reject networks that cannot be hooked or differentiated.

    Raises:
        UserError: names the kind and the alternative.
    """
    # By name, so that no export or quantization package needs to be imported.
    kinds = {
        f"{base.__module__}.{base.__name__}"
        for module in network.modules()
        for base in type(module).__mro__
    }
    if isinstance(network, torch.jit.ScriptModule):
        what, remedy = "a TorchScript module", "give the Python class and its state dict"
    elif any(kind.startswith("torch.export") for kind in kinds):
        what, remedy = "an exported program", "give the module that was exported"
    elif any("torch" in kind and _QUANTIZED.search(kind) for kind in kinds):
        what, remedy = "quantized", "give the network as it was before it was quantized"
    elif any(tensor.is_meta for tensor in tensors_of(network)):
        what, remedy = "without numbers (on the meta device)", "load its weights first"
    else:
        return
    raise UserError(
        f"model {label!r} is {what}: its layers cannot be hooked or optimized; {remedy}."
    )
