"""Each network of a sweep, loaded and looked at."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from layer_atlas.config.config import Config, ModelConfig
from layer_atlas.config.inputs import user_file
from layer_atlas.datasets.pictures import picture_size
from layer_atlas.errors import UserError
from layer_atlas.models.introspection import describe_layers
from layer_atlas.models.layers import OUTPUT, match_layers
from layer_atlas.models.load import Network, load_network
from layer_atlas.plan.jobs import LayerInfo
from layer_atlas.plan.plan import LARGEST_PICTURE, SkippedModel
from layer_atlas.sweep.planning.refusals import takes, why_it_does_not_run
from layer_atlas.sweep.planning.skipped import check_some_are_left, unless_unusable
from layer_atlas.visualization.optimization.octaves import octave_sizes

SMALLEST_IMAGE = 4


@dataclass(frozen=True)
class InspectedModel:
    """A loaded network and what one forward pass told about it."""

    network: Network
    image_size: tuple[int, int]
    """Height and width of the images."""
    layers: list[LayerInfo]
    """Every layer that has channels."""

    @property
    def example(self) -> Tensor:
        """Normalised noise (1, C, H, W) of the size that the network is given."""
        return self.network.example(self.network.seen_size(self.image_size))

    def choose(self, patterns: tuple[str, ...]) -> list[LayerInfo]:
        """The layers that the patterns choose; raises UserError."""
        return match_layers(patterns, self.layers, self.network.module, self.network.label)


def inspect_models(config: Config) -> list[InspectedModel | SkippedModel]:
    """Load and describe every model of the sweep; raises UserError."""
    found = [unless_unusable(m, partial(_inspect_model, m, config)) for m in config.models]
    check_some_are_left(found, config)
    return found


def _inspect_model(model: ModelConfig, config: Config) -> InspectedModel:
    network = load_network(model)
    size = _image_size(config, network)
    if min(size) < SMALLEST_IMAGE:
        raise UserError(
            f"images of {size[0]} x {size[1]} px are too small; image_size must be "
            f"{SMALLEST_IMAGE} or more."
        )
    colours = len(network.mean)
    if size[0] * size[1] * colours >= LARGEST_PICTURE:
        raise UserError(
            f"images of {size[0]} x {size[1]} px and {colours} colours are too large; choose a "
            "smaller image_size."
        )
    sizes = octave_sizes(config.octaves, size) if config.octaves else [size]
    network, layers = _described(network, sizes, config.keep_prefix_tokens)
    _check_categories(network, model, layers)
    return InspectedModel(network, size, layers)


def _described(
    network: Network, sizes: Sequence[tuple[int, int]], keep_prefix_tokens: bool
) -> tuple[Network, list[LayerInfo]]:
    """The layers, and the network, which may take no size but its own.

    Args:
        network: as loaded.
        sizes: height and width of the images on the way; the last are those of the result.
        keep_prefix_tokens: whether tokens that are no positions belong to activations.
    Raises:
        UserError: it does not take one of the sizes.
    """
    own = (network.input_size, network.input_size)
    size, layers = sizes[-1], list[LayerInfo]()
    try:
        for size in sizes:
            layers = describe_layers(network.module, network.example(size), keep_prefix_tokens)
    except Exception as error:
        # Networks that merely cannot take small images take larger ones.
        if takes(network, own) and not takes(network, (2 * own[0], 2 * own[1])):
            fixed = replace(network, fixed_size=network.input_size)
            return fixed, describe_layers(network.module, network.example(own), keep_prefix_tokens)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        if size != sizes[-1]:
            reason += "; octaves.count and octaves.scale give images of this size"
        raise UserError(why_it_does_not_run(network, size, reason)) from error
    return network, layers


def _check_categories(network: Network, model: ModelConfig, layers: list[LayerInfo]) -> None:
    """A file of the user's own names as many classes as the output has; raises UserError."""
    names = len(network.categories)
    classes = next((layer.n_channels for layer in layers if layer.name == OUTPUT), 0)
    if model.categories is not None and names != classes:
        raise UserError(
            f"categories {model.categories!r} names {names} classes, but the output of model "
            f"{network.label!r} has {classes or 'no channels'}; give one name per line for each."
        )


def _image_size(config: Config, network: Network) -> tuple[int, int]:
    """Height and width of the images that are made for a network."""
    size = config.image_size or network.input_size
    if size == "photograph":
        assert config.photograph is not None
        return picture_size(user_file(config.photograph, "the picture file"))
    return size if isinstance(size, tuple) else (size, size)
