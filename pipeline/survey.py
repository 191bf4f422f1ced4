"""From config to plan: load each network, look at its layers, decide what is wanted of each.

Everything that can be wrong with a sweep is found here, before anything is computed.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pipeline.aim import aim, terms_of
from pipeline.errors import UnusableFile, UserError
from pipeline.jobs import LayerInfo
from pipeline.networks.activations import main_tensor
from pipeline.networks.layers import OUTPUT, capture, describe_layers, match_layers, truncate
from pipeline.networks.models import DTYPES, Network, check_weights, load_network
from pipeline.objectives.custom import with_source
from pipeline.parameterizations.check import check_parameterization
from pipeline.parameterizations.generator import with_source as with_generator_source
from pipeline.photographs.datasets import Photographs, open_dataset
from pipeline.photographs.listing import look_through
from pipeline.photographs.pictures import picture_size
from pipeline.photographs.views import read_view
from pipeline.plan import LARGEST_PICTURE, LeftOut, ModelPlan, Plan, StudyPlan, jobs_at_once
from pipeline.scheduling.devices import resolve_precision
from pipeline.settings.config import Config, ModelConfig
from pipeline.settings.inputs import Inputs
from pipeline.settings.objectives import JointObjective, Objective
from pipeline.settings.paths import user_file
from pipeline.settings.photographs import FolderDataset
from pipeline.settings.recipe import DatasetInit, Recipe
from pipeline.settings.records import digest, plain
from pipeline.studies.saliency import check_available

T = TypeVar("T")

SMALLEST_IMAGE = 16


@dataclass(frozen=True)
class Survey:
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


def survey(config: Config) -> list[Survey | LeftOut]:
    """Load and describe every model of the sweep; raises UserError."""
    found = [_unless_unusable(m, partial(_survey_model, m, config)) for m in config.models]
    _check_some_are_left(found, config)
    return found


def make_plan(config: Config, surveys: Sequence[Survey | LeftOut], devices: list[str]) -> Plan:
    """Decide the channels of every layer and the recipe of every model; raises UserError."""
    precision = resolve_precision(config.precision, devices)
    study = _plan_study(config)
    if study is not None and isinstance(config.init, DatasetInit):
        config = replace(config, init=replace(config.init, dataset=study.listing))
    inputs = Inputs()
    planned: list[ModelPlan | LeftOut]
    if isinstance(config.objective, JointObjective):
        networks = [found for found in surveys if isinstance(found, Survey)]
        planned = [_plan_joint(config, config.objective, networks, precision, inputs)]
    else:
        pairs = zip(config.models, surveys, strict=True)
        planned = [_plan_model(config, m, found, precision, inputs) for m, found in pairs]
        _check_some_are_left(planned, config)
    models = tuple(model for model in planned if isinstance(model, ModelPlan))
    left_out = tuple(model for model in planned if isinstance(model, LeftOut))
    sources = {reference: str(path) for reference, path in inputs.sources.items()}
    fitting = min(jobs_at_once(model.recipe, model.colours) for model in models)
    shard_size = min(config.shard_size, fitting)
    return Plan(models, config.seeds, shard_size, study, sources, left_out)


def _unless_unusable(model: ModelConfig, do: Callable[[], T]) -> T | LeftOut:
    """What becomes of a model; where its weights are of no use, that."""
    try:
        return do()
    except UnusableFile as error:
        return LeftOut(model.title, str(error))


def _check_some_are_left(found: Sequence[object], config: Config) -> None:
    """A sweep goes on while a model is left, unless its images are for all of them together.

    Raises:
        UserError: what is wrong with the first that is left out.
    """
    left_out = [model for model in found if isinstance(model, LeftOut)]
    all_needed = isinstance(config.objective, JointObjective)
    if left_out and (all_needed or len(left_out) == len(found)):
        raise UserError(left_out[0].why)


def _plan_study(config: Config) -> StudyPlan | None:
    """Look through the photographs, if there are any; raises UserError."""
    check_available(config.saliency)
    settings = config.dataset
    if settings is None:
        return None
    photographs = open_dataset(settings)
    source = settings.path if isinstance(settings, FolderDataset) else settings.dataset
    _check_readable(photographs, source)
    listing, count = look_through(photographs.entries())
    return StudyPlan(
        source=f"{settings.name} {source}",
        listing=listing,
        count=count,
        top=settings.top,
        bottom=settings.bottom,
        reference=settings.reference,
        examples=min(settings.examples, max(settings.top, settings.bottom)),
        saliency=config.saliency,
    )


def _check_readable(photographs: Photographs, source: str) -> None:
    """Make sure that one photograph can be read, mostly the first; raises UserError."""
    first = None
    for index, entry in enumerate(photographs.entries()):
        reason = read_view(photographs, index, entry, SMALLEST_IMAGE).reason
        if reason is None:
            return
        first = first or f"of {entry.path!r}, {reason}"
    raise UserError(
        f"none of the photographs of {source!r} can be read: {first}. Give JPEG, PNG or WebP files."
    )


def _plan_model(
    config: Config,
    model: ModelConfig,
    found: Survey | LeftOut,
    precision: str,
    inputs: Inputs,
) -> ModelPlan | LeftOut:
    if isinstance(found, LeftOut):
        return found
    plan = partial(_plan_network, config, model, found, precision, inputs)
    return _unless_unusable(model, plan)


def _plan_network(
    config: Config, model: ModelConfig, found: Survey, precision: str, inputs: Inputs
) -> ModelPlan:
    network = found.network
    wanted = found.choose(model.layers or config.objective.own_layers)
    objective = with_source(config.objective)
    recipe = _recipe(config, objective, [(found, wanted)], precision, inputs)
    layers = tuple(aim(config, recipe, inputs.find, [(network, info)]) for info in wanted)
    return ModelPlan(network.label, network.identity, network.input_size, recipe, layers)


def _plan_joint(
    config: Config,
    objective: JointObjective,
    surveys: list[Survey],
    precision: str,
    inputs: Inputs,
) -> ModelPlan:
    """One layer that stands for all terms: that of the first."""
    found = terms_of(objective, [(survey.network, survey.layers) for survey in surveys])
    wanted = [
        (survey, [layer for network, layer in found if network is survey.network])
        for survey in surveys
    ]
    pairs = zip(objective.terms, found, strict=True)
    terms = tuple(
        replace(term, model="", network=digest(plain(network.identity)), layer=layer.name)
        for term, (network, layer) in pairs
    )
    recipe = _recipe(config, replace(objective, terms=terms), wanted, precision, inputs)
    first = found[0][0]
    layer = aim(config, recipe, inputs.find, found)
    return ModelPlan(first.label, first.identity, first.input_size, recipe, (layer,))


def _recipe(
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


def _survey_model(model: ModelConfig, config: Config) -> Survey:
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
    network, layers = _described(network, size, config.class_token)
    _check_categories(network, model, layers)
    return Survey(network, size, layers)


def _described(
    network: Network, size: tuple[int, int], class_token: bool
) -> tuple[Network, list[LayerInfo]]:
    """The layers, and the network, which may take no size but its own; raises UserError."""
    own = (network.input_size, network.input_size)
    try:
        return network, describe_layers(network.module, network.example(size), class_token)
    except Exception as error:
        # Networks that merely cannot take small images take larger ones.
        if _takes(network, own) and not _takes(network, (2 * own[0], 2 * own[1])):
            fixed = replace(network, fixed_size=network.input_size)
            return fixed, describe_layers(network.module, network.example(own), class_token)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        told = _other_colours(network, size, own) or _too_small(network, size, reason)
        raise UserError(told) from error


@torch.no_grad()
def _takes(network: Network, size: tuple[int, int]) -> bool:
    """Whether a network takes images of a size."""
    try:
        network.module(network.example(size))
    except Exception:  # noqa: BLE001 - why not is told when the network is described
        return False
    return True


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


def _other_colours(network: Network, *sizes: tuple[int, int]) -> str | None:
    """What to do if the network takes as many colours as its first convolution, and not these."""
    first = next((m for m in network.module.modules() if isinstance(m, nn.Conv2d)), None)
    colours = first.in_channels if first is not None else len(network.mean)
    other = replace(network, mean=(0.0,) * colours)
    if colours == len(network.mean) or not any(_takes(other, size) for size in sizes):
        return None
    mean, std = ([value] * colours for value in (0.5, 0.25))
    return (
        f"model {network.label!r} cannot take images of {len(network.mean)} colours: its first "
        f"convolution takes {colours}. Give the mean and std of its training images, with "
        f"{colours} numbers each: models=[{{..., mean: {mean}, std: {std}}}]."
    )


def _too_small(network: Network, size: tuple[int, int], reason: str) -> str:
    return (
        f"model {network.label!r} cannot take images of {size[0]} x {size[1]} px and "
        f"{len(network.mean)} colours: {reason}. Set image_size (its own input size is "
        f"{network.input_size}); it must take a batch of images with as many colours as mean and "
        "std have numbers."
    )


def _check_layers(found: Survey, wanted: list[LayerInfo]) -> None:
    """Every wanted layer has positions at this image size, and all the weights it needs."""
    network, example = found.network, found.example
    for info in wanted:
        if 0 in info.shape:
            reason = f"layer {info.name!r} has no positions left"
            raise UserError(_too_small(network, found.image_size, reason))
        if network.missing:
            with torch.no_grad():
                (activation,) = truncate(network.module, [info], example)(example)
            check_weights(network, info, activation)
