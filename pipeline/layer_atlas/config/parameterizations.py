"""The parameterizations: what is optimized, and the mask that limits it to a part of an image.

How they are rendered is in `visualization.parameterizations`. "Values" are images in decorrelated
colours before the sigmoid.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from layer_atlas.config.objectives import OLAH_2017
from layer_atlas.config.records import Choice, Record, Reference, register, require, setting

_MOST_LATENTS = 2**24
"""As many as the largest image has pixels."""

FEL_2023 = Reference(
    "Fel et al. 2023",
    "Unlocking feature visualization for deeper networks with magnitude constrained "
    "optimization. NeurIPS, arXiv:2306.06805.",
)
BURT_1983 = Reference(
    "Burt & Adelson 1983",
    "The Laplacian pyramid as a compact image code. IEEE Transactions on Communications "
    "31, 532-540.",
)
NGUYEN_2016_GENERATORS = Reference(
    "Nguyen et al. 2016",
    "Synthesizing the preferred inputs for neurons in neural networks via deep generator "
    "networks. NeurIPS, arXiv:1605.09304.",
)
MORDVINTSEV_2018 = Reference(
    "Mordvintsev et al. 2018",
    "Differentiable image parameterizations. Distill, doi:10.23915/distill.00012.",
)


@dataclass(frozen=True)
class Parameterization(Choice, family="parameterization"):
    """The tensors that are optimized and become an image."""

    from_noise_alone: ClassVar[bool] = False
    """Whether no parameters can be found for a given picture."""

    alpha: bool = setting(False, phrase="a map of opacity")
    """Whether the atlas keeps where the score's gradient fell, as a map of opacity."""


@register("fourier")
class Fourier(Parameterization):
    """Real-FFT coefficients in decorrelated colours, scaled by frequency, at a fixed contrast."""

    references = (OLAH_2017,)
    phrase = "Fourier coefficients in decorrelated colours"
    decay_power: float = setting(
        1.5, at_least=0, phrase="amplitudes divided by the frequency to the power of {}"
    )
    """The amplitude of a coefficient falls as frequency ** -decay_power; natural images are near 1
    to 1.5."""
    initial_sd: float = setting(0.3, above=0, phrase="an initial root mean square of {}")
    """Root mean square of the initial coefficients. Small values leave channels dead."""
    contrast: float = setting(2.5, above=0, phrase="a fixed contrast of {}")
    """Root mean square of the values of every rendered sample, where 0 is mid-grey; natural images
    have about 2.5."""


@register("natural_fourier")
class NaturalFourier(Fourier):
    """Fourier coefficients in decorrelated colours, each octave at the contrast of photographs.

    Within an octave, `decay_power` decides how far a step moves each coefficient.
    """

    phrase = "Fourier coefficients in decorrelated colours"
    contrast: float = setting(
        2.0,
        above=0,
        phrase="the octaves of each colour in the proportions of photographs at a contrast of {}",
    )
    """Root mean square of the values of every rendered sample, where 0 is mid-grey; natural images
    have about 2.5."""


@register("pixel")
class Pixel(Parameterization):
    """Pixels in decorrelated colours."""

    initial_sd: float = setting(0.3, above=0, phrase="an initial standard deviation of {}")
    """Standard deviation of the initial values. A photograph to start from is taken as it is."""


@register("maco")
class Maco(Parameterization):
    """Fourier phases, with magnitudes fixed to those of photographs (MACO)."""

    references = (FEL_2023,)
    phrase = "Fourier phases, with magnitudes fixed to those of photographs"
    contrast: float = setting(2.0, above=0, phrase="a contrast of {}")
    """Root mean square of the values of every rendered sample, where 0 is mid-grey."""


@register("pyramid")
class Pyramid(Parameterization):
    """A Laplacian pyramid: a sum of levels, each with twice the resolution of the one before."""

    references = (BURT_1983,)
    phrase = "a Laplacian pyramid"
    levels: int = setting(6, at_least=1, at_most=12, phrase="{} level(s)")
    """Number of levels. The finest level has the image's own resolution."""
    decay_power: float = setting(
        0.5, at_least=0, phrase="amplitudes divided by the frequency to the power of {}"
    )
    """The amplitude of a level falls as frequency ** -decay_power. Here 0.5 corresponds to 1.5 of
    Fourier coefficients, of which there are more at high frequencies."""
    initial_sd: float = setting(0.3, above=0, phrase="an initial root mean square of {}")
    """Root mean square of the initial values of the levels, before they are scaled."""
    contrast: float = setting(2.5, above=0, phrase="a contrast of {}")
    """Root mean square of the values of every rendered sample, where 0 is mid-grey."""


@register("cppn")
class Cppn(Parameterization):
    """A small network from the coordinates of a pixel to its colours (CPPN)."""

    from_noise_alone = True
    references = (MORDVINTSEV_2018,)
    phrase = "a network from the coordinates of a pixel to its colours"
    layers: int = setting(8, at_least=1, at_most=64, phrase="{} hidden layer(s)")
    """Number of hidden layers."""
    units: int = setting(24, at_least=2, at_most=1024, phrase="{} units each")
    """Number of units of each hidden layer."""
    step: float = setting(0.1, above=0, phrase="a step of {}")
    """Distance that a step moves a weight, as a multiple of the learning rate and of the weight's
    initial standard deviation."""
    contrast: float = setting(2.5, above=0, phrase="a contrast of {}")
    """Root mean square of the values of every rendered sample, where 0 is mid-grey."""


@register("generator")
class Generator(Parameterization):
    """The latents of a network that generates images: a learned prior."""

    from_noise_alone = True
    references = (NGUYEN_2016_GENERATORS,)
    target: str = setting("", needs="not be empty", phrase="")
    """Dotted name of a callable that returns the network (`mypackage.prior.build`)."""
    args: dict[str, Any] | None = setting(None, phrase="the arguments {}")
    """Keyword arguments of that callable; the default is none."""
    weights: str = setting("", needs="not be empty", file="weights")
    """File of the network's weights, as `weights` of a model."""
    latent: tuple[int, ...] = setting((), needs="not be empty", at_least=1, phrase="")
    """Shape of the latents of one image: `[128]` or `[128, 1, 1]`."""
    output: tuple[float, float] = setting((-1.0, 1.0), phrase="outputs of {} to {}")
    """Values of black and of white in the network's images."""
    bounds: tuple[float, float] | None = setting((-3.0, 3.0), phrase="latents of {} to {}")
    """Least and largest latent, or null for none. Latents start as standard normal numbers. Nguyen
    et al. keep codes within 3 standard deviations of those of photographs."""
    step: float = setting(0.5, above=0, phrase="a step of {}")
    """Distance that a step moves a latent, as a multiple of the learning rate."""
    source: str = setting("", phrase="")
    """Digest of the file that defines the callable. The planner fills it in."""

    def check(self) -> None:
        """Check the number of latents and the order of the ranges."""
        # A product of any numbers may be asked for; memory for it is not.
        few = math.prod(self.latent) <= _MOST_LATENTS
        require(few, f"latent must be {_MOST_LATENTS} numbers at most, not {list(self.latent)}.")
        require(
            self.output[0] < self.output[1],
            f"output must be in ascending order, not {list(self.output)}.",
        )
        if self.bounds is not None:
            ascending = self.bounds[0] < self.bounds[1]
            require(ascending, f"bounds must be in ascending order, not {list(self.bounds)}.")

    @property
    def lead(self) -> str:
        """The latents with their shape and the name of the network."""
        shape = " x ".join(map(str, self.latent))
        return f"the latents ({shape}) of a generator, {self.target}"


@dataclass(frozen=True)
class Mask(Record):
    """A mask over a fixed picture, within which images are made."""

    name: str = "picture"
    """Name of the choice, `picture`."""
    area: str = setting("", needs="name an image file", file="mask")
    """Image file of the mask: white where images are made, black where the picture stays.
    Transparent parts count as white."""
    picture: str = setting("", needs="name an image file", file="picture")
    """Image file of the picture. Mask and picture are cropped to the shape of the images and
    resized."""
