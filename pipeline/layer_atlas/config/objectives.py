"""The objectives: what an image is made for. Their formulas are in `visualization.objectives`.

A target is what one image is for: a channel, a class, a direction, a pair of channels. Targets are
numbered, and the sweep's `channels` chooses among them.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from layer_atlas.config.records import Choice, Record, Reference, register, require, setting

Sign = Literal["positive", "negative", "both"]

MOST_STRONGEST = 64
"""Largest number of a target's strongest dataset images that an objective is about."""

CARTER_2019 = Reference(
    "Carter et al. 2019", "Activation atlas. Distill, doi:10.23915/distill.00015."
)
GOH_2021 = Reference(
    "Goh et al. 2021",
    "Multimodal neurons in artificial neural networks. Distill, doi:10.23915/distill.00030.",
)
GORGUN_2025 = Reference(
    "Görgün et al. 2025",
    "VITAL: More understandable feature visualization through distribution alignment and relevant "
    "information flow. ICCV, arXiv:2503.22399.",
)
HAMBLIN_2024 = Reference(
    "Hamblin et al. 2024",
    "Feature accentuation: revealing 'what' features respond to in natural images. "
    "arXiv:2402.10039.",
)
MAHENDRAN_2015 = Reference(
    "Mahendran & Vedaldi 2015",
    "Understanding deep image representations by inverting them. CVPR, arXiv:1412.0035.",
)
MORDVINTSEV_2015 = Reference(
    "Mordvintsev et al. 2015",
    "Inceptionism: going deeper into neural networks. Google Research blog, 17 June 2015.",
)
NGUYEN_2016 = Reference(
    "Nguyen et al. 2016b",
    "Multifaceted feature visualization: uncovering the different types of features learned by "
    "each neuron in deep neural networks. ICML workshop, arXiv:1602.03616.",
)
OLAH_2017 = Reference(
    "Olah et al. 2017", "Feature visualization. Distill, doi:10.23915/distill.00007."
)
SIMONYAN_2014 = Reference(
    "Simonyan et al. 2014",
    "Deep inside convolutional networks: visualizing image classification models and saliency "
    "maps. ICLR workshop, arXiv:1312.6034.",
)


@dataclass(frozen=True)
class Objective(Choice, family="objective"):
    """The score that gradient ascent raises."""

    own_layers: ClassVar[tuple[str, ...]] = ("*@Conv2d",)
    """Globs of the layers that a sweep takes where it names none."""
    target_word: ClassVar[str] = "channel"
    """What a target is: `channel`, `class`, `direction` or `whole layer`."""
    from_images: ClassVar[str] = ""
    """How a label mentions dataset images that the score is about; empty if it is about none."""
    of_dataset: ClassVar[bool] = False
    """Whether the targets themselves are found in a dataset, before any image is made."""
    of_any_size: ClassVar[bool] = True
    """Whether the score means the same for images of other sizes, as octaves need."""

    @property
    def dataset_images(self) -> int:
        """Number of the target's strongest dataset images that the score is about."""
        return 0

    @property
    def of_channels(self) -> bool:
        """Whether a dataset image's score for a target is the mean response of a channel."""
        return False

    def of_layer(self, layer: str) -> "Objective":
        """The objective as far as it concerns one layer, which the keys of its images name."""
        return self

    @property
    def way(self) -> str:
        """How the score is followed: by ascent, by descent, or by both."""
        return "ascent"

    @property
    def variants(self) -> int:
        """Images per job."""
        return 1

    @property
    def variant_names(self) -> tuple[str, ...]:
        """A word for each variant of a job."""
        return tuple(str(number) for number in range(self.variants))

    @property
    def noun(self) -> str:
        """What a target is, in as many words as it takes."""
        return self.target_word


@dataclass(frozen=True)
class _Signed(Objective):
    """Base of objectives that can be minimized as well."""

    sign: Sign = setting("positive", phrase="")
    """`positive` maximizes the response, `negative` minimizes it, and `both` makes an image of each
    and shows them side by side."""

    @property
    def way(self) -> str:
        """How the score is followed: by ascent, by descent, or by both."""
        return {"negative": "descent", "both": "ascent, and one by descent,"}.get(
            self.sign, "ascent"
        )

    @property
    def variants(self) -> int:
        """Images per job."""
        return 2 if self.sign == "both" else 1

    @property
    def variant_names(self) -> tuple[str, ...]:
        """The sign of each variant."""
        return ("positive", "negative") if self.sign == "both" else (self.sign,)


@dataclass(frozen=True)
class _OfChannel(_Signed):
    """Base of objectives of the mean response of a channel."""

    @property
    def of_channels(self) -> bool:
        """Whether a dataset image's score is the mean response: not where it is minimized."""
        return self.sign == "positive"


@register("channel")
class ChannelObjective(_OfChannel):
    """The mean response of a channel over all positions."""

    references = (OLAH_2017,)


@register("neuron")
class NeuronObjective(_Signed):
    """The response of a channel at one position."""

    references = (OLAH_2017,)
    of_any_size = False  # the position lies elsewhere on a map of another size
    position: tuple[int, int] | None = setting(None, phrase="")
    """Row and column of the neuron on the layer's map, counted from 0; the default is the centre.
    """

    @property
    def _where(self) -> str:
        place = self.position
        return "the centre" if place is None else f"row {place[0]}, column {place[1]}"

    @property
    def lead(self) -> str:
        """What the score is, with the position."""
        return f"the response of a channel at {self._where} of the map"

    @property
    def noun(self) -> str:
        """What a target is, with the position."""
        return f"neuron at {self._where} of the map"


@register("direction")
class DirectionObjective(_Signed):
    """The mean response along a direction of the layer's channels."""

    references = (CARTER_2019,)
    target_word = "direction"
    vectors: str = setting("", file="vectors")
    """File with a direction per row (.npy, .npz, .safetensors or .pt), or with a sparse
    autoencoder, whose decoder is found by its name. The default are 4,096 random directions."""
    entry: str | None = setting(None, phrase="the matrix {}")
    """Name of the matrix in a file of several; the default is the layer's name, or the only matrix
    or decoder."""
    cosine_power: float = setting(
        0.0, at_least=0, phrase="the product with the cosine to the power {}"
    )
    """The response is multiplied by its cosine with the direction to this power; 0 leaves it as it
    is."""

    @property
    def noun(self) -> str:
        """What a target is; random directions are called so."""
        return self.target_word if self.vectors else f"random {self.target_word}"


_LARGEST_GRID = 160


@register("activation_atlas")
class ActivationAtlasObjective(Objective):
    """The mean activation of a cell of a map of activations, as a whitened direction."""

    references = (CARTER_2019,)
    target_word = "cell"
    of_dataset = True  # cells hold activations of its images
    grid: tuple[int, ...] = setting((20,), at_least=1, at_most=_LARGEST_GRID, phrase="")
    """Cells per side of each grid over the map. 10, 20, 40 and 80 suit datasets from a thousand to
    a million images."""
    projection: Literal["umap", "tsne", "pca"] = setting("umap", phrase="a map by {}")
    """How activations are laid out in two dimensions. `umap` and `tsne` keep neighbours together
    and need `pip install 'layer-atlas[maps]'`; `pca` shows the two directions of largest variance.
    """
    neighbours: int = setting(15, at_least=2, at_most=200, phrase="{} neighbours")
    """Number of nearest activations that `umap` keeps together, and perplexity of `tsne`."""
    seed: int = setting(0, at_least=0, at_most=2**32 - 1, phrase="the seed {}")
    """Random seed of the positions at which activations are taken, and of the projection."""
    least: int = setting(1, at_least=1, phrase="at least {} activation(s) per cell")
    """Smallest number of activations in a cell; a cell with fewer is left empty."""
    classes: tuple[str, ...] | None = setting(None, needs="not be empty", phrase="")
    """Only the dataset images of these classes, which are the names of the folders that the images
    lie in. The default is all images."""
    labels: bool = setting(True, phrase="")
    """Whether cells are labelled by the classes that they support most, if the network's output is
    one score per class. Takes two further forward passes per image and layer."""
    ridge: float = setting(1.0, above=0, at_most=10, phrase="a ridge of {} in the whitening")
    """Part of the mean variance of channels that is added to the variance of each, so that few
    images suffice to whiten many channels."""
    cosine_power: float = setting(
        2.0, at_least=0, phrase="the product with the cosine to the power {}"
    )
    """The response is multiplied by its cosine with the direction to this power; 0 leaves it as it
    is."""
    maps: dict[str, str] | None = setting(None, phrase="", late=True)
    """Digest of the map of each layer. The planner fills it in."""

    def clauses(self) -> dict[str, str]:
        """The settings that are on; principal axes keep no neighbours together."""
        unused = {"neighbours"} if self.projection == "pca" else set()
        return {name: words for name, words in super().clauses().items() if name not in unused}

    def check(self) -> None:
        """Check that grids differ."""
        require(len(set(self.grid)) == len(self.grid) > 0, f"grid must differ: {list(self.grid)}.")

    @property
    def lead(self) -> str:
        """What the score is, with the grids and the classes of the map."""
        grids = " and ".join(f"{side} x {side}" for side in self.grid)
        of = f" of {', '.join(self.classes)}" if self.classes else ""
        return (
            "the response along the whitened mean activation of a cell of the layer's map of "
            f"photographs{of} in {grids} cells"
        )

    def of_layer(self, layer: str) -> "ActivationAtlasObjective":
        """The objective with the map of one layer alone: others decide none of its pixels."""
        known = self.maps or {}
        return replace(self, maps={layer: known[layer]} if layer in known else None)

    @property
    def cell_names(self) -> tuple[str, ...]:
        """The name of every cell, as `20:r7c12`: grids one after another, each row by row."""
        return tuple(
            f"{side}:r{row}c{column}"
            for side in self.grid
            for row in range(side)
            for column in range(side)
        )


@register("logit")
class LogitObjective(_OfChannel):
    """The score of a class before the softmax."""

    references = (SIMONYAN_2014,)
    own_layers = ("output",)
    target_word = "class"


@register("probability")
class ProbabilityObjective(Objective):
    """The probability of a class, which is the softmax of the scores."""

    own_layers = ("output",)
    target_word = "class"


@register("layer")
class LayerObjective(Objective):
    """The mean square of all responses of the layer (DeepDream)."""

    references = (MORDVINTSEV_2015,)
    target_word = "whole layer"
    phrase = "the mean square of all responses of the layer"


@register("custom")
class CustomObjective(Objective):
    """A function of the user's own."""

    function: str = setting("", needs="name one: objective.function=mymodule.score", phrase="")
    """Dotted name of a function from activations (B, C, positions) to scores (B,). A function with
    the parameter `channel` receives the channels (B,) too and makes an image per channel."""
    args: dict[str, Any] | None = setting(None, phrase="the arguments {}")
    """Further keyword arguments of the function; the default is none."""
    source: str = setting("", phrase="")
    """Digest of the file that defines the function. The planner fills it in."""

    @property
    def lead(self) -> str:
        """What the score is, with the name of the function."""
        return f"a function of the layer's activations ({self.function})"


@dataclass(frozen=True)
class Term(Record):
    """A layer of a network and the weight of its channel."""

    layer: str
    """Name of the layer."""
    model: str = ""
    """Label of the model; the default is the only model of the sweep."""
    weight: float = 1.0
    """Factor of the channel's response; below 0 the response is minimized."""
    network: str = ""
    """Digest of the network's identity. The planner fills it in."""

    @property
    def lead(self) -> str:
        """The layer with its weight and its model."""
        model = f" of {self.model}" if self.model else ""
        return f"{self.weight:g} x {self.layer}{model}"


@register("joint")
class JointObjective(Objective):
    """The weighted sum of the responses of channels of several layers or networks."""

    references = (OLAH_2017,)
    terms: tuple[Term, ...] = setting((), phrase="")
    """The terms of the sum: a list of `{layer, model, weight}` of two or more. A target is a
    channel for each term."""

    def check(self) -> None:
        """Check that there is something to add."""
        require(
            len(self.terms) >= 2,
            "terms needs two or more: objective.terms=[{layer: features.3}, {layer: features.7}].",
        )

    @property
    def lead(self) -> str:
        """What the score is, with each term."""
        terms = " + ".join(term.lead for term in self.terms)
        return f"a weighted sum of the responses of several channels, {terms}"


@dataclass(frozen=True)
class _Several(Objective):
    """Base of objectives of several images per target that depend on each other."""

    images: int = setting(4, at_least=2, at_most=64, phrase="{} images")
    """Number of images per channel."""

    @property
    def variants(self) -> int:
        """Images per job."""
        return self.images


@register("diversity")
class DiversityObjective(_Several):
    """The mean response of a channel and the difference between its images."""

    references = (OLAH_2017,)
    weight: float = setting(1.0, at_least=0, phrase="a weight of the difference of {}")
    """Weight of the difference between the images, relative to the channel's response."""


@register("interpolation")
class InterpolationObjective(_Several):
    """A mixture of two channels, from one to the other, each image like its neighbours."""

    references = (OLAH_2017,)
    images: int = setting(5, at_least=2, at_most=64, phrase="{} images")
    """Number of images from one channel to the other, both ends included."""
    alignment: float = setting(1.0, at_least=0, phrase="a weight of the similarity of {}")
    """Weight of the similarity of neighbouring images, relative to the channels' responses."""

    @property
    def variant_names(self) -> tuple[str, ...]:
        """The fraction of the way for each variant."""
        return tuple(f"{i / (self.images - 1):.2g}" for i in range(self.images))


@dataclass(frozen=True)
class _OfPhotograph(Objective):
    """Base of objectives about one photograph."""

    of_any_size = False  # the layer's activations of the photograph are those at one size

    photograph: str = setting("", needs="name one: objective.photograph=photo.jpg", file="picture")
    """The image file. Transparent parts are shown on white."""


@register("caricature")
class CaricatureObjective(_OfPhotograph):
    """The similarity of the layer's activations to those of a photograph, exaggerated."""

    target_word = "whole layer"
    cosine_power: float = setting(
        1.0, at_least=0, phrase="the product with their cosine to the power {}"
    )
    """The product of the activations is multiplied by their cosine to this power; 0 leaves it as it
    is."""


@register("inversion")
class InversionObjective(_OfPhotograph):
    """The similarity of the layer's activations to those of a photograph."""

    references = (MAHENDRAN_2015,)
    target_word = "whole layer"


@register("accentuation")
class AccentuationObjective(_OfPhotograph):
    """The mean response of a channel in a photograph, the rest of the layer staying as it was."""

    references = (HAMBLIN_2024,)
    faithfulness: float = setting(1.0, at_least=0, phrase="a weight of the rest of {}")
    """Weight of the rest of the layer's staying as it was, relative to the channel's response."""


@dataclass(frozen=True)
class StrongestImagesObjective(Objective):
    """Base of objectives about the target's strongest dataset images, in several layers."""

    top: int = setting(9, at_least=1, at_most=MOST_STRONGEST, phrase="{} photograph(s) per channel")
    """Number of the channel's strongest dataset images, at most `dataset.top`."""
    layers: tuple[str, ...] = setting((), phrase="")
    """Globs over the names of the layers to match, besides the channel's own. The default is a
    layer each at a quarter, a half and three quarters of the operations before it."""
    dataset: str = setting("", phrase="")
    """Digest of the dataset. The planner fills it in."""

    @property
    def dataset_images(self) -> int:
        """Number of the target's strongest dataset images that the score is about."""
        return self.top

    @property
    def _others(self) -> str:
        return ", ".join(map(str, self.layers)) or "layers before it"


@register("prototype")
class PrototypeObjective(StrongestImagesObjective):
    """The similarity to the channel's strongest photographs in how activations are distributed."""

    references = (GORGUN_2025,)
    from_images = "like photographs"

    @property
    def lead(self) -> str:
        """What is followed, with the layers."""
        return (
            "the similarity to the channel's strongest photographs in how the activations of each "
            "channel are distributed, where the target responds, in its layer and in "
            f"{self._others}"
        )

    @property
    def of_channels(self) -> bool:
        """The score of an image, which is followed indirectly, is the channel's mean response."""
        return True


@register("facets")
class FacetsObjective(StrongestImagesObjective):
    """The mean response of a channel, for each facet of its strongest photographs."""

    references = (GOH_2021, NGUYEN_2016)
    from_images = "by photographs"
    top: int = setting(
        36, at_least=2, at_most=MOST_STRONGEST, phrase="{} photograph(s) per channel"
    )
    """Number of the channel's strongest dataset images that are clustered, at most `dataset.top`.
    All of them are kept as pictures, whatever `dataset.examples` is."""
    facets: int = setting(4, at_least=2, at_most=16, phrase="{} clusters")
    """Number of clusters of these images, and of images per channel: one for each facet."""
    weight: float = setting(4.0, at_least=0, phrase="a weight of the facet of {}")
    """Weight of the similarity to the facet, relative to the channel's response."""
    seed: int = setting(0, at_least=0, at_most=2**32 - 1, phrase="the seed {} of clustering")
    """Random seed of the clustering. All `seeds` of a sweep share the facets."""

    def check(self) -> None:
        """Check that there are images for every facet."""
        require(
            self.top >= self.facets,
            f"objective.top={self.top} photographs cannot make {self.facets} facets: set "
            f"objective.top={self.facets} or more.",
        )

    @property
    def variants(self) -> int:
        """Images per job: one per facet."""
        return self.facets

    @property
    def variant_names(self) -> tuple[str, ...]:
        """The number of each facet, that of the most images first."""
        return tuple(f"facet {number}" for number in range(1, self.facets + 1))

    @property
    def lead(self) -> str:
        """What is followed, with the layers."""
        return (
            "the mean response of a channel and the similarity to one facet of it, which is a "
            "cluster of its strongest photographs by the activations where the target responds, "
            f"in its layer and in {self._others}"
        )
