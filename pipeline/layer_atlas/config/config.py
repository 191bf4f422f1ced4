"""The config: frozen records with a docstring per field, and the only module that knows OmegaConf.

`conf/` holds the values, this module their types and meaning. What decides pixels is in `recipe`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from layer_atlas.config.datasets import DatasetConfig, SaliencyMethod
from layer_atlas.config.executors import ExecutorSettings
from layer_atlas.config.figures import Figure, ImagesFigure
from layer_atlas.config.objectives import JointObjective, Objective
from layer_atlas.config.optimizers import Optimizer
from layer_atlas.config.parameterizations import FROM_NOISE_ALONE, Mask, Parameterization
from layer_atlas.config.ranges import within
from layer_atlas.config.recipe import (
    LARGEST_IMAGE,
    DatasetInit,
    Init,
    NoiseInit,
    Octaves,
    Regularizers,
)
from layer_atlas.config.records import build, choice_name
from layer_atlas.config.transforms import Transforms
from layer_atlas.errors import UserError, nearest_first

LARGEST_SHARD = 4096


@dataclass(frozen=True)
class ModelConfig:
    """One network of the sweep. A plain text stands for its `name`."""

    name: str
    """`demo`, a torchvision model for classification, segmentation or detection, a model of timm
    (`timm/resnet18`), or, with `target`, any label."""
    label: str | None = None
    """How the model is called in the atlas; default: its name, `timm-resnet18` for
    `timm/resnet18`."""
    weights: str | None = None
    """`default`, `none`, a torchvision weights enum, or a file; default: the sweep's `weights`."""
    target: str | None = None
    """Dotted name of a callable that returns the network (`mypackage.models.build`)."""
    args: dict[str, Any] | None = None
    """Keyword arguments of that callable."""
    mean: tuple[float, ...] | None = None
    """Mean of the training images per colour, for images in [0, 1], not 0 to 255."""
    std: tuple[float, ...] | None = None
    """Standard deviation of the same."""
    input_size: int | None = None
    """Height and width that the network was trained for."""
    layers: tuple[str, ...] | None = None
    """Layers of this model; default: the sweep's `layers`."""
    categories: str | None = None
    """Text file with the names of the classes that it tells apart, one per line; default: those
    that torchvision or timm know."""

    def __post_init__(self) -> None:
        if not (self.label or self.name).strip():
            raise ValueError("name must not be empty.")
        if self.args is not None and self.target is None:
            raise ValueError("args are for a callable of your own; give its name as target.")
        self._check_scale()
        if self.input_size is not None:
            within(1, LARGEST_IMAGE, input_size=self.input_size)

    def _check_scale(self) -> None:
        """Refuse statistics of values from 0 to 255, which would blind a network silently."""
        if self.std is not None and not all(value > 0 for value in self.std):
            raise ValueError(f"std must be above 0, not {list(self.std)}.")
        scaled = "does not suit images in [0, 1]; if it is of values from 0 to 255, divide by 255"
        for name, least, most in (("mean", -1.0, 2.0), ("std", 0.0, 2.0)):
            values = getattr(self, name) or ()
            if not all(least <= value <= most for value in values):
                smaller = [round(value / 255, 4) for value in values]
                raise ValueError(f"{name} {list(values)} {scaled}: {name}: {smaller}.")

    @property
    def title(self) -> str:
        """The model's label in the sweep; a name of timm's without its slash, as of files."""
        return self.label or self.name.replace("timm/", "timm-", 1)


@dataclass(frozen=True)
class CollateSettings:
    """How the montages look, and what pictures there are besides."""

    montage: Literal["grid", "evidence"] = "grid"
    """`grid`: a picture per layer, a tile per channel; `evidence`: besides, sheets with a row per
    channel that show its images beside photographs."""
    tile: int = 128
    """Largest size of a tile, in pixels; smaller images are shown as they are."""
    columns: int | None = None
    """Channels per row; default: about as many columns as rows."""
    gap: int = 6
    """Space between tiles, in pixels."""
    seeds: Literal["row", "grid"] = "row"
    """Several seeds: side by side in each cell (`row`), or one grid after the other (`grid`)."""
    animations: Literal["none", "strip", "webp", "both"] = "none"
    """Every image on its way, of a sweep with snapshots: as a strip of its frames, as an animated
    WebP file, or as both."""
    site: bool = True
    """Make a site to browse the atlas with."""

    def __post_init__(self) -> None:
        if not 16 <= self.tile <= 2048:
            raise ValueError(f"tile must be 16 to 2048, not {self.tile}.")
        if self.columns is not None and self.columns < 1:
            raise ValueError(f"columns must be 1 or more, not {self.columns}.")
        if not 0 <= self.gap <= 256:
            raise ValueError(f"gap must be 0 to 256, not {self.gap}.")


_ADD_PHOTOGRAPHS = "add dataset=folder dataset.path=photos, or take"


@dataclass(frozen=True)
class Config:
    """A sweep and how to run it."""

    name: str
    """Name of the output folder."""
    output_root: str
    """Folder of output folders."""
    models: tuple[ModelConfig, ...]
    """The networks."""
    weights: str
    """Weights of the models that do not name their own."""
    layers: tuple[str, ...] | None
    """Globs over layer names, each optionally followed by `@` and a glob over module types;
    default: every convolution, or what the objective is about."""
    channels: Any
    """`all`, a range `"0:64"` or `"0:512:16"`, a list of numbers or of class names, or
    `{random: n}`; where channels are combined, `[[3, 17], [5, 9]]`, `{zip: [...]}` or
    `{product: [...]}`."""
    seeds: tuple[int, ...]
    """One image per channel and seed."""
    image_size: int | tuple[int, int] | Literal["photograph"] | None
    """Height and width of the images, in pixels; one number for squares; `photograph`: as large as
    the one that they start from or are about; default: each model's own input size."""
    keep_prefix_tokens: bool
    """Whether tokens that are no positions (class token, registers) belong to activations."""
    precision: Literal["auto", "fp32", "bf16"]
    """Number format of the network during ascent; `auto`: bf16 where the hardware has it."""
    batch_size: int | Literal["auto"]
    """Jobs per forward pass; does not change results."""
    shard_size: int
    """Jobs per shard; fewer where their pictures would take more than 256 MB."""
    objective: Objective
    parameterization: Parameterization
    init: Init
    mask: Mask | None
    """Make images only within a mask over a fixed picture; `null` for everywhere."""
    regularizers: Regularizers
    transforms: Transforms
    optimizer: Optimizer
    octaves: Octaves | None
    """Climb at growing sizes; `null` for one size."""
    snapshots: int
    """Keep the image every so many steps; 0: only the finished one."""
    executor: ExecutorSettings
    collate: CollateSettings
    dataset: DatasetConfig | None
    """Photographs to compare the images with; `null` for none."""
    saliency: SaliencyMethod | None
    """Saliency maps of the strongest photographs; `null` for none."""
    figure: Figure = field(default_factory=ImagesFigure)
    """What `atlas figure` draws."""
    versions: Literal["any", "strict"] = "any"
    """Which images count as done when a sweep goes on. `any` takes images of all versions and
    devices, and reports a mixture. `strict` makes an image again if it was made with another
    version of torch or of the network's package, or on another kind of device, than this run has.
    """

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ValueError("name must not be empty.")
        for name in ("models", "layers", "seeds"):
            if getattr(self, name) == ():
                raise ValueError(f"{name} must not be empty.")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must differ, not {list(self.seeds)}.")
        self._check_image_size()
        if self.batch_size != "auto" and self.batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, not {self.batch_size}.")
        if self.dataset is None and self.saliency is not None:
            raise ValueError(f"saliency maps are of photographs: {_ADD_PHOTOGRAPHS} saliency=none.")
        if self.dataset is None and isinstance(self.init, DatasetInit):
            which = "init=dataset, as in quality=natural, starts from photographs"
            raise ValueError(f"{which}: {_ADD_PHOTOGRAPHS} init=noise or another quality.")
        self._check_start()
        if self.snapshots < 0:
            raise ValueError(f"snapshots must be 0 or more, not {self.snapshots}.")
        chosen = choice_name(type(self.objective))
        if self.dataset is not None and not self.objective.of_channels:
            raise ValueError(
                f"photographs are compared with images of channels, which objective={chosen} as it "
                "is set does not make: take dataset=none."
            )
        if self.octaves is not None and not self.objective.of_any_size:
            raise ValueError(
                f"octaves climb at several sizes, and objective={chosen} is about one: take "
                "octaves=none."
            )
        if isinstance(self.objective, JointObjective):
            self._check_terms(self.objective)
        if not 1 <= self.shard_size <= LARGEST_SHARD:
            raise ValueError(f"shard_size must be 1 to {LARGEST_SHARD}, not {self.shard_size}.")

    def _check_start(self) -> None:
        if not isinstance(self.parameterization, FROM_NOISE_ALONE):
            return
        chosen = choice_name(type(self.parameterization))
        if not isinstance(self.init, NoiseInit):
            raise ValueError(
                f"parameterization={chosen} starts from noise alone: what gives a picture back is "
                f"not known. Take init=noise instead of init={choice_name(type(self.init))}, and "
                "not quality=natural; or another parameterization."
            )
        if self.octaves is not None:
            raise ValueError(
                f"octaves start from pictures, and parameterization={chosen} from noise alone: "
                "take octaves=none or another parameterization."
            )

    def _check_terms(self, objective: JointObjective) -> None:
        labels = [model.title for model in self.models]
        for term in objective.terms:
            if not term.model and len(labels) > 1:
                raise ValueError(
                    f"the term of layer {term.layer!r} must name its model: {', '.join(labels)}."
                )
            if term.model and term.model not in labels:
                nearest = ", ".join(nearest_first(term.model, labels))
                raise ValueError(f"a term names model {term.model!r}; models has: {nearest}.")
        idle = set(labels) - {term.model or labels[0] for term in objective.terms}
        if idle:
            raise ValueError(f"no term of the objective is of model {min(idle)!r}.")
        if self.layers is not None:
            raise ValueError("objective=joint names its layers in its terms; leave out layers.")

    @property
    def photograph(self) -> str | None:
        """The file of the photograph that images start from or are about, if there is one."""
        found = (getattr(record, "photograph", None) for record in (self.init, self.objective))
        return next((path for path in found if path), None)

    def _check_image_size(self) -> None:
        if self.image_size == "photograph":
            if self.photograph is None:
                raise ValueError(
                    "image_size=photograph needs one: init=photograph init.photograph=photo.jpg, "
                    "or an objective about a photograph."
                )
            return
        size = 1 if self.image_size is None else self.image_size
        sides = size if isinstance(size, tuple) else (size, size)
        if not all(1 <= side <= LARGEST_IMAGE for side in sides):
            raise ValueError(f"image_size must be 1 to {LARGEST_IMAGE}, not {self.image_size}.")
        if self.dataset is not None and sides[0] != sides[1]:
            raise ValueError(
                f"photographs are shown as squares, so images must be squares too: give one number "
                f"instead of image_size={list(sides)}, or dataset=none."
            )


def config_folder() -> Path:
    """Where the YAML files are: in the installed package, or beside it in a checkout."""
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
    expanded["models"] = _expand_models(expanded.get("models"))
    if "figure" in expanded:
        expanded["figure"] = _expand_groups(expanded["figure"])
    config = build(Config, expanded)
    return replace(config, models=tuple(_with_defaults(m, config) for m in config.models))


def _expand_models(models: Any) -> Any:
    entries = [models] if isinstance(models, str | Mapping) else models
    if not isinstance(entries, list):
        return entries
    return [{"name": entry} if isinstance(entry, str) else entry for entry in entries]


def _expand_groups(figure: Any) -> Any:
    """Groups by their names as a list, which keeps their order wherever it is written."""
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
