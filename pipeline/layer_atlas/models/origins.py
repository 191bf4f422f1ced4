"""Where the weights and the preprocessing of a network come from, found when it is loaded."""

from pathlib import Path

from layer_atlas.config.config import ModelConfig
from layer_atlas.models.architectures import Blueprint
from layer_atlas.models.weights import is_weights_file
from layer_atlas.plan.jobs import AS_CONSTRUCTED, UNTRAINED, Origin

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
