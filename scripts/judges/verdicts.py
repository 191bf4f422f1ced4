"""All judges of one layer: arrays of images in, named numbers per image and in summary out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from judges.agreement import AgreementJudge, agreement_judge
from judges.networks import Features, JudgeNetwork
from judges.recognition import own_photograph_rank, recognised
from judges.reproducibility import seed_similarity
from judges.spectrum import OCTAVES, octave_ratios
from layer_atlas.datasets.evidence import (
    FeatureSpace,
    Queries,
    choose,
    choose_shuffled,
    draw_queries,
    feature_space,
    resemblance,
    standardized,
    strongest_references,
)
from layer_atlas.plan.jobs import STATUS
from layer_atlas.visualization.optimization.image_statistics import (
    clipped_share,
    high_frequency_share,
)

STRONGEST_PHOTOGRAPH = "strongest photograph"
NINE = "nine photographs"
AGREES_NEXT = "agreement with the next nine"

Numbers = dict[str, NDArray[Any]]
"""Measures by name, with a number per image or per target."""


@dataclass(frozen=True)
class Verdict:
    """What the judges found about the images of a column."""

    summary: dict[str, float]
    """By measure, in the order of the table."""
    each: Numbers
    """The numbers behind it, seed by seed and target by target."""

    def plain(self) -> dict[str, Any]:
        """Plain data for JSON, without NaN."""
        summary = {name: finite(value) for name, value in self.summary.items()}
        each = {name: [finite(v) for v in values] for name, values in self.each.items()}
        return {"summary": summary, "each": each}


def finite(value: Any) -> float | None:
    """The number, or None, which JSON can hold, where there is none."""
    return float(value) if np.isfinite(value) else None


def verdict(
    each: Numbers, whole: Mapping[str, float], ceilings: Mapping[str, float] | None = None
) -> Verdict:
    """Summarise numbers per image: ranks by their median, other numbers by their mean.

    Args:
        each: numbers per image or target; NaN where there is none.
        whole: measures of all images together.
        ceilings: what photographs reach, for the measures whose ratio to it is a measure too.
    """
    summary: dict[str, float] = {}
    for name, values in each.items():
        summary[name] = _summary(name, values)
        if ceilings and name in ceilings:
            summary[f"{name}, over the photographs'"] = summary[name] / ceilings[name]
    return Verdict({**summary, **whole}, each)


def _summary(name: str, values: NDArray[Any]) -> float:
    known = values[np.isfinite(values)]
    if not len(known):
        return float("nan")
    return float(np.median(known) if "rank" in name else known.mean())


@dataclass(frozen=True)
class LayerJudges:
    """The judges of n targets of a layer."""

    targets: NDArray[np.int64]
    """(n,) channels, or classes at the network's output."""
    pixels: Tensor
    """(N, H, W, 3) uint8 photographs, of the size of the images."""
    responses: NDArray[np.float32]
    """(N, K) mean response of each channel to each photograph."""
    classifiers: Sequence[JudgeNetwork]
    """Networks that name images; none where the targets are no classes."""
    observers: Sequence[JudgeNetwork]
    """Networks whose features decide what resembles what."""
    features: Sequence[Features]
    """(N, D) of the photographs, in each observer."""
    classes: NDArray[np.int64] | None
    """(N,) class of each photograph, where the targets are classes."""

    @cached_property
    def agreement(self) -> AgreementJudge:
        """The judge of agreement."""
        return agreement_judge(self.responses)

    @cached_property
    def spaces(self) -> list[FeatureSpace]:
        """The feature space of each observer."""
        return [feature_space(features.mean) for features in self.features]

    @cached_property
    def own_responses(self) -> NDArray[np.float32]:
        """(N, n) response of each target to each photograph."""
        return self.responses[:, self.targets]

    @property
    def strongest_photographs(self) -> Tensor:
        """(n, H, W, 3) the photograph that excites each target most."""
        return self.pixels[self.agreement.strongest_photograph(self.targets)]

    @cached_property
    def photographs(self) -> dict[str, Verdict]:
        """Judge each target's own photographs: the strongest as an image, and nine together.

        For choices they are the strongest of the half that no query is from.
        """
        first = self.agreement.strongest_photograph(self.targets)
        shown = self.strongest_photographs
        references = strongest_references(self.own_responses)
        queries = draw_queries(self.own_responses)
        each = {
            **_agreement_rows(self.agreement.ceiling(self.targets)),
            **self._recognition(shown, self.targets),
            **self._choices([f.mean[references[:, :1]] for f in self.features], queries),
            "high-frequency fraction": high_frequency_share(shown).numpy(),
            "clipped": clipped_share(shown).numpy(),
            "activation": self.responses[first, self.targets],
        }
        nine = self._choices([f.mean[references] for f in self.features], queries)
        return {
            STRONGEST_PHOTOGRAPH: verdict(each, self._octaves(shown)),
            NINE: verdict(nine, {}),
        }

    def photographs_for(self, count: int) -> NDArray[np.int64] | None:
        """Return the photographs (n, count) that the images of a recipe are made from, if any.

        Several are the strongest of the half that no query is from: those of the ceiling.
        """
        if count > 1:
            return strongest_references(self.own_responses, count)
        first = self.agreement.strongest_photograph(self.targets)
        return first[:, None] if count else None

    def judge(self, made: Numbers, n_seeds: int, used: NDArray[np.int64] | None = None) -> Verdict:
        """Judge images.

        Args:
            made: arrays of `ShardResult` and `seconds`, with a row per image, seed by seed.
            n_seeds: number of images per target.
            used: (n, N) photographs that each target's images were made from, if any.
        """
        targets = np.tile(self.targets, n_seeds)
        pixels = torch.from_numpy(made["image"])
        not_asked = None
        if used is not None:
            not_asked = (np.arange(len(self.pixels)) == used[:, :, None]).any(axis=1)
        seen = [observer(pixels) for observer in self.observers]
        hints = [_by_target(features.mean, n_seeds) for features in seen]
        strongest_response = np.tile(self.own_responses.max(axis=0), n_seeds)
        live = made["status"] != STATUS["dead"]
        each = {
            **_agreement_rows(self.agreement.judge(made["response"], targets)),
            **self._recognition(pixels, targets),
            **self._own_photographs([f.peak[: len(self.targets)] for f in seen]),
            **self._choices(hints, draw_queries(self.own_responses, not_asked)),
            **self._reproducibility(made["response"], n_seeds),
            "high-frequency fraction": made["high_frequency"],
            "clipped": made["clipped"],
            "above every photograph": np.where(
                live, made["activation"] > strongest_response, np.nan
            ),
            "activation": made["activation"],
            "robust activation": made["activation_robust"],
            "CPU seconds": made["seconds"],
        }
        whole = {"dead": float((~live).sum()), **self._octaves(pixels)}
        return verdict(each, whole, self._ceilings)

    def _recognition(self, pixels: Tensor, targets: NDArray[np.int64]) -> Numbers:
        rows: Numbers = {}
        for judge in self.classifiers:
            top, probability = recognised(judge(pixels).mean, targets)
            rows[f"named by {judge.label}"] = top.astype(np.float64)
            rows[f"probability by {judge.label}"] = probability
        return rows

    def _own_photographs(self, hints: Sequence[NDArray[np.float32]]) -> Numbers:
        """Rank each class's own photographs, by features (n, D) of the first image of each class.

        A class need not fill an image: features are maxima over positions.
        """
        rows: Numbers = {}
        if self.classes is None:
            return rows
        for observer, features, hint in zip(self.observers, self.features, hints, strict=True):
            space = feature_space(features.peak)
            percentile, rank = own_photograph_rank(space, hint, self.targets, self.classes)
            rows[f"percentile of the own photograph by {observer.label}"] = percentile
            rows[f"rank of the own photograph by {observer.label}"] = rank
        return rows

    def _choices(self, hints: Sequence[NDArray[np.float32]], queries: Queries) -> Numbers:
        rows: Numbers = {}
        for observer, space, hint in zip(self.observers, self.spaces, hints, strict=True):
            similar = resemblance(space, hint)
            chosen, shuffled = choose(similar, queries), choose_shuffled(similar, queries)
            rows[f"choice by {observer.label}"] = chosen.accuracy
            rows[f"its confidence by {observer.label}"] = chosen.confidence
            rows[f"choice by {observer.label}, shuffled targets"] = shuffled.accuracy
        return rows

    def _reproducibility(self, responses: NDArray[np.float32], n_seeds: int) -> Numbers:
        if n_seeds == 1:
            return {}
        mean, std = self.agreement.strongest.mean, self.agreement.strongest.std
        of_seeds = standardized(responses, mean, std).reshape(n_seeds, len(self.targets), -1)
        same, different = seed_similarity(of_seeds, self.targets)
        return {"similarity of two seeds": same, "similarity of two targets": different}

    @cached_property
    def _ceilings(self) -> dict[str, float]:
        """What photographs reach: the strongest one in agreement, nine of them in choices."""
        alone, nine = self.photographs[STRONGEST_PHOTOGRAPH], self.photographs[NINE]
        choices = [f"choice by {observer.label}" for observer in self.observers]
        return {AGREES_NEXT: alone.summary[AGREES_NEXT]} | {n: nine.summary[n] for n in choices}

    def _octaves(self, pixels: Tensor) -> dict[str, float]:
        ratios = octave_ratios(pixels, self.pixels).tolist()
        names = (f"energy at 1/{1 / low:.0f} to 1/{1 / high:.0f}" for low, high in OCTAVES)
        return dict(zip(names, ratios, strict=True))


def _agreement_rows(judged: Numbers) -> Numbers:
    return {
        "agreement": judged["agreement"],
        AGREES_NEXT: judged["agreement_next"],
        "rank": judged["rank"],
        "rank by the next nine": judged["rank_next"],
        "agreement with nine held-out": judged["agreement_held_out"],
        "rank by nine held-out": judged["rank_held_out"],
    }


def _by_target(features: NDArray[np.float32], n_seeds: int) -> NDArray[np.float32]:
    """Turn features (S * n, D), seed by seed, into those of each target's images: (n, S, D)."""
    return features.reshape(n_seeds, -1, features.shape[1]).swapaxes(0, 1)
