"""Agreement with photographs, beside the ceiling that a target's own photograph sets."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layer_atlas.datasets.evidence import (
    STRONGEST,
    Reference,
    agreement,
    make_reference,
    standardised,
)
from layer_atlas.datasets.statistics import strongest


@dataclass(frozen=True)
class AgreementJudge:
    """Responses of a layer to photographs, and two references made of them."""

    responses: NDArray[np.float32]
    """(N, K) mean response of each channel to each photograph."""
    strongest: Reference
    """The nine strongest photographs of each channel."""
    next_nine: Reference
    """The nine photographs after the strongest, which the strongest one can be judged by."""

    def judge(
        self, responses: NDArray[np.float32], targets: NDArray[np.integer[Any]]
    ) -> dict[str, NDArray[Any]]:
        """Judge images by the responses (n, K) of the layer to them.

        Returns: agreement and rank (n,) with the nine strongest photographs, and agreement_next and
            rank_next (n,) with the nine after the strongest.
        """
        agrees, rank = agreement(self.strongest, responses, targets)
        agrees_next, rank_next = agreement(self.next_nine, responses, targets)
        return {
            "agreement": agrees,
            "agreement_next": agrees_next,
            "rank": rank,
            "rank_next": rank_next,
        }

    def ceiling(self, targets: NDArray[np.integer[Any]]) -> dict[str, NDArray[Any]]:
        """Judge each target's strongest photograph as if it were an image.

        Only the numbers of the next nine are a ceiling: the nine strongest contain it.
        """
        return self.judge(self.responses[self.strongest_photograph(targets)], targets)

    def strongest_photograph(self, targets: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Return the photograph (n,) that excites each target most."""
        first: NDArray[np.int64] = self.responses.argmax(axis=0)[targets]
        return first


def agreement_judge(responses: NDArray[np.float32]) -> AgreementJudge:
    """Make the judge of a layer from its responses (N, K) to photographs."""
    reference = make_reference(responses)
    later = responses[strongest(responses, STRONGEST + 1)[:, 1:]].mean(axis=1, dtype=np.float64)
    templates = standardised(later, reference.mean, reference.std)
    return AgreementJudge(responses, reference, replace(reference, templates=templates))
