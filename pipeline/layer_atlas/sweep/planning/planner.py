"""From networks to plan: the recipe of every model, the targets of every layer, the judge."""

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from functools import partial

import torch

from layer_atlas.config.config import Config, ModelConfig
from layer_atlas.config.inputs import Inputs
from layer_atlas.config.objectives import (
    ActivationAtlasObjective,
    DirectionObjective,
    JointObjective,
    LogitObjective,
    Objective,
    ProbabilityObjective,
    StrongestImagesObjective,
)
from layer_atlas.config.recipe import ALGORITHM_VERSIONS, Growth, Recipe, Regularizers
from layer_atlas.config.records import digest, plain
from layer_atlas.errors import UserError
from layer_atlas.logs import step
from layer_atlas.models.activations import match_layers
from layer_atlas.models.inspections import InspectedModel
from layer_atlas.models.load import Network
from layer_atlas.models.normalization import FEATURE_IMAGES, has_batch_norms
from layer_atlas.models.self_check import (
    CheckedLayers,
    EarlierChecks,
    ReadTogether,
    check_layers,
    is_same_at,
)
from layer_atlas.plan.jobs import LayerInfo
from layer_atlas.plan.plan import (
    MOST_TARGETS,
    LayerPlan,
    LayerRef,
    ModelPlan,
    ModuleInfo,
    Plan,
    SkippedModel,
    gpu_batch,
    shard_size,
)
from layer_atlas.plan.targets import TargetSpace, counted, select_targets, spaced
from layer_atlas.sweep.planning.dataset import plan_dataset, with_dataset
from layer_atlas.sweep.planning.devices import (
    WorkerDevice,
    gpu_memory,
    is_faster_than_fp32,
    resolve_precision,
)
from layer_atlas.sweep.planning.inspection import (
    SMALLEST_IMAGE,
    check_some_are_left,
    inspect_judge,
    or_skipped,
)
from layer_atlas.visualization.objectives import ObjectiveContext, make_objective
from layer_atlas.visualization.objectives.base import not_yet
from layer_atlas.visualization.objectives.custom import with_source
from layer_atlas.visualization.objectives.directions import RANDOM_DIRECTIONS
from layer_atlas.visualization.objectives.strongest_images import layers_at_depths
from layer_atlas.visualization.parameterizations import check_parameterization
from layer_atlas.visualization.parameterizations.generator import (
    with_source as with_generator_source,
)

NetworkLayer = tuple[Network, LayerInfo]
LayersOfModel = tuple[InspectedModel, Sequence[LayerInfo]]


def make_plan(
    config: Config,
    inspected: Sequence[InspectedModel | SkippedModel],
    devices: Sequence[WorkerDevice],
    earlier: Plan | None = None,
) -> Plan:
    """Decide the targets of every layer and the recipe of every model.

    Args:
        config: the settings of the sweep.
        inspected: the networks, in the order of the config's models.
        devices: where workers will run.
        earlier: the plan of an earlier run; its networks must compute now what they did then.
    Raises:
        UserError: a mistake in the config, or a layer that cannot be optimized.
    """
    with step("listing the dataset"):
        dataset_plan = plan_dataset(config)
    if dataset_plan is not None:
        config = with_dataset(config, dataset_plan.listing)
    listing = "" if dataset_plan is None else dataset_plan.listing
    precision = resolve_precision(config.precision, devices)
    planner = _Planner(config, precision, devices, earlier, listing)
    planned: list[ModelPlan | SkippedModel]
    if isinstance(config.objective, JointObjective):
        networks = [model for model in inspected if isinstance(model, InspectedModel)]
        planned = [planner.plan_joint(config.objective, networks)]
    else:
        pairs = zip(config.models, inspected, strict=True)
        planned = [
            model
            if isinstance(model, SkippedModel)
            # Tensors that a layer needs may be missing, which loading alone does not show.
            else or_skipped(settings, partial(planner.plan_model, settings, model))
            for settings, model in pairs
        ]
        check_some_are_left(planned, config)
    models = tuple(model for model in planned if isinstance(model, ModelPlan))
    judge = plan_judge(config, models, earlier) if config.judge is not None else None
    return Plan(
        models,
        config.seeds,
        shard_size(config, models, [device.name for device in devices]),
        dataset_plan,
        {reference: str(path) for reference, path in planner.inputs.sources.items()},
        tuple(model for model in planned if isinstance(model, SkippedModel)),
        config.channels,
        judge,
        config.connections,
    )


class _Planner:
    """Plans models that share a config, and collects the files that their recipes refer to."""

    def __init__(
        self,
        config: Config,
        precision: str,
        devices: Sequence[WorkerDevice],
        earlier: Plan | None,
        listing: str,
    ) -> None:
        self.config, self.precision, self.earlier = config, precision, earlier
        self.listing, self.gpu_bytes = listing, gpu_memory(devices)
        # Only what workers compute on can be timed here.
        self.can_time = not any(device.is_gpu for device in devices)
        self.inputs = Inputs()

    def plan_model(self, settings: ModelConfig, model: InspectedModel) -> ModelPlan:
        """Plan the layers of a model."""
        wanted = model.choose(settings.layers or self.config.objective.own_layers)
        # The code of a custom objective is part of the recipe, and so of every key.
        objective = with_source(self.config.objective)
        others = {layer.name: _further_layers(objective, layer, model) for layer in wanted}
        read = {x.name: x for layer in wanted for x in (layer, *others[layer.name])}
        before = self._notes_before(model)
        precision = "fp32" if "fp32" in before else self.precision
        is_timed = self.can_time and not before
        checked = self._check(model, list(read.values()), precision, others, is_timed)
        # Why it was chosen is not found out again.
        sentences = [*before.get("fp32", "").split("; "), *checked.note.split("; ")]
        note = "; ".join(filter(None, dict.fromkeys(sentences)))
        recipe = self._recipe(objective, [(model, tuple(read.values()))], checked.precision)
        info = {layer.name: layer for layer in checked.layers}
        layers = tuple(
            self._resolve_targets(
                recipe, [(model.network, info[x.name]) for x in (layer, *others[layer.name])]
            )
            for layer in wanted
        )
        layers = tuple(self._with_batch(layer, recipe, [model]) for layer in layers)
        plan = _model_plan(model.network, recipe, layers, note)
        features = _feature_source(model.network, recipe.regularizers)
        return replace(plan, features=features, modules=tuple(map(_module, model.layers)))

    def plan_joint(self, objective: JointObjective, models: list[InspectedModel]) -> ModelPlan:
        """Plan one layer that stands for all terms of an objective: that of the first term."""
        layers = terms_of(objective, [(model.network, model.layers) for model in models])
        notes, checked_layers, precision = [], dict[str, dict[str, LayerInfo]](), self.precision
        own_layers = [
            tuple(layer for network, layer in layers if network is model.network)
            for model in models
        ]
        read = list(zip(models, own_layers, strict=True))
        for model, own in read:
            checked = self._check(model, own, precision, {})
            precision = checked.precision  # what one network cannot do, none does
            notes.append(checked.note)
            checked_layers[model.network.label] = {layer.name: layer for layer in checked.layers}
        layers = [(network, checked_layers[network.label][layer.name]) for network, layer in layers]
        terms = tuple(
            # By identity rather than label: a renamed model keeps its keys.
            replace(term, model="", network=digest(plain(network.identity)), layer=layer.name)
            for term, (network, layer) in zip(objective.terms, layers, strict=True)
        )
        resolved = replace(objective, terms=terms)
        recipe = self._recipe(resolved, read, precision)
        layer = self._with_batch(self._resolve_targets(recipe, layers), recipe, models)
        plan = _model_plan(layers[0][0], recipe, (layer,), "; ".join(filter(None, notes)))
        return replace(plan, features=_feature_source(layers[0][0], recipe.regularizers))

    def _check(
        self,
        model: InspectedModel,
        wanted: Sequence[LayerInfo],
        precision: str,
        others: Mapping[str, Sequence[LayerInfo]],
        is_timed: bool = False,
    ) -> CheckedLayers:
        plan, may_fall_back = self.earlier, self.config.precision == "auto"
        earlier = _earlier_checks(plan, model, precision)
        with_prior = self.config.regularizers.feature_statistics > 0
        together = ReadTogether(others, with_prior, has_images=bool(self.listing))
        with step(f"checking {counted(len(wanted), 'layer')} of {model.network.label}"):
            how = {"is_worth_it": is_faster_than_fp32} if is_timed else {}
            return check_layers(model, wanted, precision, may_fall_back, earlier, together, **how)

    def _notes_before(self, model: InspectedModel) -> dict[str, str]:
        """The note of an earlier run of this sweep by the precision that it chose, if it did.

        Timing must not change that: all images would be made again.
        """
        if self.config.precision != "auto" or self.earlier is None:
            return {}
        identity, models = model.network.identity, self.earlier.models
        return {m.recipe.precision: m.note for m in models if m.network == identity}

    def _recipe(
        self, objective: Objective, read: Sequence[LayersOfModel], precision: str
    ) -> Recipe:
        """Make the recipe of images for layers of some models.

        Args:
            objective: its names resolved.
            read: the models, with the layers that are optimized or read with these.
            precision: of the optimization.
        Raises:
            UserError: parts of it do not go together, or a file that it names cannot be used.
        """
        config, model = self.config, read[0][0]
        self._check_octaves(read)
        try:
            recipe = Recipe(
                objective=objective,
                parameterization=with_generator_source(config.parameterization),
                transforms=config.transforms,
                optimizer=config.optimizer,
                image_size=model.image_size,
                precision=precision,
                regularizers=self._regularizers(model.network),
                init=config.init,
                mask=config.mask,
                octaves=config.octaves,
                growth=self._growth(read),
                snapshots=config.snapshots,
                keep_prefix_tokens=config.keep_prefix_tokens,
                algorithm=ALGORITHM_VERSIONS[precision],
            )
        except ValueError as error:
            raise UserError(str(error)) from error
        recipe = self.inputs.resolved(recipe)
        check_parameterization(recipe, len(model.network.mean), self.inputs.find)
        return recipe

    def _growth(self, read: Sequence[LayersOfModel]) -> Growth:
        """The growth of images, or none where something is about one size; see `Config.growth`."""
        first = read[0][0]
        growth = self.config.growth.for_network(first.network.input_size, first.image_size)
        sizes = growth.sizes(first.image_size)
        possible = (
            self.config.can_grow
            and all(min(size) >= SMALLEST_IMAGE for size in sizes)
            and all(model.network.fixed_size is None for model, _ in read)
            and all(is_same_at(model, layers, sizes) for model, layers in read)
        )
        return growth if possible else Growth()

    def _check_octaves(self, read: Sequence[LayersOfModel]) -> None:
        """Check that targets are the same at every size; raises UserError."""
        octaves = self.config.octaves
        if octaves is None:
            return
        for model, layers in read:
            *smaller, _ = octaves.sizes(model.image_size)
            if not is_same_at(model, layers, smaller):
                height, width = smaller[0]
                raise UserError(
                    f"octaves begin at {height} x {width} px, where layers of model "
                    f"{model.network.label!r} have other channels than at "
                    f"{model.image_size[0]} x {model.image_size[1]} px. Choose other layers, or "
                    "set octaves=none."
                )

    def _regularizers(self, network: Network) -> Regularizers:
        """Name the dataset, if it is what the prior of feature statistics comes from."""
        settings = self.config.regularizers
        of_dataset = settings.feature_statistics > 0 and not has_batch_norms(network.module)
        return replace(settings, dataset=self.listing if of_dataset else "")

    def _resolve_targets(self, recipe: Recipe, layers: Sequence[NetworkLayer]) -> LayerPlan:
        """Resolve `channels` to targets of a layer, or of several that an objective reads together.

        Args:
            recipe: the objective, its files resolved.
            layers: the layer and its network first, further ones after it.
        Raises:
            UserError: the objective does not fit the layer, or there are no such targets.
        """
        (network, info), *others = layers
        selection = self.config.channels
        where = " and ".join(f"{other.label}/{layer.name}" for other, layer in layers)
        # No activations: an objective knows its targets by the shapes of its layers alone.
        context = ObjectiveContext(
            layers=tuple(layer for _, layer in layers),
            activations=not_yet,
            find=self.inputs.find,
            colours=len(network.mean),
            size=recipe.image_size,
            device=torch.device("cpu"),
        )
        objective = make_objective(recipe.objective, context)
        space = TargetSpace(objective.sizes, _target_names(recipe, network, objective.sizes))
        _refuse_all_random(recipe, selection)
        targets = select_targets(selection, space, where)
        if recipe.objective.of_dataset:
            # Which of them are populated is known once the dataset was seen.
            return LayerPlan(info, (), space)
        if len(targets) > MOST_TARGETS:
            raise UserError(
                f"channels={selection!r} are {len(targets)} targets of {where}; a sweep takes at "
                f"most {MOST_TARGETS} of a layer."
            )
        return LayerPlan(
            info,
            spaced(targets),
            # Most layers have one target per channel, which the plan need not spell out.
            None if space == TargetSpace((info.n_channels,)) else space,
            tuple(LayerRef(net.label, net.identity, layer, net.origin) for net, layer in others),
        )

    def _with_batch(
        self, layer: LayerPlan, recipe: Recipe, models: Sequence[InspectedModel]
    ) -> LayerPlan:
        """Plan the batches of a layer, if GPUs make its images."""
        if not self.gpu_bytes or self.config.batch_size != "auto":
            return layer
        read = {layer.info.name, *(ref.info.name for ref in layer.others)}
        values = sum(_values_before(read, model.layers) for model in models)
        colours, targets = len(models[0].network.mean), max(1, len(layer.targets))
        size = gpu_batch(recipe, colours, targets, values, self.gpu_bytes)
        return replace(layer, batch_size=size)


def _values_before(names: Set[str], layers: Sequence[LayerInfo]) -> int:
    """Count the activations of a network up to the last of some layers, for one image."""
    depth = max((info.flops_before for info in layers if info.name in names), default=0)
    parents = {info.name.rpartition(".")[0] for info in layers}
    # What a module returns is counted where it is computed, in the innermost module.
    inner = (info for info in layers if info.name not in parents and info.flops_before <= depth)
    return sum(math.prod(info.shape) for info in inner)


def _further_layers(
    objective: Objective, layer: LayerInfo, model: InspectedModel
) -> list[LayerInfo]:
    """Return the layers that an objective reads besides a target's own. Raises UserError."""
    if not isinstance(objective, StrongestImagesObjective):
        return []
    named = model.choose(objective.layers) if objective.layers else None
    chosen = layers_at_depths(layer, model.layers) if named is None else named
    return [other for other in chosen if other.name != layer.name]


def _module(layer: LayerInfo) -> ModuleInfo:
    return ModuleInfo(layer.name, layer.module_type, layer.shape)


def _model_plan(
    network: Network, recipe: Recipe, layers: tuple[LayerPlan, ...], note: str
) -> ModelPlan:
    return ModelPlan(
        label=network.label,
        network=network.identity,
        input_size=network.input_size,
        recipe=recipe,
        layers=layers,
        note=note,
        origin=network.origin,
        categories=network.categories if recipe.objective.of_dataset else (),
    )


def _feature_source(network: Network, regularizers: Regularizers) -> str:
    """Word where the expected statistics of features come from, if the recipe asks for any."""
    if regularizers.feature_statistics == 0:
        return ""
    if has_batch_norms(network.module):
        return f"feature statistics of {network.label} are those of its batch norms"
    if regularizers.dataset:
        some = f"up to {FEATURE_IMAGES} photographs"
        return f"feature statistics of {network.label}, without batch norms, are those of {some}"
    return (
        f"regularizers.feature_statistics has no effect on {network.label}, which has no batch "
        "norms: add dataset=folder dataset.path=photos"
    )


def _earlier_checks(earlier: Plan | None, model: InspectedModel, precision: str) -> EarlierChecks:
    """The checks of the same network in an earlier plan, if any, for images of the same size.

    In another precision paths are chosen anew.
    """
    layers: dict[str, LayerInfo] = {}
    notes: set[str] = set()
    for planned in earlier.dataset_models if earlier is not None else ():
        read = [(planned.network, layer.info) for layer in planned.layers]
        read += [(ref.network, ref.info) for layer in planned.layers for ref in layer.others]
        own = [info for network, info in read if network == model.network.identity]
        if own and planned.recipe.image_size == model.image_size:
            # Fingerprints are of fp32 and stand in any precision; paths do not.
            same = planned.recipe.precision == precision
            layers |= {info.name: info if same else replace(info, path="") for info in own}
            notes.add(planned.note)
    return EarlierChecks(layers, "; ".join(sorted(filter(None, notes))))


def _target_names(recipe: Recipe, network: Network, sizes: tuple[int, ...]) -> tuple[str, ...]:
    """The names of cells, or of the classes if the targets are the network's classes."""
    if isinstance(recipe.objective, ActivationAtlasObjective):
        return recipe.objective.cell_names
    of_classes = isinstance(recipe.objective, LogitObjective | ProbabilityObjective)
    return network.categories if of_classes and sizes == (len(network.categories),) else ()


def _refuse_all_random(recipe: Recipe, selection: object) -> None:
    objective = recipe.objective
    random = isinstance(objective, DirectionObjective) and not objective.vectors
    if random and selection == "all":
        raise UserError(
            f"there are {RANDOM_DIRECTIONS} random directions; choose some: channels='0:64', or "
            "give a file of directions as objective.vectors."
        )


def terms_of(
    objective: JointObjective, networks: Sequence[tuple[Network, list[LayerInfo]]]
) -> list[NetworkLayer]:
    """Find the layer of each term and its network.

    Args:
        objective: as it is in the config.
        networks: all networks with all their layers; a term without a model is of the first.
    Raises:
        UserError: a term names a layer that its model does not have, or networks differ in colours.
    """
    by_label = {network.label: (network, layers) for network, layers in networks}
    first = networks[0][0].label
    terms = [_layer_of(term.layer, *by_label[term.model or first]) for term in objective.terms]
    colours = {len(network.mean) for network, _ in terms}
    if len(colours) > 1:
        raise UserError(f"the models of a joint objective differ in colours: {sorted(colours)}.")
    return terms


def _layer_of(name: str, network: Network, layers: list[LayerInfo]) -> NetworkLayer:
    matches = match_layers((name,), layers, network.module, network.label)
    if len(matches) > 1:
        raise UserError(
            f"a term of the objective needs one layer, and {name!r} of model {network.label!r} is "
            f"{len(matches)}: {', '.join(match.name for match in matches[:5])}, ..."
        )
    return network, matches[0]


# --- the judge -----------------------------------------------------------------------------------


def plan_judge(config: Config, models: Sequence[ModelPlan], earlier: Plan | None) -> ModelPlan:
    """Plan the network that judges the images of some models, and its layer.

    Raises:
        UserError: it is not one layer, or the judge cannot take the images.
    """
    settings = config.judge
    assert settings is not None
    judge = inspect_judge(settings, config)
    layers = judge.choose(settings.layers or ())
    if len(layers) != 1:
        raise UserError(
            f"judge {settings.name!r} needs one layer, and its layers "
            f"{list(settings.layers or ())} are {len(layers)}: "
            f"judge={{name: {settings.name}, layers: [NAME]}}. `atlas layers "
            f"models=[{settings.name}]` lists them."
        )
    for model in models:
        if model.colours not in (1, 3):
            raise UserError(
                f"images of {model.label} have {model.colours} colours, which a judge of "
                "photographs does not know: take judge=null."
            )
    known = _earlier_checks(earlier, judge, "fp32")
    checked = check_layers(judge, layers, "fp32", may_fall_back=False, earlier=known)
    recipe = replace(models[0].recipe, image_size=judge.image_size, precision="fp32")
    layer = LayerPlan(checked.layers[0], ())
    return replace(_model_plan(judge.network, recipe, (layer,), checked.note), is_judge=True)
