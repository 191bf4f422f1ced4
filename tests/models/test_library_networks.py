"""Networks of other libraries: what the package computes is what a plain hook reads.

Each network is built again and called with a hook. Where its channels and its tokens are is written
here by hand.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from docs_pages import ROOT
from torch import Tensor, nn
from truths import built, hooked, planned

from layer_atlas.config.config import ModelConfig
from layer_atlas.errors import UserError
from layer_atlas.imports import import_callable
from layer_atlas.models.device_model import DeviceModel
from layer_atlas.models.introspection import describe_layers
from layer_atlas.models.load import load_network

for name in ("transformers", "open_clip", "timm", "segmentation_models_pytorch"):
    pytest.importorskip(name)
library_networks = pytest.importorskip("models.library")

MAP, LAST, TOKENS, VECTOR = (1, 0, 0), (3, 0, 0), (2, 0, 0), (1, 0, 0)
"""Axis of the channels, and non-spatial tokens before and after the others."""


def tokens(before: int, after: int = 0) -> tuple[int, int, int]:
    return 2, before, after


@dataclass(frozen=True)
class Case:
    """A network, and where channels and tokens of some of its layers are."""

    layers: Mapping[str, tuple[int, int, int]]
    size: int = 32
    target: str = ""
    """The default is the function of this name in `models.library`."""
    more: dict[str, Any] = field(default_factory=dict)
    """Further keys of the model entry."""
    given: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the plain call."""


def smp(name: str, layers: dict[str, tuple[int, int, int]], **args: Any) -> Case:
    settings = {
        "encoder_name": "tu-test_efficientnet",
        "encoder_weights": None,
        "classes": 3,
        **args,
    }
    target = f"segmentation_models_pytorch.{name}"
    return Case(layers, 64, target, {"args": settings})


NARROW = {"decoder_channels": [16, 16, 8, 8, 8]}

CASES = {
    # transformers
    "vit": Case({"layers.0.mlp.fc1": tokens(1), "output": tokens(1)}),
    "deit": Case({"deit.layers.1.layernorm_after": tokens(2), "output": VECTOR}),
    "dinov2": Case({"encoder.layer.0.layer_scale1": tokens(1), "layernorm": tokens(1)}, 28),
    "dinov2_with_registers": Case(
        {"encoder.layer.1.mlp.fc2": tokens(5), "encoder.layer.0.attention": tokens(5)}, 28
    ),
    "dinov3": Case({"embeddings": tokens(5), "output": tokens(5)}),
    "clip_vision": Case(
        {"vision_model.encoder.layers.0.mlp.fc1": tokens(1), "visual_projection": VECTOR}
    ),
    "clip": Case(
        {"vision_model.encoder.layers.1.mlp": tokens(1), "visual_projection": VECTOR},
        more={"inputs": {"input_ids": [[0, 5, 2]]}},
        given={"input_ids": torch.tensor([[0, 5, 2]])},
    ),
    "siglip": Case({"encoder.layers.0.self_attn": TOKENS, "post_layernorm": TOKENS}),
    "convnext": Case({"encoder.stages.1.layers.0.pwconv1": LAST, "output": MAP}, 64),
    "convnextv2": Case({"encoder.stages.2.layers.0.grn": LAST, "encoder.stages.2": MAP}, 64),
    "swin": Case({"encoder.layers.1.blocks.0.mlp.fc2": TOKENS, "pooler": MAP}, 64),
    "resnet": Case({"encoder.stages.1.layers.0": MAP, "output": MAP}),
    "segformer": Case(
        {"segformer.stages.1.blocks.0.mlp.dwconv": TOKENS, "decode_head.classifier": MAP}, 64
    ),
    "sam": Case({"vision_encoder.layers.1.attn": LAST, "vision_encoder.neck": MAP}, 64),
    "beit": Case({"layers.0.attention": tokens(1), "output": tokens(1)}),
    "mobilevit": Case({"encoder.layer.3.fusion": MAP, "output": MAP}, 64),
    "dpt": Case({"dpt.encoder.layer.3.output": tokens(1), "neck.reassemble_stage.layers.1": MAP}),
    "yolos": Case({"encoder.layer.1.output": tokens(1, 5), "layernorm": tokens(1, 5)}),
    "pvt": Case({"encoder.layers.1.blocks.0.mlp": TOKENS, "output": MAP}, 64),
    "masked": Case(
        {"layers.1.mlp.fc1": tokens(1), "layernorm": tokens(1)},
        more={"inputs": {"noise": [[i / 16 for i in range(16)]]}},
        given={"noise": torch.arange(16)[None] / 16},
    ),
    "StillVideo": Case(
        {"network.embeddings.patch_embeddings": TOKENS, "network.encoder.layer.1": TOKENS}
    ),
    # open_clip
    "open_clip_towers": Case({"visual.transformer.resblocks.0.mlp": tokens(1), "visual": VECTOR}),
    "open_clip_vit": Case({"transformer.resblocks.1.attn": tokens(1), "output": VECTOR}),
    "open_clip_resnet": Case({"layer3.0.conv2": MAP, "attnpool": VECTOR}, 64),
    "open_clip_timm": Case({"trunk.layer2.0": MAP, "output": VECTOR}, 64),
    # timm
    "timm_vit": Case({"blocks.0.mlp.fc1": tokens(1), "norm": tokens(1)}),
    "timm_registers": Case({"blocks.1.attn.proj": tokens(5), "output": VECTOR}),
    "timm_distilled": Case({"blocks.1.mlp.fc2": tokens(2), "head": VECTOR}),
    "timm_eva": Case({"blocks.0.attn": tokens(3), "blocks.1.mlp.fc2": tokens(3)}),
    "timm_swin": Case({"layers.0.blocks.0.mlp.fc1": TOKENS, "norm": LAST}, 64),
    "timm_features": Case({"layer2.0.bn1": MAP, "output": MAP}, 64),
    "timm_attention": Case({"blocks.0.attn.attn_drop": MAP, "blocks.1.attn.attn_drop": MAP}),
    # segmentation_models_pytorch
    "Unet": smp("Unet", {"decoder.blocks.0": MAP, "output": MAP}, **NARROW),
    "UnetPlusPlus": smp("UnetPlusPlus", {"encoder.model.conv_stem": MAP, "output": MAP}, **NARROW),
    "FPN": smp("FPN", {"decoder.p4": MAP, "output": MAP}),
    "DeepLabV3Plus": smp("DeepLabV3Plus", {"decoder.aspp": MAP, "output": MAP}),
    "PSPNet": smp("PSPNet", {"decoder.psp": MAP, "output": MAP}),
    "Linknet": smp("Linknet", {"decoder.blocks.2": MAP, "output": MAP}),
    "smp_with_head": Case({"classification_head": VECTOR, "output": MAP}, 64),
}


def entry(name: str) -> tuple[ModelConfig, Case]:
    case = CASES[name]
    target = case.target or f"models.library.{name}"
    return ModelConfig(name, target=target, input_size=case.size, **case.more), case


@pytest.mark.parametrize("name", CASES)
def test_a_layer_is_what_a_plain_hook_reads(name: str) -> None:
    config, case = entry(name)
    network = load_network(config)
    found = {x.name: x for x in describe_layers(network.module, network.example((case.size,) * 2))}
    device = DeviceModel(network, "fp32", (case.size, case.size), torch.device("cpu"))
    images = torch.rand(3, 3, case.size, case.size, generator=torch.Generator().manual_seed(3))
    assert config.target is not None
    build = import_callable(config.target, "target", "that builds it")
    fresh = built(lambda: build(**(config.args or {})))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (network.mean, network.std))
    path = device.fast_path([found[layer] for layer in case.layers])
    for (layer, (axis, before, after)), seen in zip(
        case.layers.items(), path.forward(images), strict=True
    ):
        info = found[layer]
        assert (info.channel_axis, info.prefix_tokens, info.suffix_tokens) == (axis, before, after)
        true = plain(fresh, layer, (images - mean) / std, case.given)
        true = true.movedim(axis, 1).flatten(2) if true.ndim > 2 else true[:, :, None]
        true = true[:, :, before : true.shape[2] - after]
        assert seen.shape == true.shape
        assert float((seen - true).abs().max()) < 1e-4 * float(true.abs().max()), layer

    line = row(fresh, case)
    print(f"\n{line}")
    assert line in (ROOT / "docs" / "networks.md").read_text().splitlines()


def row(network: nn.Module, case: Case) -> str:
    """The line of a network in the table of the docs."""
    library = type(network).__module__.partition(".")[0]
    ends = {f"{before}+{after}" for _, before, after in case.layers.values() if before + after}
    cells = (
        "your own" if library == "models" else library,
        f"`{type(network).__name__}`",
        ", ".join(f"`{layer}`" for layer in case.layers),
        " ".join(ends).removesuffix("+0"),
    )
    return f"| {' | '.join(cells)} |"


def plain(network: nn.Module, layer: str, inputs: Tensor, given: dict[str, Any]) -> Tensor:
    """What a layer returns for images one by one."""
    if not given:
        return torch.cat([hooked(network, layer, image[None]) for image in inputs])
    call = network.forward
    network.forward = lambda x: call(pixel_values=x, **given)  # type: ignore[method-assign]
    try:
        return torch.cat([hooked(network, layer, image[None]) for image in inputs])
    finally:
        network.forward = call  # type: ignore[method-assign]


# --- attention -----------------------------------------------------------------------------------


def test_maps_of_attention_are_layers_with_a_channel_for_each_head() -> None:
    target, name = "models.library.vit_eager", "layers.1.attention.attention_map"
    config = ModelConfig("m", target=target, input_size=32, layers=(name,))
    model, network = planned(config)
    info = model.layers[0].info
    assert (info.n_channels, info.map_size, info.channel_axis) == (2, (17, 17), 1)
    assert "the mean of layers.1.attention.attention_map over its positions is the same" in (
        model.note
    )
    device = DeviceModel(network, "fp32", (32, 32), torch.device("cpu"))
    images = torch.rand(2, 3, 32, 32)
    (seen,) = device.fast_path([info]).forward(images)
    kept: list[Tensor] = []
    fresh = built(library_networks.vit_eager)
    fresh.layers[1].attention.register_forward_hook(lambda m, a, out: kept.append(out[1]))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (network.mean, network.std))
    fresh((images - mean) / std)
    assert torch.allclose(seen, kept[0].flatten(2), atol=1e-6)


@pytest.mark.parametrize(
    ("target", "layer"),
    [
        ("models.library.vit", "layers.0.attention.attention_map"),
        ("models.library.timm_vit", "blocks.0.attn.attn_drop"),
    ],
)
def test_fused_attention_is_named_with_the_way_round_it(target: str, layer: str) -> None:
    with pytest.raises(UserError, match="attention is fused") as caught:
        planned(ModelConfig("m", target=target, input_size=32, layers=(layer,)))
    assert "attn_implementation='eager'" in str(caught.value)
    assert "timm.layers.set_fused_attn(False)" in str(caught.value)


# --- ways to name them ---------------------------------------------------------------------------


def test_a_folder_that_transformers_wrote_is_a_target(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = import_callable("models.library.vit", "target", "")()
    network.save_pretrained(tmp_path)
    args = {"pretrained_model_name_or_path": str(tmp_path)}
    target = "transformers.ViTModel.from_pretrained"
    loaded = load_network(ModelConfig("m", target=target, args=args, input_size=32))
    assert torch.equal(loaded.module.layernorm.weight, network.layernorm.weight)
    x = torch.rand(1, 3, 32, 32)
    layer = "layers.1.mlp.fc2"
    assert torch.equal(hooked(loaded.module, layer, x), hooked(network.eval(), layer, x))


def test_positions_are_interpolated_where_the_network_can() -> None:
    inputs = {"interpolate_pos_encoding": True}
    config = ModelConfig("m", target="models.library.vit", input_size=48, inputs=inputs)
    network = load_network(config)
    layers = {x.name: x for x in describe_layers(network.module, network.example((48, 48)))}
    assert (layers["layernorm"].prefix_tokens, layers["layernorm"].positions) == (1, 36)


def test_networks_say_for_what_size_they_are() -> None:
    for target, size in (("sam", 64), ("clip", 32), ("open_clip_towers", 32), ("yolos", 32)):
        network = load_network(ModelConfig("m", target=f"models.library.{target}"))
        assert network.input_size == size
        assert network.origin.input_size == "image_size of the network"
        assert network.origin.mean == "ImageNet default, assumed"


def test_video_is_refused_with_the_code_that_works() -> None:
    config = ModelConfig("m", target="models.library.videomae", input_size=32, layers=("*",))
    with pytest.raises(UserError, match=r"takes volumes or video \(Conv3d\)") as caught:
        planned(config)
    # As `StillVideo` does, which is among the cases above.
    assert "network(images.unsqueeze(1).repeat_interleave(4, 1))" in str(caught.value)
