"""Agreement with photographs, beside the ceiling that a target's own photograph sets."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layer_atlas.datasets.evidence import (
    STRONGEST,
    Reference,
    agreement,
    is_held_out,
    make_reference,
    standardized,
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
    held_out: Reference
    """The nine strongest of the half that queries are from, which no image is made from."""

    def judge(
        self, responses: NDArray[np.float32], targets: NDArray[np.integer[Any]]
    ) -> dict[str, NDArray[Any]]:
        """Judge images by the responses (n, K) of the layer to them.

        Returns: agreement and rank (n,) with the nine strongest photographs, agreement_next and
            rank_next (n,) with the nine after the strongest, agreement_held_out and rank_held_out
            (n,) with the nine strongest that are held out.
        """
        references = {"": self.strongest, "_next": self.next_nine, "_held_out": self.held_out}
        judged = {}
        for name, reference in references.items():
            agrees, rank = agreement(reference, responses, targets)
            judged |= {f"agreement{name}": agrees, f"rank{name}": rank}
        return judged

    def ceiling(self, targets: NDArray[np.integer[Any]]) -> dict[str, NDArray[Any]]:
        """Judge each target's strongest photograph as if it were an image.

        Only the numbers of the next nine are a ceiling: the nine strongest contain it. Held-out
        ones judge the strongest that is not held out.
        """
        judged = self.judge(self.responses[self.strongest_photograph(targets)], targets)
        shown = np.where(is_held_out(len(self.responses))[:, None], -np.inf, self.responses)
        others = self.judge(self.responses[shown.argmax(axis=0)[targets]], targets)
        return judged | {name: others[name] for name in others if name.endswith("_held_out")}

    def strongest_photograph(self, targets: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Return the photograph (n,) that excites each target most."""
        first: NDArray[np.int64] = self.responses.argmax(axis=0)[targets]
        return first


def agreement_judge(responses: NDArray[np.float32]) -> AgreementJudge:
    """Make the judge of a layer from its responses (N, K) to photographs."""
    reference = make_reference(responses)
    held_out = np.flatnonzero(is_held_out(len(responses)))
    chosen = (
        strongest(responses, STRONGEST + 1)[:, 1:],
        held_out[strongest(responses[held_out], min(STRONGEST, len(held_out)))],
    )
    means = (responses[some].mean(axis=1, dtype=np.float64) for some in chosen)
    templates = (standardized(mean, reference.mean, reference.std) for mean in means)
    others = (replace(reference, templates=template) for template in templates)
    return AgreementJudge(responses, reference, *others)
