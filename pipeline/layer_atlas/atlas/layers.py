"""Models and layers of an atlas: images, statistics and dataset images of channels."""

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layer_atlas.atlas.connections import LayerConnections
from layer_atlas.atlas.display import in_colour, sheet
from layer_atlas.atlas.frames import labelled_arrays, layer_frame
from layer_atlas.errors import UserError, unknown
from layer_atlas.plan.environment import Environment, parse_environment
from layer_atlas.plan.jobs import STATUS, WITHOUT_IMAGE, named
from layer_atlas.plan.labels import given_name
from layer_atlas.plan.targets import Sampling, TargetSpace

_COMPARABLE = ("agreement", "selectivity")
"""Defaults in order of preference. Percentiles compare too, but optimized images tie at 100."""

_OWN_SCALE = frozenset(
    {
        *("activation", "activation_robust", "activation_max"),
        *("dataset/min", "dataset/max", "dataset/mean", "dataset/std"),
    }
)
"""Statistics in the unit of a channel's own responses, which differs between channels."""


def default_ranking(layer: "Layer") -> str:
    """Choose the statistic that ranks the channels of a layer by default.

    Agreement with dataset images or, without a dataset, selectivity: both compare between channels.
    One in which most images tie for the best ranks nothing: selectivity is 1 for most channels
    before their activation function. Then, and for objectives without responses of channels, such
    as class scores, activations are left, which are on a scale of their own in each channel.
    """
    choices = (name for name in _COMPARABLE if name in layer.statistics)
    ranking = next((name for name in choices if _tells_apart(layer[name])), None)
    return ranking or ("activation_robust" if "activation_robust" in layer else "activation")


def _tells_apart(values: NDArray[Any]) -> bool:
    """Whether at most half of the known values are the largest."""
    known = values[np.isfinite(values)]
    return known.size < 2 or bool((known == known.max()).mean() <= 0.5)


def is_on_own_scale(statistic: str) -> bool:
    """Whether the scale of a statistic differs between channels."""
    return statistic in _OWN_SCALE


if TYPE_CHECKING:
    import pandas
    import xarray

_JOB_AXES = ("channel", "seed", "variant")
_OF_NETCDF = {"DIMENSION_LIST", "DIMENSION_LABELS", "REFERENCE_LIST", "CLASS", "NAME"}
"""Attributes by which netCDF readers find the axes of a dataset."""

_NO_STATISTICS = {"status", "best_seed_index", "made_with"}
"""Datasets of codes and indices, which no ranking may use."""

_LARGEST_GRID = 1000
"""Cells per side of a map; more would be made up."""

SHOWN = 64
"""Most images that a notebook shows of an atlas or a layer."""


@dataclass(frozen=True)
class Model:
    """A model of an atlas."""

    group: h5py.Group
    layer_type: "type[Layer]"

    @property
    def name(self) -> str:
        """Label of the model."""
        return name_of(self.group)

    @property
    def weights(self) -> str:
        """Its weights in words; empty in atlases of older versions."""
        return str(self.facts.get("weights", ""))

    @property
    def preprocessing(self) -> str:
        """Mean, standard deviation and input size with their sources, in words."""
        return str(self.facts.get("preprocessing", ""))

    @property
    def title(self) -> str:
        """Its label, with a note if its weights are random."""
        return named(self.name, self.weights)

    @cached_property
    def layers(self) -> dict[str, "Layer"]:
        """Layers by name."""
        layers = (self.layer_type(self, group) for group in groups(self.group))
        return {layer.name: layer for layer in layers}

    @property
    def facts(self) -> dict[str, Any]:
        """Attributes: source, weights, preprocessing, weights_sha256, mean, std, input_size."""
        return dict(self.group.attrs)


@dataclass(frozen=True)
class Layer:
    """A layer of an atlas: C channels (targets), S seeds."""

    model: Model
    group: h5py.Group
    given: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Names of layers and labels of channels for readers, as `collate.names` has them."""

    @property
    def name(self) -> str:
        """Dotted name of the module."""
        return name_of(self.group)

    @property
    def given_name(self) -> str:
        """Name for readers in place of that of the module; empty if none is given."""
        return given_name(self.given, self.model.name, self.name)

    @property
    def reader_name(self) -> str:
        """Name for readers: the one that was given, or that of the module."""
        return self.given_name or self.name

    def called(self, names: Mapping[str, str] | None) -> "Layer":
        """The layer under the names that readers know it and its channels by.

        Args:
            names: by `model/layer`, which goes first, or by layer; of channels by `layer:17`.
        """
        return replace(self, given=names) if names else self

    @property
    def title(self) -> str:
        """`model/layer`."""
        return f"{self.model.name}/{self.name}"

    @property
    def facts(self) -> dict[str, Any]:
        """Attributes: module_type, n_channels, activation_shape, flops_share and others."""
        return dict(self.group.attrs)

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """Recipe of the images."""
        return dict(json.loads(self.group.attrs["recipe"]))

    @cached_property
    def sampling(self) -> Sampling:
        """How the targets were chosen among those of the layer."""
        facts = self.facts
        return Sampling(
            _json(facts.get("selection", "null")),
            self.channels,
            _whole(facts.get("n_targets", facts.get("n_channels"))) or len(self.channels),
            str(facts.get("target", "channel")),
        )

    @cached_property
    def channels(self) -> list[int]:
        """Indices of the channels (C,)."""
        return [int(channel) for channel in self["channel"]]

    @cached_property
    def seeds(self) -> list[int]:
        """Seeds (S,)."""
        return [int(seed) for seed in self["seed"]]

    @cached_property
    def variants(self) -> list[str]:
        """Names of the images of a job; empty if a job has one image."""
        return self._texts("variant")

    @cached_property
    def steps(self) -> list[int]:
        """Steps of the snapshots; empty if there are none."""
        return [int(step) for step in self["step"]] if "step" in self else []

    @cached_property
    def channel_names(self) -> list[str]:
        """Names of the classes, where channels are classes that have names; else empty."""
        return self._texts("channel_name")

    @property
    def has_names(self) -> bool:
        """Whether channels have labels besides their indices: class names, combinations."""
        return bool(self.channel_names) or "part_channel" in self or any(self.given_labels)

    @property
    def job_shape(self) -> tuple[int, ...]:
        """Number of channels, of seeds and, where a job has several images, of variants."""
        shape = (len(self.channels), len(self.seeds))
        return (*shape, len(self.variants)) if self.variants else shape

    @cached_property
    def labels(self) -> list[str]:
        """Labels of the channels, such as `5`, `207 golden retriever` or `3+17` (a combination)."""
        names = self.channel_names or [""] * len(self.channels)
        columns = zip(self.numbers, self.given_labels, names, strict=True)
        return [f"{number} {given or name}".rstrip() for number, given, name in columns]

    @cached_property
    def numbers(self) -> list[str]:
        """Numbers of the channels as texts, such as `5` or `3+17` (a combination)."""
        if "part_channel" in self:
            return ["+".join(map(str, parts)) for parts in self["part_channel"].tolist()]
        return list(map(str, self.channels))

    @cached_property
    def given_labels(self) -> list[str]:
        """Labels of a user's own for the channels; empty where none is given."""
        return [given_name(self.given, self.model.name, self.name, n) for n in self.numbers]

    @property
    def target_space(self) -> TargetSpace:
        """The targets that labels may be given to, as far as the atlas knows them."""
        if "part_channel" in self:
            return TargetSpace(tuple((self["part_channel"].max(axis=0, initial=0) + 1).tolist()))
        known = _whole(self.facts.get("n_targets", self.facts.get("n_channels")))
        return TargetSpace((max(known, 1 + max(self.channels, default=0)),))

    @property
    def has_images(self) -> bool:
        """Whether any image of the layer has been made."""
        return not np.isin(self.status, WITHOUT_IMAGE).all()

    @cached_property
    def status(self) -> NDArray[np.uint8]:
        """Outcome of each job (C, S), as a code of `STATUS`."""
        return self["status"]

    @cached_property
    def environments(self) -> list[Environment | None]:
        """Environments by their index in `made_with`; `None` for an unknown one."""
        return [parse_environment(text) for text in self._texts("environment")] or [None]

    def made_with(self, channels: Sequence[int] | None = None) -> "Counter[Environment | None]":
        """Count the images of some channels (default: all) by environment."""
        rows = [self.row(channel) for channel in (self.channels if channels is None else channels)]
        made = ~np.isin(self.status[rows], WITHOUT_IMAGE)
        codes = self["made_with"][rows] if "made_with" in self else np.zeros_like(made, np.int64)
        counts: Counter[Environment | None] = Counter()
        for code, count in zip(*np.unique(codes[made], return_counts=True), strict=True):
            known = self.environments[code] if code < len(self.environments) else None
            counts[known] += int(count) * max(1, len(self.variants))
        return counts

    def __contains__(self, name: str) -> bool:
        """Whether there is a dataset of this name, such as `agreement` or `dataset/top_score`."""
        return self._found(name) is not None

    def __getitem__(self, name: str) -> NDArray[Any]:
        """A whole dataset. Raises UserError with the nearest names if there is none."""
        return np.asarray(self.dataset(name)[()])

    def dataset(self, name: str) -> h5py.Dataset:
        """A dataset to read in parts. Raises UserError as `[]` does."""
        dataset = self._found(name)
        if dataset is None:
            raise unknown(f"dataset of {self.title}", name, self.names)
        return dataset

    def _found(self, name: str) -> h5py.Dataset | None:
        # A site asks for the same few names once per channel, and the file is walked each time.
        if name not in self._known:
            item = own(self.group, name)
            self._known[name] = item if isinstance(item, h5py.Dataset) else None
        return self._known[name]

    @cached_property
    def _known(self) -> dict[str, h5py.Dataset | None]:
        return {}

    @property
    def names(self) -> list[str]:
        """Names of the datasets."""
        names: list[str] = []
        self.group.visititems(lambda name, item: names.append(name) if is_data(item) else None)
        return names

    def attributes(self, name: str) -> dict[str, Any]:
        """Attributes of a dataset: `description`; of `recognisability` also `judge`, `shuffled`.

        Raises UserError as `[]` does.
        """
        attributes = self.dataset(name).attrs
        return {key: attributes[key] for key in attributes if key not in _OF_NETCDF}

    def row(self, channel: int) -> int:
        """Row of a channel in the datasets. Raises UserError if there is none."""
        if channel not in self._rows:
            raise unknown(f"channel of {self.title}", channel, map(str, self.channels))
        return self._rows[channel]

    @cached_property
    def _rows(self) -> dict[int, int]:
        return {channel: row for row, channel in enumerate(self.channels)}

    @property
    def images(self) -> NDArray[np.uint8]:
        """All images (C, S, H, W, colours); with variants (C, S, V, H, W, colours)."""
        return self["image"]

    def image(
        self,
        channel: int,
        seed: int | None = None,
        variant: str | None = None,
        step: int | None = None,
    ) -> Image.Image:
        """The image of a channel as a PIL image; of other than three colours, as RGB.

        Args and errors are those of `pixels`.
        """
        return Image.fromarray(in_colour(self.pixels(channel, seed, variant, step)))

    def pixels(
        self,
        channel: int,
        seed: int | None = None,
        variant: str | None = None,
        step: int | None = None,
    ) -> NDArray[np.uint8]:
        """The image (H, W, colours) of a channel.

        Args:
            channel: its index.
            seed: default: the first one.
            variant: default: the first one.
            step: step of a snapshot; default: the finished image.
        Raises:
            UserError: there is no such channel, seed, variant or step.
        """
        place = self.place(channel, seed, variant)
        if step is None:
            return np.asarray(self.dataset("image")[place])
        return np.asarray(self.dataset("snapshot")[(*place, _index("step", step, self.steps))])

    def lead(self, channel: int) -> NDArray[np.uint8]:
        """The image (H, W, colours) of a channel by the seed that represents it."""
        return self.pixels(channel, self.seeds[int(self._leads[self.row(channel)])])

    @cached_property
    def _leads(self) -> NDArray[np.intp]:
        return self.leads()

    def place(
        self, channel: int, seed: int | None = None, variant: str | None = None
    ) -> tuple[int, ...]:
        """Index of an image along the first axes of datasets: channel, seed and variant."""
        place = (self.row(channel), _index("seed", seed, self.seeds))
        return (*place, _index("variant", variant, self.variants)) if self.variants else place

    def dataset_images(
        self, channel: int, end: Literal["top", "bottom"] = "top"
    ) -> list[NDArray[np.uint8]]:
        """Dataset images (H, W, 3) that a channel responds to most or least, the extreme one first.

        As many as the atlas holds: none for a sweep without a dataset.
        """
        if f"dataset/{end}_jpeg" not in self:
            return []
        files = self.dataset(f"dataset/{end}_jpeg")[self.row(channel)]
        return [_jpeg(file.tobytes()) for file in files if len(file)]

    def proposed_labels(self, channel: int) -> dict[str, list[tuple[str, float]]]:
        """Labels that an encoder proposes for a channel, the best first, with their scores.

        Returns: by the images that it goes by, `dataset` and `optimized`, as far as `atlas label`
            had such; empty without it. The attributes of the group `words` name the encoder.
        Raises UserError if there is no such channel.
        """
        row, found = self.row(channel), dict[str, list[tuple[str, float]]]()
        for source in self.label_sources:
            texts = self.dataset(f"words/{source}_label").asstr()[row]
            scores = self.dataset(f"words/{source}_label_score")[row]
            pairs = zip(texts.tolist(), scores.tolist(), strict=True)
            found[source] = [(text, score) for text, score in pairs if text]
        return found

    @property
    def label_sources(self) -> list[str]:
        """The kinds of images by which labels are proposed: `dataset`, `optimized`."""
        return [s for s in ("dataset", "optimized") if f"words/{s}_label" in self]

    @property
    def label_facts(self) -> dict[str, str]:
        """By whom the channels were embedded: `encoder`, `vocabulary`, `prompt` and others."""
        words = own(self.group, "words")
        is_there = isinstance(words, h5py.Group)
        return {k: str(v) for k, v in words.attrs.items()} if is_there else {}

    def sample_pictures(self, cell: int) -> dict[int, NDArray[np.uint8]]:
        """Pictures (H, W, 3) of the samples closest to the mean of a cell of a map, by their rank.

        An image that could not be read has none. Raises UserError if there is no such cell.
        """
        files = self.dataset("cell_jpeg")[self.row(cell)] if self.has_map else []
        return {rank: _jpeg(file.tobytes()) for rank, file in enumerate(files) if len(file)}

    @property
    def has_map(self) -> bool:
        """Whether the targets are the cells of a map: the layer is one of an activation atlas."""
        return "cell_grid" in self and "grid" in self

    @cached_property
    def grids(self) -> list[int]:
        """Cells per side of each grid of the map; empty if the layer has none."""
        return [int(side) for side in self["grid"]] if self.has_map else []

    def cells(self, side: int) -> NDArray[np.int64]:
        """Targets (side, side) of the cells of a grid, row by row from the top; -1 where empty.

        Raises:
            UserError: the layer has no such grid, or the atlas names impossible cells.
        """
        if side not in self.grids:
            if not self.has_map:
                raise UserError(
                    f"{self.title} has no map; objective=activation_atlas makes one of a layer."
                )
            raise unknown(f"grid of {self.title}", side, map(str, self.grids))
        rows = np.flatnonzero(self["cell_grid"] == side)
        row, column = (self[name][rows] for name in ("cell_row", "cell_column"))
        within = all(((axis >= 0) & (axis < side)).all() for axis in (row, column))
        if not 0 < side <= _LARGEST_GRID or not within:
            raise UserError(f"the map of {self.title} has impossible cells.")
        found = np.full((side, side), -1, np.int64)
        found[row, column] = self["channel"][rows]
        return found

    def members(self, cell: int) -> list[int]:
        """Samples in a cell, the closest to its mean first: rows of `sample_image` and others.

        Raises UserError if there is no such cell.
        """
        grid = self.grids.index(int(self["cell_grid"][self.row(cell)]))
        inside = np.flatnonzero(self.dataset("sample_cell")[:, grid] == cell)
        closeness = self.dataset("sample_closeness")[:, grid][inside]
        return [int(row) for row in inside[np.argsort(-closeness, kind="stable")]]

    def cell_classes(self, cell: int) -> dict[str, float]:
        """Classes that a cell supports, the most supported first, with what it adds to their score.

        Empty where the network has no class scores. Raises UserError if there is no such cell.
        """
        if "cell_class" not in self:
            return {}
        row, names = self.row(cell), self._class_names
        classes = self.dataset("cell_class")[row]
        pairs = zip(classes, self.dataset("cell_class_attribution")[row], strict=True)
        return {
            names[k] if k < len(names) else f"class {k}": float(value)
            for k, value in pairs
            if value > 0
        }

    @cached_property
    def _class_names(self) -> list[str]:
        return self._texts("class_name")

    @cached_property
    def statistics(self) -> dict[str, str]:
        """Descriptions of the datasets that have one number per channel, job or image."""
        shape = (len(self.channels), len(self.seeds), len(self.variants))
        return {
            name: str(self.dataset(name).attrs.get("description", ""))
            for name in self.names
            if _is_statistic(self.dataset(name), shape[: 1 if "/" in name else 3])
            and name not in _NO_STATISTICS
        }

    def fate(self, channel: int, seed: int | None = None) -> str:
        """Outcome of a job: ok, dead, silent, diverged, failed, missing."""
        code = int(self.status[self.row(channel), _index("seed", seed, self.seeds)])
        return next(word for word, known in STATUS.items() if known == code)

    def leads(self) -> NDArray[np.intp]:
        """Index of the seed whose image represents each channel (C,).

        It agrees most with dataset images, or else is the first that is `ok`.
        """
        first: NDArray[np.intp] = np.argmax(self.status == STATUS["ok"], axis=1)
        if "best_seed_index" not in self:
            return first
        best = self["best_seed_index"]
        return np.where((best >= 0) & (best < len(self.seeds)), best, first).astype(np.intp)

    def response(
        self, channel: int, seed: int | None = None, variant: str | None = None
    ) -> NDArray[np.float32] | None:
        """Mean response (K,) of each channel of the layer to an image; None if there are none.

        Args and errors are those of `pixels`.
        """
        if "response" not in self:
            return None
        return np.asarray(self.dataset("response")[self.place(channel, seed, variant)])

    def strongest(self, count: int, by: str | None = None) -> list[int]:
        """Find the channels whose images score highest in a statistic, the best first.

        The default is agreement with dataset images or, without a dataset, selectivity where it
        tells channels apart: activations of different channels are on different scales. The best
        of several seeds and variants counts; channels without a value come last.
        """
        values = self[by or default_ranking(self)].astype(np.float64)
        values = values.reshape(len(self.channels), -1)
        best = np.max(np.where(np.isfinite(values), values, -np.inf), axis=1)
        # Stable: ties keep the order of channels, so that figures are reproducible.
        return [self.channels[row] for row in np.argsort(-best, kind="stable")[:count]]

    @cached_property
    def connections(self) -> LayerConnections:
        """The strongest weights between its channels and those of other layers."""
        group = own(self.group, "connections")
        return LayerConnections(self, dict(group.attrs) if isinstance(group, h5py.Group) else {})

    def to_frame(self) -> "pandas.DataFrame":
        """All statistics as a table: a row for each image, a column for each statistic.

        Columns: model, layer, channel, label (where channels have names), seed, variant (where a
        job has several), status, then everything that `statistics` names.

        Raises:
            UserError: pandas is not installed.
        """
        return layer_frame(self)

    def to_xarray(self) -> "xarray.Dataset":
        """Open the layer as labelled arrays; images are read when they are used.

        It has every dataset of the layer, those of the dataset images too, under the names that
        `statistics` and `layer[NAME]` use.

        Raises:
            UserError: xarray or h5netcdf is not installed.
        """
        return labelled_arrays(self)

    def _repr_html_(self) -> str:
        """HTML for notebooks: facts, and the first images as a sheet."""
        facts = f"{self!r} · {self.facts['module_type']} · {self.model.facts['source']}"
        return self.contact_sheet(facts, SHOWN)

    def contact_sheet(self, title: str, most: int) -> str:
        """HTML of the first images under a title, each above its label and what it came to."""
        leads, channels = self.leads(), self.channels[:most]
        cells = []
        for row, channel in enumerate(channels):
            seed = self.seeds[leads[row]]
            fate = self.fate(channel, seed)
            words = f"{self.labels[row]} {'' if fate == 'ok' else fate}".rstrip()
            cells.append((words, self.pixels(channel, seed)))
        return sheet(title, self.title, cells, len(self.channels) - len(channels))

    def _texts(self, name: str) -> list[str]:
        return list(self.dataset(name).asstr()[()]) if name in self else []

    def __repr__(self) -> str:
        seeds = f", {len(self.seeds)} seeds" if len(self.seeds) > 1 else ""
        return f"{self.title}: {len(self.channels)} channels{seeds}"


def _json(text: Any) -> Any:
    """Parse the text of an attribute; `None` if it is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None


def _whole(value: Any) -> int:
    """The integer of an attribute; 0 if it is none."""
    return int(value) if np.ndim(value) == 0 and np.asarray(value).dtype.kind in "iu" else 0


def _index(what: str, value: Any, known: list[Any]) -> int:
    if value is None:
        return 0
    # By value, not by position: `seed=5` means the seed 5.
    if value not in known:
        raise unknown(what, value, map(str, known))
    return known.index(value)


def _jpeg(data: bytes) -> NDArray[np.uint8]:
    """Decode a JPEG file. Raises UserError for any other format, and for a huge image."""
    try:
        return np.asarray(Image.open(io.BytesIO(data), formats=["JPEG"]).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"a dataset image of the atlas cannot be read: {error}.") from error


def _is_statistic(dataset: h5py.Dataset, shape: tuple[int, ...]) -> bool:
    """Whether a dataset holds numbers along the first axes of a shape and no others."""
    axes = [axis.label for axis in dataset.dims]
    return (
        dataset.dtype.kind in "iuf"
        and dataset.ndim > 0
        and dataset.shape == shape[: dataset.ndim]
        and not h5py.h5ds.is_scale(dataset.id)
        and all(label in ("", known) for label, known in zip(axes, _JOB_AXES, strict=False))
    )


# --- data that lies in the file itself ---


def name_of(group: h5py.Group) -> str:
    """Name of a model or layer, of which the name of the group is the safe form."""
    return str(group.attrs.get("name", str(group.name).rpartition("/")[2]))


def groups(parent: h5py.Group) -> Iterator[h5py.Group]:
    """Yield the groups in a group, without those of other files."""
    items = (own(parent, name) for name in parent)
    return (item for item in items if isinstance(item, h5py.Group))


def own(group: h5py.Group, name: str) -> Any:
    """The item of a path in this file; `None` if it does not exist or lies elsewhere."""
    # Link by link: `group[name]` would follow any of them into another file.
    for part in name.split("/"):
        if not isinstance(group, h5py.Group) or not isinstance(
            group.get(part, getlink=True), h5py.HardLink
        ):
            return None
        group = group[part]
    return None if isinstance(group, h5py.Dataset) and _lies_elsewhere(group) else group


def _lies_elsewhere(dataset: h5py.Dataset) -> bool:
    """Whether the values of a dataset are in another file."""
    return bool(dataset.is_virtual or dataset.external)


def is_data(item: Any) -> bool:
    """Whether an item is a dataset whose values are in this file."""
    return isinstance(item, h5py.Dataset) and not _lies_elsewhere(item)
