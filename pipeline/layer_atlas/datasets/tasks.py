"""The nouns of a study: what layers are asked about photographs, and the tasks that answer it.

A study is of one layer and one dataset. All layers of a model are shown the photographs at once,
block by block; each block leaves a file per layer, and these are merged when all are there. Then
examples are made: the photographs that a channel answers to most and least, with saliency maps.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from layer_atlas.config.datasets import SaliencyMethod
from layer_atlas.config.records import digest, plain
from layer_atlas.datasets.listing import Listing
from layer_atlas.plan.jobs import LayerInfo, NetworkIdentity, Product
from layer_atlas.plan.plan import LayerPlan, ModelPlan, Plan, StudyPlan

STUDY_VERSION = 1
"""Raised with every change of code that changes what a study finds."""

_OF_FIELDS = ("network", "layer", "image_size", "class_token", "version")
"""What of a study's identity its receptive fields depend on."""

_MOST_CHANNELS = 64
"""Of a task that picks examples: all of its pictures are in memory at a time."""


@dataclass(frozen=True)
class Study:
    """One layer and the photographs of a dataset."""

    model: str
    """The model's label in this sweep; not part of the identity."""
    network: NetworkIdentity
    info: LayerInfo
    image_size: int
    plan: StudyPlan
    class_token: bool = False
    """Whether tokens that are no positions belong to activations."""

    @property
    def layer(self) -> str:
        """Name of the layer."""
        return self.info.name

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What the keys are made of, but for the photographs, as plain data."""
        return {
            "network": plain(self.network),
            "layer": self.layer,
            "image_size": self.image_size,
            "class_token": self.class_token,
            "stride": self.plan.stride,
            "top": self.plan.top,
            "bottom": self.plan.bottom,
            "version": STUDY_VERSION,
        }

    @cached_property
    def product(self) -> Product:
        """The file of the whole study."""
        key = digest({**self.identity, "listing": self.plan.listing, "block": self.plan.block})
        return Product(self.model, self.layer, key, "study")

    @property
    def field(self) -> Product:
        """The file of the layer's receptive fields."""
        identity = {name: self.identity[name] for name in _OF_FIELDS}
        return Product(self.model, self.layer, digest(identity), "fields")

    def block(self, start: int, photographs: str) -> Product:
        """The file of a block, given the digest of its part of the listing."""
        key = digest({**self.identity, "start": start, "photographs": photographs})
        return Product(self.model, self.layer, key, "photographs")


@dataclass(frozen=True)
class StudyBlock:
    """Some photographs, shown to several layers of one model: a task."""

    studies: tuple[Study, ...]
    start: int
    """Place of the first photograph in the listing."""
    stop: int
    photographs: str
    """Digest of this part of the listing."""

    @property
    def model(self) -> str:
        """Label of the model."""
        return self.studies[0].model

    @property
    def units(self) -> int:
        """Number of photographs."""
        return self.stop - self.start

    @cached_property
    def products(self) -> tuple[Product, ...]:
        """A file per layer; the first block's worker finds the receptive fields too."""
        answers = [study.block(self.start, self.photographs) for study in self.studies]
        return (*answers, *(study.field for study in self.studies if self.start == 0))

    @cached_property
    def key(self) -> str:
        """SHA-256 of its files' keys."""
        return digest([product.key for product in self.products])

    def request(self) -> dict[str, Any]:
        """Which photographs, and which layers are to see them."""
        return {
            "start": self.start,
            "stop": self.stop,
            "photographs": self.photographs,
            "layers": [study.layer for study in self.studies],
        }

    def __str__(self) -> str:
        return f"{self.model}, photographs {self.start}-{self.stop - 1}"


@dataclass(frozen=True)
class Examples:
    """The photographs that some channels of a layer answer to most and least: a task."""

    study: Study
    channels: tuple[int, ...]
    saliency: SaliencyMethod | None

    @property
    def model(self) -> str:
        """Label of the model."""
        return self.study.model

    @property
    def units(self) -> int:
        """Number of channels."""
        return len(self.channels)

    @cached_property
    def key(self) -> str:
        """SHA-256 of the study, the channels, and how maps are made."""
        shown = {"examples": self.study.plan.examples, "saliency": plain(self.saliency)}
        return digest({"study": self.study.product.key, "channels": self.channels, **shown})

    @property
    def products(self) -> tuple[Product]:
        """Its file."""
        return (Product(self.model, self.study.layer, self.key, "examples"),)

    def request(self) -> dict[str, Any]:
        """Which channels of which layer."""
        return {"layer": self.study.layer, "channels": list(self.channels)}

    def __str__(self) -> str:
        first, last = self.channels[0], self.channels[-1]
        return f"{self.model}/{self.study.layer} examples of channels {first}-{last}"


def study_of(model: ModelPlan, layer: str, plan: StudyPlan) -> Study:
    """The study of one of a model's layers."""
    info = next(known.info for known in model.layers if known.info.name == layer)
    token = model.recipe.class_token
    return Study(model.label, model.network, info, model.photograph_size, plan, token)


def studies_of(model: ModelPlan, plan: StudyPlan) -> tuple[Study, ...]:
    """The studies of a model's wanted layers."""
    return tuple(study_of(model, layer.info.name, plan) for layer in model.layers)


def blocks_of(studies: tuple[Study, ...], listing: Listing) -> Iterator[StudyBlock]:
    """All blocks of a model's studies, in the order of the listing."""
    size = studies[0].plan.block
    for start in range(0, listing.count, size):
        stop = min(start + size, listing.count)
        yield StudyBlock(studies, start, stop, listing.digest_of(start, stop))


def examples_of(plan: Plan, study_plan: StudyPlan) -> Iterator[Examples]:
    """The examples of every wanted channel, layer by layer."""
    for model in plan.models:
        for layer, study in zip(model.layers, studies_of(model, study_plan), strict=True):
            yield from examples_of_layer(study, layer, plan.shard_size)


def examples_of_layer(study: Study, layer: LayerPlan, shard_size: int) -> Iterator[Examples]:
    """The examples of a layer's wanted channels, so many channels to a task."""
    if study.plan.examples:
        size = min(shard_size, _MOST_CHANNELS)
        for start in range(0, len(layer.channels), size):
            channels = tuple(layer.channels[start : start + size])
            yield Examples(study, channels, study.plan.saliency)


def restricted(block: StudyBlock, missing: Iterable[Product]) -> StudyBlock:
    """The same photographs for the layers alone whose files are missing."""
    left = {product.layer for product in missing}
    return replace(block, studies=tuple(s for s in block.studies if s.layer in left))
