"""The recipe of a model's images, once it is clear that they can be made."""

import copy
from typing import Any

import torch

from pipeline.errors import UserError
from pipeline.jobs import LayerInfo
from pipeline.networks.activations import main_tensor
from pipeline.networks.capture import capture
from pipeline.networks.models import DTYPES, check_weights
from pipeline.networks.truncate import truncate
from pipeline.parameterizations.check import check_parameterization
from pipeline.parameterizations.generator import with_source as with_generator_source
from pipeline.settings.config import Config
from pipeline.settings.inputs import Inputs
from pipeline.settings.objectives import Objective
from pipeline.settings.recipe import Recipe
from pipeline.survey.networks import Survey, too_small


def make_recipe(
    config: Config,
    objective: Objective,
    wanted: list[tuple[Survey, list[LayerInfo]]],
    precision: str,
    inputs: Inputs,
) -> Recipe:
    """The recipe, once it is clear that the wanted layers can be optimised."""
    for found, layers in wanted:
        _check_layers(found, layers)
        precision = _possible(config, found, layers, precision)
    try:
        recipe = Recipe(
            objective=objective,
            parameterization=with_generator_source(config.parameterization),
            transforms=config.transforms,
            optimizer=config.optimizer,
            image_size=wanted[0][0].image_size,
            precision=precision,
            regularizers=config.regularizers,
            init=config.init,
            mask=config.mask,
            octaves=config.octaves,
            snapshots=config.snapshots,
            class_token=config.class_token,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    recipe = inputs.resolved(recipe)
    check_parameterization(recipe, len(wanted[0][0].network.mean), inputs.find)
    return recipe


def _possible(config: Config, found: Survey, layers: list[LayerInfo], precision: str) -> str:
    """The precision that some layers can be optimised in; raises UserError if there is none."""
    fault = _fault(found, layers, precision)
    if fault and config.precision == "auto" and precision == "bf16":
        precision, fault = "fp32", _fault(found, layers, "fp32")
    if fault:
        label = found.network.label
        raise UserError(f"model {label!r} cannot be optimised in {precision}: {fault}.")
    return precision


def _fault(found: Survey, wanted: list[LayerInfo], precision: str) -> str | None:
    """What keeps the wanted layers from being optimised in a precision, tried on two images."""
    dtype = DTYPES[precision]
    module = copy.deepcopy(found.network.module).to(dtype)
    images = found.example.repeat(2, 1, 1, 1).to(dtype)
    outputs: dict[str, Any] = {}
    try:
        with capture([layer.name for layer in wanted], module, outputs):
            module(images.requires_grad_().clone())
    except Exception as error:  # noqa: BLE001 - whatever it is, the user is told before a sweep fails
        return f"{type(error).__name__}: {error}".splitlines()[0][:200]
    for info in wanted:
        activation = main_tensor(outputs[info.name])
        if activation is None or len(activation) != 2:
            return f"layer {info.name!r} does not keep two images apart"
        if not activation.requires_grad:
            return f"no gradient reaches the image from layer {info.name!r}"
    return None


def _check_layers(found: Survey, wanted: list[LayerInfo]) -> None:
    """Every wanted layer has positions at this image size, and all the weights it needs."""
    network, example = found.network, found.example
    for info in wanted:
        if 0 in info.shape:
            reason = f"layer {info.name!r} has no positions left"
            raise UserError(too_small(network, found.image_size, reason))
        if network.missing:
            with torch.no_grad():
                (activation,) = truncate(network.module, [info], example)(example)
            check_weights(network, info, activation)
