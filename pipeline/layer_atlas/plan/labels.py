"""The labels of targets, layers and networks in pictures and tables, and how many there are."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from layer_atlas.config.objectives import ActivationAtlasObjective, JointObjective
from layer_atlas.config.recipe import Recipe
from layer_atlas.errors import UserError, sanitize, unknown
from layer_atlas.plan.environment import Environment
from layer_atlas.plan.jobs import AS_CONSTRUCTED, UNTRAINED, Origin, named, preprocessing_words
from layer_atlas.plan.plan import LayerPlan, ModelPlan, Plan
from layer_atlas.plan.targets import Sampling, TargetSpace, counted, least_targets, plural

_SHOWN_LAYERS = 3


def count_images(plan: Plan, jobs: int) -> str:
    """Count the images of some jobs: `12 images`, `12 jobs of 2 images`."""
    if plan.variants == 1:
        return counted(jobs, "image")
    return f"{counted(jobs, 'job')} of {plan.variants} images"


def targets_word(plan: Plan) -> str:
    """Return the plural word for the targets of a plan."""
    words = {target_word(model.recipe, layer) for model in plan.models for layer in model.layers}
    return plural(words.pop() if len(words) == 1 else "target")


def target_word(recipe: Recipe, layer: LayerPlan) -> str:
    """Return the word for a target of a layer: `channel`, `class`, `combination`."""
    objective, targets = recipe.objective, layer.target_space
    if len(targets.sizes) > 1:
        return "combination"
    whole = layer.space is not None and targets.count == 1 and objective.target_word == "channel"
    return "whole layer" if whole else objective.target_word


def target_noun(recipe: Recipe, layer: LayerPlan) -> str:
    """Return the noun for a target of a layer in full: `neuron at the centre of the map`."""
    word = target_word(recipe, layer)
    return recipe.objective.noun if word == recipe.objective.target_word else word


def sampling_of(plan: Plan, model: ModelPlan, layer: LayerPlan) -> Sampling:
    """Return how the targets of a layer were chosen."""
    noun = target_noun(model.recipe, layer)
    return Sampling(plan.selection, layer.targets, layer.target_space.count, noun)


def sampling_lines(plan: Plan) -> list[str]:
    """Describe how the targets of all layers were chosen, one line per description."""
    layers: dict[str, list[str]] = {}
    for model in plan.models:
        for layer in model.layers:
            words = sampling_of(plan, model, layer).words()
            layers.setdefault(words, []).append(f"{model.label}/{layer.info.name}")
    return [sanitize(f"{words}: {_some(names)}") for words, names in layers.items()]


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN_LAYERS
    return ", ".join(names[:_SHOWN_LAYERS]) + (f" and {more} more" if more > 0 else "")


def target_label(recipe: Recipe, layer: LayerPlan, target: int, given: str = "") -> str:
    """Return the number of a target, and its name if it has one; a given one goes first."""
    word = target_word(recipe, layer)
    return word if word == "whole layer" else layer.target_space.label(target, given)


def target_name(recipe: Recipe, layer: LayerPlan, target: int, given: str = "") -> str:
    """Return a target with its word: `channel 5`, `channels 3+17`, `class 207 golden retriever`."""
    word, label = target_word(recipe, layer), target_label(recipe, layer, target, given)
    if word == "whole layer":
        return label
    return f"channels {label}" if word == "combination" else f"{word} {label}"


def given_name(names: Mapping[str, str] | None, model: str, layer: str, numbers: str = "") -> str:
    """Return the name that readers know a layer or a target by; empty where none is given.

    Args:
        names: by `model/layer`, which goes first, or by layer; of targets by `layer:17`.
        model: label of the model.
        layer: name of the module.
        numbers: of a target, as `TargetSpace.numbers` writes them; empty for the layer itself.
    """
    names, place = names or {}, f"{layer}:{numbers}" if numbers else layer
    return names.get(f"{model}/{place}", names.get(place, ""))


def check_names(
    names: Iterable[str],
    layers: Mapping[tuple[str, str], TargetSpace],
    setting: Callable[[str], str],
) -> None:
    """Check that there is a layer or a target for every name.

    Args:
        names: what has a name, as `given_name` takes it.
        layers: the targets of each layer, by model and layer.
        setting: words where a name is given, for messages.
    Raises:
        UserError: a layer or a target that is not there, with the nearest that are.
    """
    spaces: dict[str, list[TargetSpace]] = {}
    for (model, layer), space in layers.items():
        for place in (layer, f"{model}/{layer}"):
            spaces.setdefault(place, []).append(space)
    for name in names:
        place, colon, numbers = name.rpartition(":")
        if name in spaces:
            continue
        if not colon or place not in spaces:
            unknown_layer = place if numbers.isdigit() else name
            known = {layer for _, layer in layers}
            raise unknown(f"layer of {setting(name)}", unknown_layer, known)
        if not any(space.has(numbers) for space in spaces[place]):
            last = max((space.sizes for space in spaces[place]), key=len)
            within = " + ".join(f"0 to {size - 1}" for size in last)
            raise UserError(
                f"{setting(name)} names channel {numbers!r} of {place}, which has {within}."
            )


def layer_title(model: ModelPlan, layer: LayerPlan) -> str:
    """Name the model and layer that images are for; with weights if there are several."""
    title = f"{named(model.label, model.origin.weights)}  ·  {layer.info.name}"
    objective, before = model.recipe.objective, model.label
    if not isinstance(objective, JointObjective):
        return title
    title = _times(objective.terms[0].weight) + title
    for term, tap in zip(objective.terms[1:], layer.others, strict=True):
        sign = "   -   " if term.weight < 0 else "   +   "
        label = "" if tap.model == before else f"{named(tap.model, tap.origin.weights)}  ·  "
        title += f"{sign}{_times(abs(term.weight))}{label}{tap.info.name}"
        before = tap.model
    return title


def weights_words(model: ModelPlan) -> str:
    """Name the weights of a model; by label if its images are for several models."""
    origins = {label: origin.weights for label, origin in model.origins.items() if origin.weights}
    if len(origins) < 2:
        return "".join(origins.values())
    return "; ".join(f"{label}: {weights}" for label, weights in origins.items())


def judge_name(plan: Plan) -> str:
    """Name the network and the layer that judge recognisability; empty if there is none."""
    if plan.judge is None:
        return ""
    label = plan.judge.label.removeprefix("judge-")
    return f"{plan.judge.layers[0].info.name} of {named(label, plan.judge.origin.weights)}"


def network_lines(plan: Plan) -> list[str]:
    """Word the weights and the preprocessing of every network of a plan, a line for each."""
    lines = {}
    for model in plan.dataset_models:
        for label, network in model.networks.items():
            only = network.fixed_size
            size = None if only is None else (only, only)
            seen = model.seen_size if label == model.label else (size, model.origins[label])
            lines[label] = network_line(label, network.mean, network.std, *seen)
    return list(lines.values())


def recipe_lines(plan: Plan) -> list[str]:
    """Word how the images are made: once, or for each network where that differs."""
    summaries = {model.label: model.recipe.summary() for model in plan.models}
    if len(set(summaries.values())) == 1:
        return [next(iter(summaries.values()))]
    return [sanitize(f"{label}: {summary}") for label, summary in summaries.items()]


def network_line(
    label: str,
    mean: Sequence[float],
    std: Sequence[float],
    size: tuple[int, int] | None,
    origin: Origin,
) -> str:
    """Word the weights of a network, what was loaded of them, and its preprocessing."""
    weights = f", {origin.weights}" if origin.weights else ""
    weights += f" ({origin.loaded})" if origin.loaded else ""
    return sanitize(f"{label}{weights}; {preprocessing_words(mean, std, size, origin)}")


def _times(weight: float) -> str:
    # The font of the pictures has no other signs for minus and times.
    return "" if weight == 1.0 else f"{weight:g} x "


# --- environments --------------------------------------------------------------------------------

Made = Mapping[Environment | None, int]
"""Number of images made with each environment; `None` stands for an unknown one."""


def remedy(plan: Plan) -> str:
    """Word the remedy for images that were made with several environments."""
    if plan.environments:  # the same versions, so on devices of which none is wanted yet
        return "the next run makes those of the rarer devices again"
    return "versions=strict makes the images of others again"


def mixture(models: Iterable[Made], remedy: str = "") -> str:
    """Report that images of one model were made with several environments; empty if not.

    Args:
        models: the environments of each model's images.
        remedy: end of the sentence.
    """
    counts: Counter[str] = Counter()
    for made in models:
        if len(made) > 1:
            for environment, images in made.items():
                counts[_environment_words(environment, made)] += images
    if not counts:
        return ""
    told = ", ".join(f"{words} ({counted(n, 'image')})" for words, n in counts.most_common())
    end = f"; {remedy}" if remedy else ""
    return f"made with {len(counts)} environments: {told}; bits may differ between them{end}"


def _environment_words(environment: Environment | None, made: Made) -> str:
    """Name torch, the device, and the versions in which an environment differs from others."""
    if environment is None:
        return "unknown versions"
    others = [other for other in made if other is not None]
    versions = {"torch": environment.packages.get("torch", "?")}
    versions |= _differing([other.packages for other in others], environment.packages)
    device = environment.device
    if device is None:
        return sanitize(_listed(versions))
    alike = [other.device for other in others if other.device and other.device.name == device.name]
    versions |= _differing([other.libraries for other in alike], device.libraries)
    several = len({other.capability for other in alike}) > 1
    name = f"{device.name} ({device.capability})" if several else device.name
    return sanitize(f"{_listed(versions)} on {name}")


def _differing(all_of_them: Iterable[Mapping[str, str]], mine: Mapping[str, str]) -> dict[str, str]:
    tables = list(all_of_them)
    return {name: mine[name] for name in mine if len({table.get(name) for table in tables}) > 1}


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _cut_selections(plan: Plan) -> list[str]:
    """Word which layers have fewer targets than `channels` asks for, if any have."""
    # The name of a class may look like a range, and combinations have a selection for each part.
    narrow = [
        (layer.target_space.count, f"{model.label}/{layer.info.name}")
        for model in plan.models
        for layer in model.layers
        if len(layer.target_space.sizes) == 1 and not layer.target_space.names
        if layer.target_space.count < least_targets(plan.selection)
    ]
    if not narrow:
        return []
    fewest, name, more = _least(narrow)
    return [
        f"channels={_as_written(plan.selection)} asks for more than {name} has "
        f"({fewest}){more}; those that exist are taken"
    ]


def _least(layers: Sequence[tuple[int, str]]) -> tuple[int, str, str]:
    """Return the smallest number with its layer, and words for how many other layers there are."""
    number, name = min(layers)
    more = f" and {counted(len(layers) - 1, 'layer')} more" if layers[1:] else ""
    return number, sanitize(name), more


_FEW_JUDGED = 8
"""Targets of a layer below which recognisability is coarse."""


def coarse_judgements(plan: Plan) -> list[str]:
    """Word which layers have too few targets for a fine recognisability, if any have."""
    few = [
        (len(layer.targets), f"{model.label}/{layer.info.name}")
        for model in plan.models
        for layer in model.layers
        if plan.is_judged(model) and len(layer.targets) < _FEW_JUDGED
    ]
    if not few:
        return []
    least, name, more = _least(few)
    what = "unknown" if least == 1 else "coarse"
    return [
        f"recognisability of {name}{more} is {what}: it compares an image with those of "
        f"the layer's other targets, of which there are fewer than {_FEW_JUDGED}"
    ]


def dropped(plan: Plan, earlier: Plan | None) -> list[str]:
    """Word what the atlas of an earlier plan has and that of this plan will lack, if anything."""
    if earlier is None or earlier.dataset_plan is None:
        return []
    stays = "its files stay in the store"
    if plan.dataset_plan is None:
        return [f"dataset images are dropped from the atlas: add dataset=... to keep them; {stays}"]
    if earlier.judge is not None and plan.judge is None:
        name = sanitize(judge_name(earlier))
        return [
            f"recognisability by {name} is dropped from the atlas: add judge=... to keep it; "
            f"{stays}"
        ]
    return []


def _as_written(selection: Any) -> str:
    """Word a selection as a command line has it."""
    return str(selection).replace("'", "")


def _most_cells(plan: Plan, model: ModelPlan) -> int:
    """Number of cells that a sample in each grid for every dataset image can populate."""
    objective, dataset_plan = model.recipe.objective, plan.dataset_plan
    if not isinstance(objective, ActivationAtlasObjective) or dataset_plan is None:
        return 0
    return sum(min(side * side, dataset_plan.count // objective.least) for side in objective.grid)


def notices(plan: Plan) -> list[str]:
    """List what a user should know about the plan.

    That is: own networks without a weights file, preprocessing that is assumed, networks that take
    images of another size, ranges of channels beyond a layer's last, layers with few targets to
    judge, and layers that are called several times.
    """
    constructed = {
        f"{sanitize(label)} has {AS_CONSTRUCTED}; a file of trained ones is given as weights=FILE"
        for model in plan.dataset_models
        for label, origin in model.origins.items()
        if origin.weights == AS_CONSTRUCTED
    }
    resized = [
        f"{sanitize(label)} takes only images of {network.fixed_size} px; those of "
        f"{' x '.join(map(str, model.recipe.image_size))} px are resized for it"
        for model in plan.models
        for label, network in model.networks.items()
        if network.fixed_size is not None
    ]
    notes = (note for model in plan.dataset_models for note in (model.note, model.features))
    noted = [sanitize(note) for note in notes if note]
    noted += [
        f"images of {sanitize(model.label)} are not judged: the judge is the same network"
        for model in plan.models
        if plan.judge is not None and not plan.is_judged(model)
    ]
    noted += [
        f"the cells of {sanitize(model.label)}/{sanitize(layer.info.name)} are not known until "
        f"the dataset was seen: at most "
        f"{counted(min(layer.target_space.count, _most_cells(plan, model)), 'image')} per seed"
        for model in plan.models
        if model.recipe.objective.of_dataset
        for layer in model.layers
        if not layer.targets
    ]
    assumed = {
        f"mean and std of {sanitize(label)} are assumed ({origin.mean.removesuffix(', assumed')}); "
        "models[].mean and std, or preprocess, set those of its training"
        for model in plan.dataset_models
        for label, origin in model.origins.items()
        if origin.mean.endswith("assumed") and origin.weights != UNTRAINED
    }
    return (
        sorted(constructed)
        + sorted(assumed)
        + noted
        + resized
        + _cut_selections(plan)
        + coarse_judgements(plan)
        + [
            f"{sanitize(f'{model.label}/{layer.info.name}')} is called {layer.info.calls} times "
            "per forward pass; its first call is used"
            for model in plan.models
            for layer in model.layers
            if layer.info.calls > 1
        ]
    )
