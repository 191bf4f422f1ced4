"""What `atlas layers` prints: every layer of every model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from layer_atlas.config.config import Config
from layer_atlas.errors import UserError
from layer_atlas.plan.jobs import LayerInfo
from layer_atlas.plan.labels import sanitize
from layer_atlas.sweep.report.tables import table

if TYPE_CHECKING:  # it needs torch, which most commands do without
    from layer_atlas.sweep.planning import InspectedModel


def layer_table(config: Config, inspected: Sequence["InspectedModel"]) -> str:
    """Every layer of every model: name, type, channels, shape, share of FLOPs; chosen or not."""
    parts = []
    layers = {model.title: model.layers for model in config.models}
    for found in inspected:
        patterns = layers[found.network.label] or config.objective.own_layers
        try:
            wanted = {info.name for info in found.choose(patterns)}
        except UserError:
            wanted = set()
        rows = [
            (
                "*" if info.name in wanted else "",
                info.name,
                info.module_type,
                info.n_channels,
                _shape(info),
                f"{100 * info.flops_share:.1f} %",
                info.calls if info.calls > 1 else "",
            )
            for info in found.layers
        ]
        header = ("", "layer", "type", "channels", "shape", "FLOPs", "calls")
        size = " x ".join(map(str, found.image_size))
        named = sanitize(f"{found.network.label} ({found.network.source})")
        title = f"{named}, {size} px input"
        if found.network.fixed_size is not None:
            title += f", resized to {found.network.fixed_size} px"
        parts.append(f"{title}\n\n{table(header, rows, left=3)}")
    note = "* chosen by `layers`. A layer called several times shows its first call."
    if any(info.prefix_tokens for found in inspected for info in found.layers):
        note += (
            "\nTokens in brackets are no positions (class token, registers) and left out; "
            "keep_prefix_tokens=true keeps them."
        )
    return "\n\n".join([*parts, note])


def _shape(info: LayerInfo) -> str:
    """Sides of an activation; those tokens that are left out in brackets: (1+)196x192."""
    if not info.prefix_tokens:
        return "x".join(map(str, info.shape))
    return f"({info.prefix_tokens}+){info.positions}x{info.n_channels}"
