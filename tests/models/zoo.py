"""Published architectures, and what one of them is examined for.

Weights are random, and statistics of batch norms far from 0 and 1, so that a batch norm that is
folded wrongly, or runs in training mode, shows.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torchvision import models as torchvision_zoo
from truths import TOLERANCE, Made, built, first_tensor, key_of, made

from layer_atlas.config.config import ModelConfig
from layer_atlas.visualization.optimization import image_statistics as statistics

TIMM = "timm/"

_NORMS = (nn.modules.batchnorm._BatchNorm,)


@dataclass(frozen=True)
class Member:
    """A network of the zoo."""

    size: int = 64
    """Height and width of its images."""
    args: dict[str, Any] = field(default_factory=dict)
    """Of its constructor."""
    layers: tuple[str, str] | None = None
    """A layer inside of a fused block, and a late one; default: as `layers_of` chooses."""
    prefix: tuple[int, int] = (0, 0)
    """Tokens that are no positions, in front of those of the image, at either layer."""


def network(name: str) -> nn.Module:
    """A network of the zoo; the target of its config."""
    member = ZOO[name]
    with torch.random.fork_rng(devices=[]), patch.object(nn.init, "trunc_normal_", _normal_):
        torch.manual_seed(0)
        module = _constructed(name, member.args)
        for norm in module.modules():
            if isinstance(norm, _NORMS) and norm.running_mean is not None:
                _unsettle(norm)
    return module


def _normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, *_: Any, **ends: Any) -> Tensor:
    """In place of a truncated normal distribution, which takes ten times as long."""
    return nn.init.normal_(tensor, mean, std)


def _constructed(name: str, args: dict[str, Any]) -> nn.Module:
    if name.startswith(TIMM):
        import timm

        return timm.create_model(name.removeprefix(TIMM), **args)  # type: ignore[no-any-return]
    backbone = {} if hasattr(torchvision_zoo, name) else {"weights_backbone": None}
    module: nn.Module = torchvision_zoo.get_model(name, weights=None, **backbone, **args)
    return module


@torch.no_grad()
def _unsettle(norm: nn.modules.batchnorm._BatchNorm) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.normal_().mul_(0.5)
    norm.running_var.uniform_(0.2, 2.0)
    if norm.affine:
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_().mul_(0.3)


# --- layers --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """The first call of a module."""

    name: str
    module: nn.Module
    shape: tuple[int, ...]

    @property
    def axis(self) -> int:
        """The axis of the channels."""
        return len(self.shape) - 1 if isinstance(self.module, nn.Linear) else 1

    @property
    def positions(self) -> int:
        """How many there are."""
        return int(np.prod(self.shape)) // self.shape[self.axis]


def calls(module: nn.Module, inputs: Tensor) -> list[Call]:
    """The first calls of all convolutions, batch norms and linear layers, in order."""
    found: dict[nn.Module, Call] = {}
    names = {m: name for name, m in module.named_modules()}

    def note(m: nn.Module, args: Any, output: Any) -> None:
        tensor = first_tensor(output)
        if tensor is not None and m not in found:
            found[m] = Call(names[m], m, tuple(tensor.shape))

    kinds = (nn.Conv2d, nn.Linear, *_NORMS)
    handles = [m.register_forward_hook(note) for m in module.modules() if isinstance(m, kinds)]
    with torch.no_grad():
        module(inputs)
    for handle in handles:
        handle.remove()
    return list(found.values())


def layers_of(name: str, module: nn.Module) -> tuple[Call, Call]:
    """A layer inside of a fused block of a network, and a late one.

    Inside: a convolution that a batch norm follows, the middle one of those; else the middle layer.
    Late: the last one that has more positions than one.
    """
    one, two = (calls(module, _noise(n, ZOO[name].size)) for n in (1, 2))
    doubled = {call.name: call.shape for call in two}
    apart = [call for call in one if call.shape[0] == 1 and call.shape[call.axis] > 1]
    apart = [call for call in apart if doubled.get(call.name) == (2, *call.shape[1:])]
    if (wanted := ZOO[name].layers) is not None:
        by_name = {call.name: call for call in apart}
        return by_name[wanted[0]], by_name[wanted[1]]
    pairs = pairwise(one)
    followed = {
        conv.name
        for conv, norm in pairs
        if isinstance(conv.module, nn.Conv2d) and isinstance(norm.module, _NORMS)
    }
    spread = [c for c in apart if c.positions > 1 and len(c.shape) > 2] or apart
    inside = [c for c in spread if c.name in followed] or spread
    return inside[len(inside) // 2], spread[-1]


def _noise(count: int, size: int) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


# --- what is examined ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """What came out for a network."""

    model: str
    layers: tuple[str, ...]
    paths: tuple[str, ...]
    difference: float
    """The largest one between a stored activation and that of a plain hook."""

    def __str__(self) -> str:
        layers = ", ".join(f"`{layer}`" for layer in self.layers)
        paths = " / ".join(dict.fromkeys(self.paths))
        return f"| `{self.model}` | {layers} | {paths} | {self.difference:.0e} |"


def entry(name: str, layers: Iterable[str]) -> ModelConfig:
    """The model of a sweep of some layers of a network of the zoo."""
    return ModelConfig(
        name,
        label="it",
        target="tests.models.zoo.network",
        args={"name": name},
        input_size=ZOO[name].size,
        layers=tuple(layers),
    )


def examine(name: str) -> Row:
    """Make images for two layers of a network, and compare.

    Raises:
        AssertionError: the stored activations are not those of a plain hook, a module is in
            training mode, or a channel comes out otherwise alone than among others.
    """
    fresh = built(partial(network, name))
    pairs = zip(layers_of(name, fresh), ZOO[name].prefix, strict=True)
    chosen = {call.name: (call, prefix) for call, prefix in pairs}
    # Robust activations are not looked at, and would take most of the time.
    with patch.object(statistics, "ROBUST_VIEWS", 1):
        results = made(entry(name, chosen))
        check_alone(results[-1])
    assert {result.info.name for result in results} == set(chosen)
    differences = []
    for result in results:
        call, prefix = chosen[result.info.name]
        off = result.difference(fresh, call.axis, prefix)
        assert off < TOLERANCE, f"{call.name} is off by {off:.1e} ({result.renderer.path})"
        check_modes(result)
        differences.append(off)
    paths = tuple(result.renderer.path for result in results)
    return Row(name, tuple(chosen), paths, max(differences))


def check_modes(result: Made) -> None:
    """No module is in training mode, of any instance of the network."""
    for module in modules_of(result):
        assert not module.training, module


def modules_of(result: Made) -> Iterator[nn.Module]:
    """The modules of the network and of its instances."""
    yield from result.network.module.modules()
    for instance in result.workbench.network._instances.values():
        yield from instance.module.modules()
        if instance.trace is not None:
            # What holds modules in a graph is a bare `Module`, which computes nothing.
            yield from (m for m in instance.trace.graph.modules() if type(m) is not nn.Module)


def check_alone(result: Made) -> None:
    """A channel has the same bits alone as among others."""
    place = len(result.channels) - 1
    channel = result.channels[place]
    alone = result.renderer.make([key_of(channel)], [channel])
    for what in ("image", "activation", "trace"):
        np.testing.assert_array_equal(alone[what][0], result.rows[what][place])


# --- the zoo -------------------------------------------------------------------------------------

_DETECTOR = Member(64, {"min_size": 64, "num_classes": 3})

_TORCHVISION = {
    **dict.fromkeys(
        (
            *("alexnet", "vgg11", "vgg11_bn", "squeezenet1_1", "densenet121", "googlenet"),
            *("resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"),
            *("shufflenet_v2_x0_5", "mnasnet0_5", "convnext_tiny"),
            *("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"),
            *(f"efficientnet_b{i}" for i in range(5)),
            *("efficientnet_v2_s", "efficientnet_v2_m"),
            *("regnet_x_400mf", "regnet_x_800mf", "regnet_x_1_6gf"),
            *("regnet_y_400mf", "regnet_y_800mf", "regnet_y_1_6gf"),
            *("swin_t", "swin_s", "swin_b", "swin_v2_t", "swin_v2_s", "swin_v2_b"),
            *("fcn_resnet50", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large"),
            "lraspp_mobilenet_v3_large",
        ),
        Member(),
    ),
    "inception_v3": Member(96),
    "vit_b_16": Member(32, {"image_size": 32}, prefix=(1, 1)),
    "maxvit_t": Member(224),
    **dict.fromkeys(
        (
            *("fasterrcnn_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn"),
            *("maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn"),
            *("retinanet_resnet50_fpn", "fcos_resnet50_fpn"),
        ),
        _DETECTOR,
    ),
    # As these are always given images of 300 pixels, late layers take minutes.
    "ssd300_vgg16": Member(64, {"num_classes": 3}, ("backbone.features.2", "backbone.features.7")),
    "ssdlite320_mobilenet_v3_large": Member(64, {"num_classes": 3}),
}

_AT_64 = {"img_size": 64}

_TIMM = {
    **dict.fromkeys(
        (
            *(
                "efficientvit_b0",
                "mobilevit_xxs",
                "nasnetalarge",
            ),
            *("edgenext_xx_small", "poolformer_s12", "pvt_v2_b0", "hrnet_w18_small", "dla46_c"),
            *("res2net50_14w_8s", "resnest14d", "ghostnet_050", "hardcorenas_a"),
            *("lcnet_035", "tinynet_e", "fbnetc_100", "mobileone_s0", "repvgg_a0"),
            *("focalnet_tiny_srf", "inception_next_atto", "convformer_s18", "starnet_s1"),
            *("repvit_m0_9", "fastvit_t8", "convnextv2_atto", "mambaout_femto"),
            *("mobilenetv4_conv_small", "shvit_s1", "nf_resnet26", "selecsls42"),
            *("cs3darknet_focus_s", "densenetblur121d", "dpn48b", "mixnet_s", "skresnet18"),
            *("rdnet_tiny", "efficientnet_b0_gn", "mobilenetv3_small_050"),
            *("seresnext26d_32x4d", "xception41", "efficientvim_m1", "iformer_t", "fasternet_t0"),
        ),
        Member(),
    ),
    **dict.fromkeys(
        (
            *("coatnet_nano_rw_224", "maxvit_nano_rw_256", "resmlp_12_224", "gmlp_ti16_224"),
            *("twins_svt_small", "visformer_tiny", "hiera_tiny_224", "sequencer2d_s"),
            *("swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "mvitv2_tiny"),
            *("volo_d1_224", "vitamin_small_224", "botnet26t_256", "coat_lite_tiny"),
            "vit_relpos_small_patch16_224",
        ),
        Member(64, _AT_64),
    ),
    **dict.fromkeys(
        (
            *("beit_base_patch16_224", "pit_ti_224", "tnt_s_patch16_224"),
            *("vit_tiny_patch16_224", "deit3_small_patch16_224"),
        ),
        Member(64, _AT_64, prefix=(1, 1)),
    ),
    **dict.fromkeys(
        (
            *("efficientvit_m0", "tiny_vit_5m_224", "nest_tiny", "mixer_s32_224"),
            *("levit_128s",),
        ),
        Member(224),
    ),
    "deit_tiny_distilled_patch16_224": Member(64, _AT_64, prefix=(2, 2)),
    "eva02_tiny_patch14_224": Member(56, {"img_size": 56}, prefix=(1, 1)),
    "vit_small_patch14_reg4_dinov2": Member(56, {"img_size": 56}, prefix=(5, 5)),
    "rexnet_100": Member(),
    # Its attention is in windows, which are no layers: they keep images apart by chance alone.
    "davit_tiny": Member(layers=("stages.2.blocks.1.0.mlp.fc1", "stages.3.blocks.0.1.mlp.fc2")),
    # The class token comes in late.
    "xcit_nano_12_p16_224": Member(64, _AT_64, prefix=(0, 1)),
    "cait_xxs24_224": Member(64, _AT_64, prefix=(0, 1)),
    "convit_tiny": Member(64, _AT_64, prefix=(0, 1)),
    # A class token of its own in each of the serial stages; keeps its place in the list.
    "coat_lite_tiny": Member(64, _AT_64, prefix=(0, 1)),
}

ZOO = {**_TORCHVISION, **{TIMM + name: member for name, member in _TIMM.items()}}
