"""Records of the objectives: what an image is made for.

The formulas are in `layer_atlas.visualization.objectives`.

A target is what one image is for: a channel, a class, a direction, a pair of channels. Targets are
numbered, and the sweep's `channels` chooses among them.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from layer_atlas.config.inputs import input_field
from layer_atlas.config.ranges import not_negative, require

Sign = Literal["positive", "negative", "both"]


@dataclass(frozen=True)
class ObjectiveRecord:
    """What all objectives tell."""

    own_layers: ClassVar[tuple[str, ...]] = ("*@Conv2d",)
    """Layers that are meant where none are named."""

    @property
    def of_channels(self) -> bool:
        """Whether a photograph's answer to a target is the mean response of the layer's channel."""
        return False

    @property
    def of_any_size(self) -> bool:
        """Whether it means the same for images of other sizes, as octaves need."""
        return True

    @property
    def variants(self) -> int:
        """Images per job."""
        return 1

    @property
    def variant_names(self) -> tuple[str, ...]:
        """What tells the variants of a job apart, in a word."""
        return tuple(str(number) for number in range(self.variants))


@dataclass(frozen=True)
class _Signed(ObjectiveRecord):
    """Objectives that can be climbed down as well."""

    sign: Sign = "positive"
    """`positive`: what raises the response most; `negative`: what lowers it most; `both`: an image
    of each, side by side."""

    @property
    def variants(self) -> int:
        """Images per job."""
        return 2 if self.sign == "both" else 1

    @property
    def variant_names(self) -> tuple[str, ...]:
        """Which sign each variant has."""
        return ("positive", "negative") if self.sign == "both" else (self.sign,)


@dataclass(frozen=True)
class ChannelObjective(_Signed):
    """Mean response of a channel over all positions."""

    name: str = "channel"

    @property
    def of_channels(self) -> bool:
        """Whether a photograph's answer is the mean response: not where it is to be lowered."""
        return self.sign == "positive"


@dataclass(frozen=True)
class NeuronObjective(_Signed):
    """Response of a channel at one position."""

    name: str = "neuron"
    position: tuple[int, int] | None = None
    """Row and column on the layer's map; default: its centre."""

    @property
    def of_any_size(self) -> bool:
        """A position lies elsewhere on a map of another size."""
        return False


@dataclass(frozen=True)
class DirectionObjective(_Signed):
    """Mean response along a direction of the layer's channels."""

    name: str = "direction"
    vectors: str = input_field("vectors", default="")
    """File with a direction per row: .npy, .npz, .safetensors or .pt; default: random directions,
    of which there are 4,096."""
    entry: str | None = None
    """Name of the matrix in a file of several; default: the layer's name, or the only one."""
    cosine_power: float = 0.0
    """The response is multiplied by the cosine with the direction to this power; 0: it is not."""

    def __post_init__(self) -> None:
        not_negative(cosine_power=self.cosine_power)


@dataclass(frozen=True)
class LogitObjective(_Signed):
    """A class score before the softmax."""

    own_layers: ClassVar[tuple[str, ...]] = ("output",)
    name: str = "logit"

    @property
    def of_channels(self) -> bool:
        """Whether a photograph's answer is the mean response: not where it is to be lowered."""
        return self.sign == "positive"


@dataclass(frozen=True)
class ProbabilityObjective(ObjectiveRecord):
    """Probability of a class: the softmax of the scores."""

    own_layers: ClassVar[tuple[str, ...]] = ("output",)
    name: str = "probability"


@dataclass(frozen=True)
class LayerObjective(ObjectiveRecord):
    """Mean square of all of a layer: DeepDream."""

    name: str = "layer"


@dataclass(frozen=True)
class CustomObjective(ObjectiveRecord):
    """A function of the user's own."""

    name: str = "custom"
    function: str = ""
    """Dotted name of a function from activations (B, C, positions) to scores (B,). If it has a
    parameter `channel` it is told the channels (B,) too, and there is an image per channel."""
    args: dict[str, Any] | None = None
    """Further keyword arguments."""
    source: str = ""
    """Digest of the file that the function is in; the survey fills it in."""

    def __post_init__(self) -> None:
        require(bool(self.function), "function must name one: objective.function=mymodule.score.")


@dataclass(frozen=True)
class Term:
    """A channel of a layer of a network, and how much it counts."""

    layer: str
    """Name of the layer."""
    model: str = ""
    """Label of the model; default: the only one."""
    weight: float = 1.0
    """Below 0 the response is lowered."""
    network: str = ""
    """Digest of the network's identity; the survey fills it in."""


@dataclass(frozen=True)
class JointObjective(ObjectiveRecord):
    """Weighted sum of channels of several layers, of one network or of several."""

    name: str = "joint"
    terms: tuple[Term, ...] = ()
    """What is summed; a target is a channel for each."""

    def __post_init__(self) -> None:
        require(
            len(self.terms) >= 2,
            "terms needs two or more: objective.terms=[{layer: features.3}, {layer: features.7}].",
        )


@dataclass(frozen=True)
class DiversityObjective(ObjectiveRecord):
    """Several images for one channel that differ in style."""

    name: str = "diversity"
    images: int = 4
    """Images per channel."""
    weight: float = 1.0
    """How much difference counts, measured against the channel's response."""

    def __post_init__(self) -> None:
        require(2 <= self.images <= 64, f"images must be 2 to 64, not {self.images}.")
        not_negative(weight=self.weight)

    @property
    def variants(self) -> int:
        """Images per job."""
        return self.images


@dataclass(frozen=True)
class InterpolationObjective(ObjectiveRecord):
    """Images on the way from one channel to another, each like its neighbours."""

    name: str = "interpolation"
    images: int = 5
    """Images on the way, ends included."""
    alignment: float = 1.0
    """How much likeness of neighbours counts, measured against the channels' responses."""

    def __post_init__(self) -> None:
        require(2 <= self.images <= 64, f"images must be 2 to 64, not {self.images}.")
        not_negative(alignment=self.alignment)

    @property
    def variants(self) -> int:
        """Images per job."""
        return self.images

    @property
    def variant_names(self) -> tuple[str, ...]:
        """How far on the way each variant is."""
        return tuple(f"{i / (self.images - 1):.2g}" for i in range(self.images))


@dataclass(frozen=True)
class _OfPhotograph(ObjectiveRecord):
    """Objectives that are about one photograph."""

    photograph: str = input_field("picture", default="")
    """The image file; transparent parts are seen on white."""

    def __post_init__(self) -> None:
        require(bool(self.photograph), "photograph must name one: objective.photograph=photo.jpg.")

    @property
    def of_any_size(self) -> bool:
        """What the layer saw in the photograph, it saw at one size."""
        return False


@dataclass(frozen=True)
class CaricatureObjective(_OfPhotograph):
    """What the layer sees in a photograph, exaggerated."""

    name: str = "caricature"
    cosine_power: float = 1.0
    """The product of the activations is multiplied by their cosine to this power."""

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(cosine_power=self.cosine_power)


@dataclass(frozen=True)
class InversionObjective(_OfPhotograph):
    """An image that the layer cannot tell from a photograph."""

    name: str = "inversion"


@dataclass(frozen=True)
class AccentuationObjective(_OfPhotograph):
    """A photograph in which a channel is brought out, and all else stays what it was."""

    name: str = "accentuation"
    faithfulness: float = 1.0
    """How much the rest of the layer staying as it is counts, measured against the response."""

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(faithfulness=self.faithfulness)


Objective = (
    ChannelObjective
    | NeuronObjective
    | DirectionObjective
    | LogitObjective
    | ProbabilityObjective
    | LayerObjective
    | CustomObjective
    | JointObjective
    | DiversityObjective
    | InterpolationObjective
    | CaricatureObjective
    | InversionObjective
    | AccentuationObjective
)
