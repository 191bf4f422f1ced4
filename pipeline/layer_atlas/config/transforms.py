"""What a recipe says of transforms; `transforms` acts on it."""

from dataclasses import dataclass

from layer_atlas.config.ranges import not_negative, require, within

Range = tuple[float, float]
"""A smallest and a largest value."""

_MOST_PERSPECTIVE = 0.6
"""From two thirds on, the corners need not make a convex shape, and no view looks like that."""

_RANGES = (
    ("scale", 0.1, 10.0),
    ("crop", 0.05, 1.0),
    *((name, 0.0, 10.0) for name in ("brightness", "contrast", "saturation")),
    ("blur", 0.0, 50.0),
    ("noise", 0.0, 10.0),
    ("cutout", 0.0, 1.0),
)
"""Where the ends of each range may be."""


@dataclass(frozen=True)
class Transforms:
    """Random views of the image that the network sees, drawn anew per sample and step.

    Within a range values are uniform. Formulas are in `layer_atlas.visualization.transforms`.
    """

    jitter: float = 2.0
    """Largest shift along each axis, in pixels."""
    scale: Range = (0.97, 1.03)
    """Smallest and largest magnification; their logarithms are uniform."""
    rotate: float = 2.0
    """Largest turn to either side, in degrees."""
    flip: float = 0.0
    """Probability of a mirror image, left to right."""
    perspective: float = 0.0
    """How far the corners of what is seen may lie inwards of the image's, in half sides."""
    crop: Range = (1.0, 1.0)
    """Side of a crop, as a share of the image's; the crop fills the view."""
    brightness: Range = (1.0, 1.0)
    """Factor of all values."""
    contrast: Range = (1.0, 1.0)
    """Factor of the distance from the mean grey."""
    saturation: Range = (1.0, 1.0)
    """Factor of the distance from the grey image; of images with three colours alone."""
    blur: Range = (0.0, 0.0)
    """Width of a Gaussian, in pixels."""
    noise: Range = (0.0, 0.0)
    """Standard deviation of normal noise, where images are in [0, 1]."""
    cutout: Range = (0.0, 0.0)
    """Height and width of a grey rectangle, as a share of the image's."""

    def __post_init__(self) -> None:
        not_negative(jitter=self.jitter, rotate=self.rotate)
        within(0.0, 1.0, flip=self.flip)
        within(0.0, _MOST_PERSPECTIVE, perspective=self.perspective)
        for name, least, most in _RANGES:
            low, high = getattr(self, name)
            within(least, most, **{f"{name}[0]": low, f"{name}[1]": high})
            require(low <= high, f"{name} must ascend, not {[low, high]}.")
