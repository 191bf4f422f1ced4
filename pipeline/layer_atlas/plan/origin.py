"""Where a network's weights and preprocessing come from, as a caption has to name it. Pure.

None of this decides pixels: it is no part of any key.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

UNTRAINED = "untrained (random weights)"
AS_CONSTRUCTED = "weights as its constructor left them"


@dataclass(frozen=True)
class Origin:
    """Sources of a network's weights, mean, standard deviation and input size, in words.

    Empty where they are not known: in manifests of older versions.
    """

    weights: str = ""
    """`ImageNet weights (IMAGENET1K_V1)`, `weights from file NAME`, or one of the above."""
    mean: str = ""
    """`torchvision's published preset`, `given in the config`, `ImageNet default, assumed`."""
    std: str = ""
    """Likewise."""
    input_size: str = ""
    """Likewise."""


UNKNOWN = Origin()


def preprocessing_words(
    mean: Sequence[float], std: Sequence[float], input_size: int | None, origin: Origin
) -> str:
    """Mean, standard deviation and input size with their sources.

    >>> preprocessing_words([0.5], [0.25], 64, Origin("", "given", "assumed", "assumed"))
    'mean (0.5): given; std (0.25), input size 64 px: assumed'
    """
    values = [(f"mean {_numbers(mean)}", origin.mean), (f"std {_numbers(std)}", origin.std)]
    if input_size is not None:
        values.append((f"input size {input_size} px", origin.input_size))
    return "; ".join(
        ", ".join(text for text, _ in some) + (f": {source}" if source else "")
        for source, some in groupby(values, key=lambda value: value[1])
    )


def _numbers(values: Sequence[float]) -> str:
    return f"({', '.join(f'{value:.4g}' for value in values)})"


def named(label: str, weights: str) -> str:
    """A network's label; with a word that its weights are random, which no picture may conceal."""
    return f"{label}, {UNTRAINED}" if weights == UNTRAINED else label
