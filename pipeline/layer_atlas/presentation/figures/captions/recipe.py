"""A recipe in sentences, as a methods section has them. Works are cited by author and year."""

from collections.abc import Iterator
from dataclasses import fields

from layer_atlas.config.objectives import (
    AccentuationObjective,
    CaricatureObjective,
    ChannelObjective,
    CustomObjective,
    DirectionObjective,
    DiversityObjective,
    InterpolationObjective,
    InversionObjective,
    JointObjective,
    LayerObjective,
    LogitObjective,
    NeuronObjective,
    Objective,
    ProbabilityObjective,
)
from layer_atlas.config.optimizers import LBFGS, SGD, Optimizer
from layer_atlas.config.parameterizations import Cppn, Fourier, Generator, Maco, Pixel, Pyramid
from layer_atlas.config.recipe import Recipe, Regularizers
from layer_atlas.config.transforms import Transforms
from layer_atlas.plan.labels import counted


def objective_words(objective: Objective) -> str:
    """What images were made for: `the mean response of a channel over all positions`."""
    match objective:
        case ChannelObjective():
            return "the mean response of a channel over all positions (Olah et al. 2017)"
        case NeuronObjective():
            place = objective.position
            where = "the centre" if place is None else f"row {place[0]}, column {place[1]}"
            return f"the response of a channel at {where} of the map (Olah et al. 2017)"
        case DirectionObjective():
            power = objective.cosine_power
            cosine = f", times their cosine to the power {power:g}" if power else ""
            return f"the mean response along a direction of the layer{cosine} (Carter et al. 2019)"
        case LogitObjective():
            return "the score of a class before the softmax (Simonyan et al. 2014)"
        case ProbabilityObjective():
            return "the probability of a class"
        case LayerObjective():
            return "the mean square of all responses of the layer (Mordvintsev et al. 2015)"
        case CustomObjective():
            return f"a function of the layer's activations ({objective.function})"
        case JointObjective():
            return "a weighted sum of the responses of several channels (Olah et al. 2017)"
        case DiversityObjective():
            return (
                f"the mean response of a channel and the difference of its {objective.images} "
                f"images (weight {objective.weight:g}; Olah et al. 2017)"
            )
        case InterpolationObjective():
            return (
                f"a mixture of two channels that passes from one to the other in "
                f"{objective.images} images, each held to its neighbours (weight "
                f"{objective.alignment:g}; Olah et al. 2017)"
            )
        case CaricatureObjective():
            return "the likeness of the layer's activations to those of a photograph, exaggerated"
        case InversionObjective():
            return (
                "the likeness of the layer's activations to those of a photograph "
                "(Mahendran & Vedaldi 2015)"
            )
        case AccentuationObjective():
            return (
                "the mean response of a channel in a photograph, the rest of the layer staying as "
                "it was (Hamblin et al. 2024)"
            )


def recipe_sentences(recipe: Recipe) -> Iterator[str]:
    """How images were made, sentence by sentence."""
    height, width = recipe.image_size
    surrogate = {"negative": "descent", "both": "ascent, and one by descent,"}
    way = surrogate.get(str(getattr(recipe.objective, "sign", "")), "ascent")
    yield (
        f"For each target an image of {height} x {width} pixels was made by gradient {way} on "
        f"{objective_words(recipe.objective)}."
    )
    yield _parameterization(recipe)
    yield _optimizer(recipe.optimizer)
    if recipe.octaves is not None:
        yield (
            f"The ascent was repeated at {counted(recipe.octaves.count, 'size')}, each "
            f"{recipe.octaves.scale:g} times as large as the one before (Mordvintsev et al. 2015)."
        )
    yield _transforms(recipe.transforms)
    yield from _regularizers(recipe.regularizers)
    yield f"The network ran in {_PRECISIONS.get(recipe.precision, recipe.precision)}."


_PRECISIONS = {"fp32": "32-bit floating point", "bf16": "bfloat16"}

_STARTS = {
    "noise": "random values",
    "spectrum": "random phases with the mean spectrum of photographs",
    "dataset": "the photograph that excites the channel most",
    "photograph": "a photograph",
}


def _parameterization(recipe: Recipe) -> str:
    start = _STARTS[recipe.init.name]
    masked = ", within a mask over a fixed picture" if recipe.mask is not None else ""
    return f"Images were parameterized by {_parameters(recipe)}{masked}, starting from {start}."


def _parameters(recipe: Recipe) -> str:
    match record := recipe.parameterization:
        case Fourier():
            return (
                "Fourier coefficients in decorrelated colours, scaled by frequency to the power "
                f"-{record.decay_power:g}, at a fixed contrast of {record.contrast:g} (after "
                "Olah et al. 2017)"
            )
        case Pixel():
            return "pixels in decorrelated colours"
        case Maco():
            return (
                "Fourier phases, with magnitudes fixed to those of photographs (Fel et al. 2023), "
                f"at a contrast of {record.contrast:g}"
            )
        case Pyramid():
            return (
                f"a Laplacian pyramid of {counted(record.levels, 'level')} (Burt & Adelson 1983), "
                f"at a contrast of {record.contrast:g}"
            )
        case Cppn():
            return (
                f"a network of {counted(record.layers, 'hidden layer')} from a pixel's place to "
                "its colours (Mordvintsev et al. 2018)"
            )
        case Generator():
            return f"the latents of a generator, {record.target} (Nguyen et al. 2016)"


_OPTIMIZERS = {
    "adam": "Adam (Kingma & Ba 2015)",
    "adamw": "AdamW (Loshchilov & Hutter 2019)",
    "nadam": "NAdam (Dozat 2016)",
    "sgd": "gradient steps with momentum",
    "lbfgs": "L-BFGS (Liu & Nocedal 1989)",
}


def _optimizer(record: Optimizer) -> str:
    falls = f"{record.learning_rate:g}"
    if record.schedule != "constant":
        falls += f", falling to {record.final_learning_rate:g} ({record.schedule})"
    words = f"They were optimised for {counted(record.steps, 'step')} by {_OPTIMIZERS[record.name]}"
    words += f" with a learning rate of {falls}"
    if isinstance(record, SGD):
        words += f" and a momentum of {record.momentum:g}"
    elif not isinstance(record, LBFGS):
        words += f" and betas of {record.beta1:g} and {record.beta2:g}"
    if record.leaks(0):
        words += (
            f"; in the first {counted(record.leaky_steps, 'step')} gradients leaked through closed "
            f"ReLUs with a slope of {record.leaky_slope:g}"
        )
    if record.starts > 1:
        words += f", and channels that stayed dead got up to {record.starts} starts"
    return f"{words}."


_VIEWS = {
    "jitter": "shifts of up to {:g} pixels",
    "scale": "magnifications of {:g} to {:g}",
    "rotate": "turns of up to {:g} degrees",
    "flip": "mirror images with probability {:g}",
    "perspective": "perspective of strength {:g}",
    "crop": "crops of {:g} to {:g} of the side",
    "brightness": "brightness by {:g} to {:g}",
    "contrast": "contrast by {:g} to {:g}",
    "saturation": "saturation by {:g} to {:g}",
    "blur": "blur of {:g} to {:g} pixels",
    "noise": "noise of standard deviation {:g} to {:g}",
    "cutout": "grey rectangles of {:g} to {:g} of the side",
}
_NO_CHANGE = ((1.0, 1.0), (0.0, 0.0), 0.0)


def _transforms(record: Transforms) -> str:
    parts = []
    for field in fields(record):
        value = getattr(record, field.name)
        if value not in _NO_CHANGE:
            parts.append(
                _VIEWS[field.name].format(*(value if isinstance(value, tuple) else [value]))
            )
    if not parts:
        return "The network saw the images as they were."
    return f"At each step the network saw each image through a random view: {', '.join(parts)}."


_HELD = {
    "total_variation": "total variation (weight {:g})",
    "l1": "distance from grey (weight {:g})",
    "l2": "squared distance from grey (weight {:g})",
    "high_frequency": "energy above half the Nyquist frequency (weight {:g})",
    "blur": "a blur of each step of {:g} pixels at first, none at the end",
    "clip": "gradients clipped to a norm of {:g}",
}


def _regularizers(record: Regularizers) -> Iterator[str]:
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    parts = [_HELD[name].format(value) for name, value in values.items() if value]
    if parts:
        yield f"They were regularized by {', '.join(parts)}."
