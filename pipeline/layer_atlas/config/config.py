"""The config: frozen records with a docstring per field, and the only module that knows OmegaConf.

`conf/` holds the values, this module their types and meaning. What decides pixels is in `recipe`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from layer_atlas.config.datasets import DatasetConfig, SaliencyMethod
from layer_atlas.config.executors import ExecutorSettings
from layer_atlas.config.inputs import checkpoints_in
from layer_atlas.config.objectives import (
    CustomObjective,
    JointObjective,
    Objective,
    StrongestImagesObjective,
)
from layer_atlas.config.optimizers import Optimizer
from layer_atlas.config.outputs import ExportSettings, Figure, ImagesFigure, LabelSettings
from layer_atlas.config.parameterizations import Mask, Parameterization
from layer_atlas.config.recipe import (
    LARGEST_IMAGE,
    DatasetInit,
    Growth,
    Init,
    NoiseInit,
    Octaves,
    Regularizers,
    SpectrumInit,
    Transforms,
)
from layer_atlas.config.records import Record, build, require, setting
from layer_atlas.errors import UserError, nearest

LARGEST_SHARD = 4096
MOST_CONNECTIONS = 64


def check_scale(name: str, values: Sequence[float]) -> None:
    """Refuse statistics of values from 0 to 255, which would blind a network silently.

    Args:
        name: `mean` or `std`.
        values: one for each colour.
    Raises:
        ValueError: a value does not suit images in [0, 1].
    """
    if name == "std" and not all(value > 0 for value in values):
        raise ValueError(f"std must be above 0, not {list(values)}.")
    least = 0.0 if name == "std" else -1.0
    if not all(least <= value <= 2.0 for value in values):
        smaller = [round(value / 255, 4) for value in values]
        scaled = "does not suit images in [0, 1]; if it is of values from 0 to 255, divide by 255"
        raise ValueError(f"{name} {list(values)} {scaled}: {name}: {smaller}.")


@dataclass(frozen=True)
class ModelConfig(Record):
    """One network of the sweep. A plain text stands for its `name`."""

    name: str
    """Name of the network: `demo`, a torchvision model for classification, segmentation or
    detection, a model of timm (`timm/resnet18`), or, with `target`, any label."""
    label: str | None = None
    """Name of the model in the atlas; the default is its name, `timm-resnet18` for
    `timm/resnet18`."""
    weights: str | None = None
    """Weights of this model, as `weights`; the default is the sweep's."""
    target: str | None = None
    """Dotted name of a callable that returns the network (`mypackage.models.build`,
    `package.Class.from_pretrained`), in an installed package or in the working folder."""
    args: dict[str, Any] | None = None
    """Keyword arguments of that callable, or of the builder of a network of torchvision or timm
    (`{num_classes: 10}`); the default is none."""
    inputs: dict[str, Any] | None = None
    """Fixed values for further arguments of the network's forward pass: `{timestep: [10]}`. A list
    of numbers is a tensor, and so is a file (.npy, .pt, .safetensors); what has one row is repeated
    for every image. Mappings may be nested, and `images` stands for the images:
    `{batch: {image: images}}`. The default is none."""
    weights_key: str | None = None
    """Dotted path of the state dict in the weights file (`model_ema`); `.` is the outermost. The
    default is what fits the network best."""
    weights_prefix: str | None = None
    """Prefix of its names that is stripped (`model.backbone.`); empty strips none. The default is
    what fits the network best."""
    mean: tuple[float, ...] | None = None
    """Mean of the training images for each colour, for images in [0, 1], not 0 to 255; the default
    is that of the weights."""
    std: tuple[float, ...] | None = None
    """Standard deviation of the training images for each colour; the default is that of the
    weights."""
    input_size: int | None = setting(None, at_least=1, at_most=LARGEST_IMAGE)
    """Height and width that the network was trained for, in pixels; the default is that of the
    weights."""
    preprocess: str | dict[str, Any] | None = None
    """Source of `mean`, `std` and `input_size`: `timm` (the config that the network carries), a
    weights enum of torchvision (`ResNet50_Weights.IMAGENET1K_V2`), a .json file of timm or
    transformers, or a mapping as timm's data config. The three settings themselves take
    precedence."""
    layers: tuple[str, ...] | None = None
    """Layers of this model, as `layers`; the default is the sweep's."""
    categories: str | None = None
    """Text file with the names of the network's classes, one per line; the default is the names
    that torchvision or timm have."""

    def check(self) -> None:
        """Check the name, the arguments and the statistics of the training images."""
        require(bool((self.label or self.name).strip()), "name must not be empty.")
        alone = self.args is not None and self.target is None and self.name == "demo"
        require(not alone, "args are for networks of torchvision and timm, and for a target.")
        check_scale("std", self.std or ())
        check_scale("mean", self.mean or ())

    @property
    def title(self) -> str:
        """The model's label in the sweep; a name of timm without its slash, as in file names."""
        return self.label or self.name.replace("timm/", "timm-", 1)


@dataclass(frozen=True)
class CollateSettings(Record):
    """How the montages look, and which pictures accompany them."""

    montage: Literal["grid", "evidence"] = "grid"
    """`grid` makes a picture per layer with a tile per channel; `evidence` adds sheets with a row
    per channel that show its images beside dataset images. `montage=evidence` is short for it."""
    tile: int = setting(128, at_least=16, at_most=2048)
    """Largest size of a tile in pixels. Smaller images are shown as they are."""
    columns: int | None = setting(None, at_least=1)
    """Channels per row; the default is about as many columns as rows."""
    gap: int = setting(6, at_least=0, at_most=256)
    """Space between tiles in pixels."""
    seeds: Literal["row", "grid"] = "row"
    """Several seeds stand side by side in each cell (`row`) or in one grid after the other
    (`grid`)."""
    animations: Literal["none", "strip", "webp", "both"] = "none"
    """With snapshots, every image in the making becomes a `strip` of its frames (PNG), an animated
    `webp` file, or `both`."""
    site: bool = True
    """Whether to make a site to browse the atlas with."""
    map: Literal["none", "umap", "tsne", "pca"] = "none"
    """Projection of the layers' similarity maps on the site, which lay targets of similar response
    side by side: `umap` and `tsne` keep neighbours together and need `layer-atlas[maps]`; `pca`
    shows the two directions of largest variance. `none` makes no such maps."""
    names: dict[str, str] | None = None
    """Names of layers for readers, in montages, sheets and site, and in figures that set none: by
    module or by `MODEL/MODULE`, such as `{features.12.expand3x3: fire 9}`; of channels by
    `MODULE:CHANNEL`."""
    labels: str | None = None
    """CSV file with labels of channels, in columns `layer`, `channel` and `label`, and `model`
    where one label is not for all models. Labels stand beside the channels' numbers wherever
    `names` do, and are checked before anything is computed."""


_ADD_PHOTOGRAPHS = "add dataset=folder dataset.path=photos, or take"


@dataclass(frozen=True, kw_only=True)
class Config(Record):
    """A sweep and how to run it."""

    name: str = setting(needs="not be empty")
    """Name of the output folder."""
    output_root: str
    """Folder of output folders."""
    models: tuple[ModelConfig, ...] = setting(needs="not be empty")
    """The networks: names, or mappings with the keys of `models[]`."""
    weights: str
    """Weights of the models that do not name their own: `default` (published), `none` (random), an
    enum name of torchvision, or a file (.safetensors, .pth, .pt, .ckpt, .bin, .pkl, ...)."""
    checkpoints: str | None = None
    """Folder of the checkpoints of one training run. The one entry of `models` then stands for a
    model per checkpoint, labelled by the name of its file, in natural order: `step_20` stands
    before `step_100`. null takes `models` as they are."""
    layers: tuple[str, ...] | None = setting(needs="not be empty")
    """Globs over layer names, each optionally followed by `@` and a glob over module types. The
    default is every convolution (`*@Conv2d`), or `output` for objectives about classes."""
    channels: Any
    """Targets of each layer: `all`, a range `"0:64"` or `"0:512:16"`, a list of numbers or of class
    names, or `{random: n}`. Combinations of channels are `[[3, 17], [5, 9]]`, `{zip: [...]}` or
    `{product: [...]}`."""
    seeds: tuple[int, ...] = setting(needs="not be empty")
    """Random seeds. Every channel gets one image per seed."""
    image_size: int | tuple[int, int] | Literal["photograph"] | None = setting(
        at_least=1, at_most=LARGEST_IMAGE
    )
    """Height and width of the images in pixels, or one number for squares. `photograph` takes the
    size of the photograph that images start from or are about. The default is each model's own
    input size."""
    keep_prefix_tokens: bool
    """Whether activations include the non-spatial tokens (class token, registers)."""
    precision: Literal["auto", "fp32", "bf16"]
    """Number format of the network during optimization. `auto` is bf16 where the hardware has it
    and, on a CPU, a step is faster in it; else fp32. A sweep that goes on keeps what it has."""
    batch_size: int | Literal["auto"] = setting(at_least=1)
    """Jobs per forward pass, or `auto`. It does not change results on a CPU. On a GPU each batch is
    filled up to it, so that rounding is the same in all; `auto` plans a power of two per layer."""
    shard_size: int = setting(at_least=1, at_most=LARGEST_SHARD)
    """Jobs per shard. Shards are smaller where their pictures would take more than 256 MB."""
    objective: Objective
    """The score that gradient ascent raises."""
    parameterization: Parameterization
    """The tensors that are optimized and become an image."""
    init: Init
    """The image that optimization starts from."""
    mask: Mask | None
    """A mask over a fixed picture, within which images are made; null makes them everywhere."""
    regularizers: Regularizers
    """Penalties that hold the image back."""
    transforms: Transforms
    """Random views of the image that the network sees."""
    optimizer: Optimizer
    """How the image follows the gradient."""
    octaves: Octaves | None
    """Growing sizes at which images are optimized; null optimizes at one size."""
    growth: Growth
    """Smaller sizes at which images from noise are optimized first. Images do not grow with
    octaves, with parameterizations or objectives that may be about one size (`cppn`, `neuron`,
    `custom`), or if a layer does not have the same channels for images of all sizes."""
    snapshots: int = setting(at_least=0)
    """Number of steps between images that are kept; 0 keeps the finished image alone."""
    executor: ExecutorSettings
    """Where workers run."""
    collate: CollateSettings
    """How the montages look."""
    dataset: DatasetConfig | None
    """Dataset images to compare the images with; null compares with none."""
    saliency: SaliencyMethod | None
    """Saliency maps of the strongest dataset images; null makes none. Needs `pip install
    'layer-atlas[saliency]'`."""
    connections: int = setting(12, at_least=0, at_most=MOST_CONNECTIONS)
    """Number of incoming channels whose weights are kept of each channel, of positive weights and
    as many of negative ones, from the layers of the sweep before it; 0 computes no weights."""
    judge: ModelConfig | None = None
    """Another network, with one of its layers, that judges the recognisability of images: a mapping
    with the keys of `models[]`, such as `{name: resnet50, layers: [layer4]}`. It sees the images
    and the dataset images at its own input size. Its weights are the published ones unless it
    names others. null judges nothing."""
    figure: Figure = field(default_factory=ImagesFigure)
    """What `atlas figure` draws."""
    export: ExportSettings = field(default_factory=ExportSettings)
    """What `atlas export` writes."""
    notes: str | None = None
    """File of notes, tags and favourites that a site exported, for `atlas site` to make part of the
    site. They stay in the output folder, so that later sites have them too."""
    labels: LabelSettings = field(default_factory=LabelSettings)
    """What `atlas label` proposes and searches for."""
    versions: Literal["any", "strict"] = "any"
    """Which images count as done when a sweep is resumed. `any` takes images of all versions and
    devices, and reports a mixture. `strict` makes an image again if it was made with another
    version of torch or of the network's package, or on another kind of device, than this run has.
    """

    def check(self) -> None:
        """Check every condition between settings of different groups."""
        differ = len(set(self.seeds)) == len(self.seeds)
        require(differ, f"seeds must differ, not {list(self.seeds)}.")
        self._check_image_size()
        objective = self.objective
        starts_from = "init=dataset, as in quality=natural, starts from photographs"
        for is_set, reader, without in (
            (self.saliency is not None, "saliency maps are of photographs", "saliency=none"),
            (self.judge is not None, "a judge chooses between photographs", "judge=null"),
            (isinstance(self.init, DatasetInit), starts_from, "init=noise or another quality"),
        ):
            has_photographs = self.dataset is not None or not is_set
            require(has_photographs, f"{reader}: {_ADD_PHOTOGRAPHS} {without}.")
        self._check_start()
        self._check_strongest()
        self._check_atlas()
        compared = objective.of_channels or objective.of_dataset or objective.dataset_images
        require(
            self.dataset is None or bool(compared),
            "photographs are compared with images of channels, which "
            f"objective={objective.name} as it is set does not make: take dataset=none.",
        )
        require(
            self.octaves is None or objective.of_any_size,
            f"octaves optimize at several sizes, and objective={objective.name} is about one: "
            "take octaves=none.",
        )
        if isinstance(objective, JointObjective):
            self._check_terms(objective)

    @property
    def can_grow(self) -> bool:
        """Whether images may have smaller sizes first, as far as networks do not matter."""
        return (
            self.octaves is None
            and self.objective.of_any_size
            and not isinstance(self.objective, CustomObjective)  # which may count positions
            and isinstance(self.init, NoiseInit | SpectrumInit)
            and not self.parameterization.from_noise_alone
        )

    def _check_start(self) -> None:
        # Every start but noise, and every octave but the first, needs the parameters of a picture.
        if not self.parameterization.from_noise_alone:
            return
        chosen = self.parameterization.name
        require(
            isinstance(self.init, NoiseInit),
            f"parameterization={chosen} starts from noise alone: what gives a picture back is not "
            f"known. Take init=noise instead of init={self.init.name}, and not quality=natural; "
            "or another parameterization.",
        )
        require(
            self.octaves is None,
            f"octaves start from pictures, and parameterization={chosen} from noise alone: take "
            "octaves=none or another parameterization.",
        )

    def _check_strongest(self) -> None:
        if not isinstance(self.objective, StrongestImagesObjective):
            return
        if self.dataset is None:
            raise ValueError(
                f"objective={self.objective.name} matches photographs: {_ADD_PHOTOGRAPHS} "
                "objective=channel."
            )
        require(
            self.objective.top <= self.dataset.top,
            f"objective.top={self.objective.top} photographs of each channel are more than the "
            f"{self.dataset.top} that are kept: set dataset.top={self.objective.top}.",
        )
        require(
            self.judge is None or self.objective.variants == 1,
            f"a judge looks at one image per channel, and objective={self.objective.name} makes "
            "several: take judge=null.",
        )

    def _check_atlas(self) -> None:
        """Check that the images of a map's cells ask for nothing that only channels have."""
        if not self.objective.of_dataset:
            return
        name = f"objective={self.objective.name}"
        missing = f"{name} maps photographs: {_ADD_PHOTOGRAPHS} objective=channel."
        require(self.dataset is not None, missing)
        require(
            not isinstance(self.init, DatasetInit),
            "init=dataset, as in quality=natural, starts from photographs of a channel, and "
            f"{name} has none: take init=noise or another quality.",
        )
        require(
            self.saliency is None and self.judge is None,
            f"a judge and saliency maps are about photographs of channels, and {name} has cells: "
            "take judge=null saliency=none.",
        )

    def _check_terms(self, objective: JointObjective) -> None:
        labels = [model.title for model in self.models]
        for term in objective.terms:
            if not term.model and len(labels) > 1:
                raise ValueError(
                    f"the term of layer {term.layer!r} must name its model: {', '.join(labels)}."
                )
            if term.model and term.model not in labels:
                known = nearest(term.model, labels, most=len(labels))
                raise ValueError(f"a term names model {term.model!r}; models has: {known}.")
        # A model without a term would be loaded for nothing.
        idle = set(labels) - {term.model or labels[0] for term in objective.terms}
        require(not idle, f"no term of the objective is of model {min(idle, default='')!r}.")
        in_terms = "objective=joint names its layers in its terms; remove layers=..."
        require(self.layers is None, in_terms)

    @property
    def photograph(self) -> str | None:
        """File of the photograph that images start from or are about, if there is one."""
        paths = (getattr(record, "photograph", None) for record in (self.init, self.objective))
        return next((path for path in paths if path), None)

    def _check_image_size(self) -> None:
        require(
            self.image_size != "photograph" or self.photograph is not None,
            "image_size=photograph needs one: init=photograph init.photograph=photo.jpg, or an "
            "objective about a photograph.",
        )
        sides = self.image_size if isinstance(self.image_size, tuple) else (1, 1)
        require(
            self.dataset is None or sides[0] == sides[1],
            "photographs are shown as squares, so images must be squares too: give one number "
            f"instead of image_size={list(sides)}, or dataset=none.",
        )


def config_folder() -> Path:
    """Return the folder of YAML files: in the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parents[1] / "conf"


def make_config(values: Any) -> Config:
    """Check what Hydra composed and freeze it.

    Raises:
        UserError: an unknown key, a value of the wrong type or out of range, models of one label.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    try:
        plain = OmegaConf.to_container(values, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} is missing and has no default.") from error
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {str(error).splitlines()[0]}.") from error
    assert isinstance(plain, Mapping)
    expanded: dict[str, Any] = {str(key): value for key, value in plain.items()}
    # Shorthands become what the records describe, before anything is checked.
    expanded["models"] = _expand_models(expanded.get("models"))
    if isinstance(expanded.get("judge"), str):
        expanded["judge"] = {"name": expanded["judge"]}
    if "figure" in expanded:
        expanded["figure"] = _expand_groups(expanded["figure"])
    config = build(Config, expanded)
    if config.checkpoints is not None:
        # What is recorded names every checkpoint, whatever the folder holds later.
        models = _of_training_run(config, config.checkpoints)
        config = replace(config, models=models, checkpoints=None)
    # Models inherit from the sweep here, so that nothing later needs to know both.
    models = tuple(_with_defaults(model, config) for model in config.models)
    return replace(config, models=models, judge=_as_judge(config.judge))


def _expand_models(models: Any) -> Any:
    entries = [models] if isinstance(models, str | Mapping) else models
    if not isinstance(entries, list):
        return entries
    return [{"name": entry} if isinstance(entry, str) else entry for entry in entries]


def _of_training_run(config: Config, folder: str) -> tuple[ModelConfig, ...]:
    """A model for each checkpoint of a folder. Raises UserError."""
    if len(config.models) > 1 or config.models[0].weights is not None:
        raise UserError(
            f"checkpoints={folder!r} are of one network: give models one entry, without weights of "
            "its own, such as models=[resnet18]."
        )
    found = checkpoints_in(folder).items()
    return tuple(replace(config.models[0], label=name, weights=path) for name, path in found)


def _expand_groups(figure: Any) -> Any:
    """Groups by their names as a list, which keeps their order wherever it is written."""
    panels = figure.get("panels") if isinstance(figure, Mapping) else None
    if isinstance(panels, list):
        figure = {**figure, "panels": [_expand_groups(panel) for panel in panels]}
    groups = figure.get("groups") if isinstance(figure, Mapping) else None
    if groups is None or isinstance(groups, list):
        return figure
    if not isinstance(groups, Mapping):
        raise UserError(
            f"figure.groups={groups!r} must be names with the channels of each, such as "
            "{curves: [3, 17], colours: '0:8'}."
        )
    listed = [{"name": str(name), "channels": which} for name, which in groups.items()]
    return {**figure, "groups": listed}


def _as_judge(judge: ModelConfig | None) -> ModelConfig | None:
    """The judge under a label of its own, because its network may be a model of the sweep too."""
    if judge is None:
        return None
    return replace(judge, label=f"judge-{judge.title}", weights=judge.weights or "default")


def _with_defaults(model: ModelConfig, config: Config) -> ModelConfig:
    if [other.title for other in config.models].count(model.title) > 1:
        raise UserError(
            f"two models are called {model.title!r}; give each its own name: "
            f"models=[{{name: {model.name}, label: first, ...}}, ...]."
        )
    return replace(
        model,
        weights=model.weights if model.weights is not None else config.weights,
        layers=model.layers or config.layers or config.objective.own_layers,
    )
