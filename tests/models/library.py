"""Small networks of transformers, open_clip, timm and segmentation_models_pytorch.

Each function is a `target`. Weights are random, and nothing is downloaded.
"""

from typing import Any

import segmentation_models_pytorch as smp
import timm
import timm.layers
import transformers as hf
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

_WIDTH: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "initializer_range": 0.2,
}
_SMALL: dict[str, Any] = {**_WIDTH, "image_size": 32, "patch_size": 8}
_STAGES: dict[str, Any] = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
_HEADS: dict[str, Any] = {**_STAGES, "num_attention_heads": [1, 2, 2, 2]}

# --- transformers --------------------------------------------------------------------------------


def vit(**settings: Any) -> nn.Module:
    return hf.ViTModel(hf.ViTConfig(**{**_SMALL, **settings}))


def vit_eager() -> nn.Module:
    return vit(attn_implementation="eager")


def deit() -> nn.Module:
    return hf.DeiTForImageClassificationWithTeacher(hf.DeiTConfig(**_SMALL))


def dinov2() -> nn.Module:
    config = hf.Dinov2Config(**{**_SMALL, "image_size": 28, "patch_size": 7}, mlp_ratio=2)
    return hf.Dinov2Model(config)


def dinov2_with_registers() -> nn.Module:
    sizes = {**_SMALL, "image_size": 28, "patch_size": 7}
    config = hf.Dinov2WithRegistersConfig(**sizes, mlp_ratio=2, num_register_tokens=4)
    return hf.Dinov2WithRegistersModel(config)


def dinov3() -> nn.Module:
    return hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**_SMALL, num_register_tokens=4))


def clip_vision() -> nn.Module:
    return hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(**_SMALL, projection_dim=16))


def clip() -> nn.Module:
    """Text and images: `inputs={input_ids: [[0, 5, 2]]}`."""
    ids = {"bos_token_id": 0, "eos_token_id": 2}
    text = {**_WIDTH, **ids, "vocab_size": 50, "max_position_embeddings": 8}
    config = hf.CLIPConfig(text_config=text, vision_config=_SMALL, projection_dim=16)
    return hf.CLIPModel(config)


def siglip() -> nn.Module:
    return hf.SiglipVisionModel(hf.SiglipVisionConfig(**_SMALL))


def convnext() -> nn.Module:
    return hf.ConvNextModel(hf.ConvNextConfig(**_STAGES))


def convnextv2() -> nn.Module:
    return hf.ConvNextV2Model(hf.ConvNextV2Config(**_STAGES))


def swin() -> nn.Module:
    sizes = {"image_size": 64, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 2]}
    return hf.SwinModel(hf.SwinConfig(**sizes, window_size=4))


def resnet() -> nn.Module:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    return hf.ResNetModel(hf.ResNetConfig(**sizes, layer_type="basic"))


def segformer() -> nn.Module:
    config = hf.SegformerConfig(**_HEADS, decoder_hidden_size=16, num_labels=5)
    return hf.SegformerForSemanticSegmentation(config)


def sam() -> nn.Module:
    config = hf.SamVisionConfig(
        **{**_SMALL, "image_size": 64},
        mlp_dim=48,
        output_channels=16,
        window_size=4,
        global_attn_indexes=[1],
    )
    return hf.SamVisionModel(config)


def beit() -> nn.Module:
    return hf.BeitModel(hf.BeitConfig(**_SMALL))


def mobilevit() -> nn.Module:
    sizes = {"hidden_sizes": [16, 20, 24], "neck_hidden_sizes": [8, 8, 12, 16, 20, 24, 32]}
    config = hf.MobileViTConfig(
        image_size=64, num_attention_heads=2, expand_ratio=2.0, initializer_range=0.3, **sizes
    )
    return hf.MobileViTModel(config)


def dpt() -> nn.Module:
    config = hf.DPTConfig(
        **{**_SMALL, "num_hidden_layers": 4},
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=16,
    )
    return hf.DPTForDepthEstimation(config)


def yolos() -> nn.Module:
    sizes = {**_SMALL, "image_size": [32, 32], "num_detection_tokens": 5}
    return hf.YolosModel(hf.YolosConfig(**sizes))


def pvt() -> nn.Module:
    return hf.PvtV2Model(hf.PvtV2Config(**_HEADS))


def masked() -> nn.Module:
    """Masks patches by chance, unless it is given the numbers: `inputs={noise: ...}`."""
    decoder = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1}
    heads = {"decoder_num_attention_heads": 2, "decoder_intermediate_size": 16}
    return hf.ViTMAEModel(hf.ViTMAEConfig(**_SMALL, **decoder, **heads, mask_ratio=0.0))


def videomae() -> nn.Module:
    """Takes video (B, frames, channels, H, W)."""
    return hf.VideoMAEModel(hf.VideoMAEConfig(**_SMALL, num_frames=4, tubelet_size=2))


class StillVideo(nn.Module):
    """Shows an image as a video in which nothing moves."""

    def __init__(self) -> None:
        super().__init__()
        self.network = videomae()

    def forward(self, images: Tensor) -> Any:
        return self.network(images.unsqueeze(1).repeat_interleave(4, 1))


# --- open_clip -----------------------------------------------------------------------------------

_TEXT = CLIPTextCfg(context_length=8, vocab_size=50, width=32, heads=2, layers=1)


def open_clip_towers() -> nn.Module:
    """Both towers; images alone are encoded by one of them."""
    vision = CLIPVisionCfg(layers=2, width=32, head_width=16, patch_size=8, image_size=32)
    return CLIP(16, vision, _TEXT)


def open_clip_vit() -> nn.Module:
    return open_clip_towers().visual


def open_clip_resnet() -> nn.Module:
    vision = CLIPVisionCfg(layers=(1, 1, 1, 1), width=8, head_width=16, image_size=64)
    return CLIP(16, vision, _TEXT).visual


def open_clip_timm() -> nn.Module:
    vision = CLIPVisionCfg(timm_model_name="resnet10t", timm_proj="linear", timm_pool="avg")
    return CLIP(16, vision, _TEXT).visual


# --- timm ----------------------------------------------------------------------------------------

_TIMM: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "num_classes": 5,
}


def timm_vit(**settings: Any) -> nn.Module:
    return VisionTransformer(**_TIMM, **settings)


def timm_attention() -> nn.Module:
    """Computes attention step by step, so that its maps are layers."""
    timm.layers.set_fused_attn(False)
    try:
        return timm_vit()
    finally:
        timm.layers.set_fused_attn(True)


def timm_registers() -> nn.Module:
    return timm_vit(reg_tokens=4)


def timm_distilled() -> nn.Module:
    return VisionTransformerDistilled(**_TIMM)


def timm_eva() -> nn.Module:
    return Eva(**_TIMM, num_reg_tokens=2, use_rot_pos_emb=True)


def timm_swin() -> nn.Module:
    sizes: dict[str, Any] = {"depths": (1, 2), "num_heads": (2, 2), "window_size": 4}
    return SwinTransformer(img_size=64, embed_dim=16, num_classes=5, **sizes)


def timm_features() -> nn.Module:
    """Returns a list of maps."""
    return timm.create_model("resnet10t", features_only=True)


# --- segmentation_models_pytorch -----------------------------------------------------------------


def smp_with_head() -> nn.Module:
    """Returns a mask and classes."""
    return smp.Unet(
        "tu-test_efficientnet",
        encoder_weights=None,
        decoder_channels=(16, 16, 8, 8, 8),
        aux_params={"classes": 4},
    )
