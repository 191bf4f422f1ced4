"""Models and their layers: images, statistics and photographs of channels."""

import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layer_atlas.atlas.reader.notebook import sheet
from layer_atlas.atlas.reader.own_file import groups, is_data, name_of, own
from layer_atlas.atlas.reader.ranking import default_ranking
from layer_atlas.errors import UserError, unknown
from layer_atlas.plan.environment import Environment, parse_environment
from layer_atlas.plan.jobs import STATUS, named
from layer_atlas.plan.targets import Sampling

if TYPE_CHECKING:
    import xarray

_JOB_AXES = ("channel", "seed", "variant")
_NO_STATISTICS = {"status", "best_seed_index", "made_with"}
"""Codes and places: what they stand for is told by other means."""

_SHOWN = 64
"""Images of a layer in a notebook."""


@dataclass(frozen=True)
class Model:
    """A network of an atlas."""

    group: h5py.Group

    @property
    def name(self) -> str:
        """Its label."""
        return name_of(self.group)

    @property
    def weights(self) -> str:
        """Which weights it has, in words; empty in atlases of older versions."""
        return str(self.facts.get("weights", ""))

    @property
    def preprocessing(self) -> str:
        """Mean, standard deviation and input size with their sources, in words."""
        return str(self.facts.get("preprocessing", ""))

    @property
    def title(self) -> str:
        """Its label, with a word where its weights are random."""
        return named(self.name, self.weights)

    @cached_property
    def layers(self) -> dict[str, "Layer"]:
        """Its layers by their names."""
        layers = (Layer(self, group) for group in groups(self.group))
        return {layer.name: layer for layer in layers}

    @property
    def facts(self) -> dict[str, Any]:
        """Attributes: source, weights, preprocessing, weights_sha256, mean, std, input_size."""
        return dict(self.group.attrs)


@dataclass(frozen=True)
class Layer:
    """A layer of an atlas: C channels, S seeds."""

    model: Model
    group: h5py.Group

    @property
    def name(self) -> str:
        """Its dotted name."""
        return name_of(self.group)

    @property
    def title(self) -> str:
        """Model and layer."""
        return f"{self.model.name}/{self.name}"

    @property
    def facts(self) -> dict[str, Any]:
        """Attributes: module_type, n_channels, activation_shape, flops_share and others."""
        return dict(self.group.attrs)

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """How its images were made."""
        return dict(json.loads(self.group.attrs["recipe"]))

    @cached_property
    def sampling(self) -> Sampling:
        """How its targets were chosen among those that there are."""
        facts = self.facts
        return Sampling(
            _json(facts.get("selection", "null")),
            self.channels,
            _whole(facts.get("n_targets", facts.get("n_channels"))) or len(self.channels),
            str(facts.get("target", "channel")),
        )

    @cached_property
    def channels(self) -> list[int]:
        """Numbers of its channels (C,)."""
        return [int(channel) for channel in self["channel"]]

    @cached_property
    def seeds(self) -> list[int]:
        """Its seeds (S,)."""
        return [int(seed) for seed in self["seed"]]

    @cached_property
    def variants(self) -> list[str]:
        """What sets the images of a job apart; empty if each has one."""
        return self._texts("variant")

    @cached_property
    def steps(self) -> list[int]:
        """After how many steps snapshots were kept; empty if there are none."""
        return [int(step) for step in self["step"]] if "step" in self else []

    @cached_property
    def channel_names(self) -> list[str]:
        """Names of the classes that channels are; empty where they have none."""
        return self._texts("channel_name")

    @cached_property
    def labels(self) -> list[str]:
        """What pictures call its channels: `5`, of classes `207 golden retriever`, of combinations
        `3+17`."""
        if "part_channel" in self:
            return ["+".join(map(str, parts)) for parts in self["part_channel"].tolist()]
        names = self.channel_names or [""] * len(self.channels)
        return [f"{k} {name}".rstrip() for k, name in zip(self.channels, names, strict=True)]

    @cached_property
    def status(self) -> NDArray[np.uint8]:
        """What became of each job (C, S), by the codes of `STATUS`."""
        return self["status"]

    @cached_property
    def environments(self) -> list[Environment | None]:
        """What images were made with, by the numbers in `made_with`; `None`: not known."""
        return [parse_environment(text) for text in self._texts("environment")] or [None]

    def made_with(self, channels: Sequence[int] | None = None) -> "Counter[Environment | None]":
        """How many images of some channels (default: of all) were made with which environment."""
        rows = [self.row(channel) for channel in (self.channels if channels is None else channels)]
        made = ~np.isin(self.status[rows], (STATUS["failed"], STATUS["missing"]))
        codes = self["made_with"][rows] if "made_with" in self else np.zeros_like(made, np.int64)
        found: Counter[Environment | None] = Counter()
        for code, count in zip(*np.unique(codes[made], return_counts=True), strict=True):
            known = self.environments[code] if code < len(self.environments) else None
            found[known] += int(count) * max(1, len(self.variants))
        return found

    def __contains__(self, name: str) -> bool:
        """Whether there is a dataset of this name, such as `agreement` or `dataset/top_score`."""
        return isinstance(own(self.group, name), h5py.Dataset)

    def __getitem__(self, name: str) -> NDArray[Any]:
        """A whole dataset; raises UserError for one that is not there, nearest names first."""
        return np.asarray(self.dataset(name)[()])

    def dataset(self, name: str) -> h5py.Dataset:
        """A dataset to be read in parts; raises UserError as `[]` does."""
        found = own(self.group, name)
        if not isinstance(found, h5py.Dataset):
            raise unknown(f"dataset of {self.title}", name, self.names)
        return found

    @property
    def names(self) -> list[str]:
        """Names of its datasets."""
        names: list[str] = []
        self.group.visititems(lambda name, item: names.append(name) if is_data(item) else None)
        return names

    def row(self, channel: int) -> int:
        """Where a channel lies among those of the atlas; raises UserError if it does not."""
        if channel not in self._rows:
            raise unknown(f"channel of {self.title}", channel, map(str, self.channels))
        return self._rows[channel]

    @cached_property
    def _rows(self) -> dict[int, int]:
        return {channel: row for row, channel in enumerate(self.channels)}

    def image(
        self,
        channel: int,
        seed: int | None = None,
        variant: str | None = None,
        step: int | None = None,
    ) -> NDArray[np.uint8]:
        """The image (H, W, colours) of a channel.

        Args:
            channel: its number.
            seed: default: the first one.
            variant: default: the first one.
            step: after how many steps, where snapshots were kept; default: the finished one.
        Raises:
            UserError: there is no such channel, seed, variant or step.
        """
        place = self.place(channel, seed, variant)
        if step is None:
            return np.asarray(self.dataset("image")[place])
        return np.asarray(self.dataset("snapshot")[(*place, _index("step", step, self.steps))])

    def place(
        self, channel: int, seed: int | None = None, variant: str | None = None
    ) -> tuple[int, ...]:
        """Where an image lies along the first axes of datasets: its channel, seed and variant."""
        place = (self.row(channel), _index("seed", seed, self.seeds))
        return (*place, _index("variant", variant, self.variants)) if self.variants else place

    def dataset_images(
        self, channel: int, end: Literal["top", "bottom"] = "top"
    ) -> list[NDArray[np.uint8]]:
        """The photographs (H, W, 3) that a channel answers to most, or least, that one first.

        As many as there are pictures of in the atlas: none where none were studied.
        """
        if f"dataset/{end}_jpeg" not in self:
            return []
        files = self.dataset(f"dataset/{end}_jpeg")[self.row(channel)]
        return [_jpeg(file.tobytes()) for file in files if len(file)]

    @cached_property
    def statistics(self) -> dict[str, str]:
        """Datasets of one number per channel, job or image, and what they mean."""
        shape = (len(self.channels), len(self.seeds), len(self.variants))
        return {
            name: str(self.dataset(name).attrs.get("description", ""))
            for name in self.names
            if _is_statistic(self.dataset(name), shape[: 1 if "/" in name else 3])
            and name not in _NO_STATISTICS
        }

    def fate(self, channel: int, seed: int | None = None) -> str:
        """What became of a job: ok, dead, silent, diverged, failed, missing."""
        code = int(self.status[self.row(channel), _index("seed", seed, self.seeds)])
        return next(word for word, known in STATUS.items() if known == code)

    def strongest(self, count: int, by: str | None = None) -> list[int]:
        """The channels whose images score highest in a statistic, the best first.

        By default that is agreement with dataset images or, where there are none, selectivity:
        activations of different channels are on different scales.
        Of several seeds and variants the best counts; channels without a value come last.
        """
        values = self[by or default_ranking(self.statistics)].astype(np.float64)
        values = values.reshape(len(self.channels), -1)
        best = np.max(np.where(np.isfinite(values), values, -np.inf), axis=1)
        return [self.channels[row] for row in np.argsort(-best, kind="stable")[:count]]

    def to_xarray(self) -> "xarray.Dataset":
        """The layer as labelled arrays; images are read when they are used.

        Raises:
            UserError: xarray or h5netcdf is not installed.
        """
        try:
            import h5netcdf  # noqa: F401 - what xarray reads netCDF with
            import xarray
        except ImportError as error:
            raise UserError(
                f"labelled arrays need `pip install xarray h5netcdf` ({error})."
            ) from None
        path = self.group.name.strip("/")
        return xarray.open_dataset(self.group.file.filename, engine="h5netcdf", group=path)

    def _repr_html_(self) -> str:
        """What a notebook shows: facts, and the first images as a sheet."""
        facts = f"{self!r} · {self.facts['module_type']} · {self.model.facts['source']}"
        images = ((channel, self.image(channel)) for channel in self.channels[:_SHOWN])
        return sheet(facts, self.title, images)

    def _texts(self, name: str) -> list[str]:
        return list(self.dataset(name).asstr()[()]) if name in self else []

    def __repr__(self) -> str:
        seeds = f", {len(self.seeds)} seeds" if len(self.seeds) > 1 else ""
        return f"{self.title}: {len(self.channels)} channels{seeds}"


def _json(text: Any) -> Any:
    """What a text of an attribute holds; None for what is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None


def _whole(value: Any) -> int:
    """A number of an attribute; 0 for what is none."""
    return int(value) if np.ndim(value) == 0 and np.asarray(value).dtype.kind in "iu" else 0


def _index(what: str, value: Any, known: list[Any]) -> int:
    if value is None:
        return 0
    if value not in known:
        raise unknown(what, value, map(str, known))
    return known.index(value)


def _jpeg(data: bytes) -> NDArray[np.uint8]:
    """The pixels of a JPEG file; raises UserError for any other, and for one that is huge."""
    try:
        return np.asarray(Image.open(io.BytesIO(data), formats=["JPEG"]).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"a photograph of the atlas cannot be read: {error}.") from error


def _is_statistic(dataset: h5py.Dataset, shape: tuple[int, ...]) -> bool:
    """Whether it is of numbers, along the first axes of a shape and no others."""
    axes = [axis.label for axis in dataset.dims]
    return (
        dataset.dtype.kind in "iuf"
        and dataset.ndim > 0
        and dataset.shape == shape[: dataset.ndim]
        and not h5py.h5ds.is_scale(dataset.id)
        and all(label in ("", known) for label, known in zip(axes, _JOB_AXES, strict=False))
    )
