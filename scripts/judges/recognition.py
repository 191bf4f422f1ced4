"""Recognition: what another network sees in an image, against what the image was made for."""

import numpy as np
from numpy.typing import NDArray

from layer_atlas.datasets.evidence import FeatureSpace


def recognised(
    logits: NDArray[np.float32], classes: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Judge images of classes by the outputs of a classifier that did not make them.

    Args:
        logits: (n, K) outputs of the classifier, before the softmax.
        classes: (n,) the class of each image.
    Returns: whether the class has the largest output (n,), and its probability (n,).
    """
    own = np.arange(len(classes)), classes
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probability = exponentials / exponentials.sum(axis=1, keepdims=True)
    return logits.argmax(axis=1) == classes, probability[own]


def own_photograph_rank(
    space: FeatureSpace,
    features: NDArray[np.float32],
    classes: NDArray[np.int64],
    photograph_classes: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rank the photographs of an image's class among those of all other classes.

    With several photographs of the class, each is ranked by itself, and the numbers are means.

    Args:
        space: features of the photographs in a network that did not make the images.
        features: (n, D) features of the images in the same layer.
        classes: (n,) the class of each image.
        photograph_classes: (N,) the class of each photograph.
    Returns:
        percentile (n,): fraction of the other classes' photographs that resemble the image less,
            plus half of those that resemble it equally; 0.5 is chance; NaN without a photograph;
        rank (n,): one plus the number of the other classes' photographs that resemble it more.
    """
    percentile, rank = np.full(len(classes), np.nan), np.full(len(classes), np.nan)
    for row, cosines in enumerate(space.cosines(features)):
        is_own = photograph_classes == classes[row]
        if not is_own.any() or is_own.all():
            continue
        own, others = cosines[is_own][:, None], cosines[~is_own][None]
        less, equal = (others < own).mean(), (others == own).mean()
        percentile[row] = less + equal / 2
        rank[row] = 1 + (others > own).sum(axis=1).mean()
    return percentile, rank
