"""Objectives about a photograph: what the layer saw in it scores best."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from toys import layer_info, random_network, surroundings

from layer_atlas.config.objectives import (
    AccentuationObjective,
    CaricatureObjective,
    InversionObjective,
)
from layer_atlas.config.objectives import (
    Objective as Record,
)
from layer_atlas.datasets.image_files import read_picture
from layer_atlas.errors import UserError
from layer_atlas.visualization.objectives import Objective, make_objective

NETWORK = random_network(nn.Conv2d(3, 4, 3), nn.ReLU())


def activations(images: Tensor) -> list[Tensor]:
    return [NETWORK(images).flatten(2)]


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def objective_of(record: Record) -> Objective:
    around = surroundings(layer_info(n_channels=4), activations=activations, find=Path)
    return make_objective(record, around)


def seen(path: Path) -> Tensor:
    with torch.no_grad():
        return activations(torch.from_numpy(read_picture(path, 3, (16, 16))))[0]


ZERO = torch.tensor([0])


def test_an_inversion_scores_0_at_the_photograph_and_less_elsewhere(photograph: Path) -> None:
    objective, there = (
        objective_of(InversionObjective(photograph=str(photograph))),
        seen(photograph),
    )
    assert objective.score([there], ZERO).item() == pytest.approx(0.0, abs=1e-6)
    assert objective.score([torch.zeros_like(there)], ZERO).item() == pytest.approx(-1.0)
    assert objective.score([3.0 * there], ZERO).item() == pytest.approx(-4.0)


def test_a_caricature_exaggerates_what_was_seen(photograph: Path) -> None:
    there = seen(photograph)
    objective = objective_of(CaricatureObjective(photograph=str(photograph)))
    once, twice = (objective.score([f * there], ZERO).item() for f in (1.0, 2.0))
    assert once == pytest.approx(there.square().mean().item(), rel=1e-5)
    assert twice == pytest.approx(2.0 * once, rel=1e-5)


def test_the_cosine_of_a_caricature_weighs_the_angle(photograph: Path) -> None:
    there, other = seen(photograph), torch.rand(1, 4, 196)
    plain, weighed = (
        objective_of(CaricatureObjective(photograph=str(photograph), cosine_power=power))
        for power in (0.0, 2.0)
    )
    cosine = torch.nn.functional.cosine_similarity(there.flatten(1), other.flatten(1)).item()
    ratio = weighed.score([other], ZERO) / plain.score([other], ZERO)
    assert ratio.item() == pytest.approx(cosine**2, rel=1e-4)


def test_an_accentuation_pays_for_changes_of_other_channels_alone(photograph: Path) -> None:
    there = seen(photograph)
    record = AccentuationObjective(photograph=str(photograph), faithfulness=2.0)
    objective, target = objective_of(record), torch.tensor([1])
    raised, changed = there.clone(), there.clone()
    raised[:, 1] += 5.0
    changed[:, 2] += 5.0
    score, surrogate = objective.surrogate([raised], target)
    assert surrogate.item() == score.item()
    score, surrogate = objective.surrogate([changed], target)
    energy = there.square().sum().item()
    assert (score - surrogate).item() == pytest.approx(
        2.0 * abs(score.item()) * 25.0 * there.shape[2] / energy, rel=1e-4
    )


def test_a_photograph_that_is_no_image_is_told(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("a text")
    with pytest.raises(UserError, match="cannot be read: it is no image"):
        objective_of(InversionObjective(photograph=str(tmp_path / "photo.jpg")))
