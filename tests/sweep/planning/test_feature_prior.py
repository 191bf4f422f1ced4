"""The prior of feature statistics while planning: its source, its keys, its paths."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from runs import run_here, shards
from torch import Tensor, nn
from toys import composed

from layer_atlas.errors import EXIT_OK, UserError
from layer_atlas.plan.labels import notices
from layer_atlas.plan.plan import Plan
from layer_atlas.sweep.planning import inspect_models, make_plan
from layer_atlas.sweep.planning.devices import WorkerDevice

SWEEP = ("image_size=32", "layers=[conv3]", "channels='0:4'", "optimizer.steps=3")
WITH_NORMS = "models=[{name: net, target: tests.sweep.planning.test_feature_prior.normed}]"


def normed() -> nn.Module:
    """A network with a batch norm."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))


class Cancelling(nn.Module):
    """Its batch norm takes a small difference of large numbers, which bf16 cannot hold."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(3, 4, 3)
        with torch.no_grad():
            self.norm.running_mean.fill_(1e4)

    def forward(self, x: Tensor) -> Tensor:
        unused = self.norm(self.first(x) + 1e4)
        return self.last(x) + 0.0 * unused


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    folder.mkdir()
    for number in range(12):
        draw = np.random.default_rng(number)
        squares = Image.fromarray(draw.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        squares.resize((40, 40), Image.Resampling.BICUBIC).save(folder / f"{number:02}.png")
    (folder / "broken.png").write_text("no picture")
    return folder


def planned(*overrides: str) -> Plan:
    config = composed("weights=none", "precision=fp32", *overrides)
    return make_plan(config, inspect_models(config), [WorkerDevice("cpu")])


def shown(album: Path) -> tuple[str, str]:
    return "dataset=folder", f"dataset.path={album}"


def keys(plan: Plan) -> list[str]:
    return [shard.key for shard in plan.shards()]


PRIOR = "regularizers.feature_statistics=3"


@pytest.mark.slow
def test_the_plan_says_where_the_statistics_are_from(album: Path) -> None:
    net = (WITH_NORMS, "image_size=16", "layers=['3']")
    assert notices(planned(*SWEEP)) == notices(planned(*SWEEP, *shown(album)))
    (none,) = notices(planned(*SWEEP, PRIOR))
    assert "has no effect on demo, which has no batch norms: add dataset=folder" in none
    (photographs,) = notices(planned(*SWEEP, PRIOR, *shown(album)))
    assert "are those of up to 256 photographs" in photographs
    said = " ".join(notices(planned(*net, PRIOR, *shown(album))))
    assert "feature statistics of net are those of its batch norms" in said


@pytest.mark.slow
def test_the_dataset_is_part_of_the_keys_only_where_it_decides_pixels(album: Path) -> None:
    net = (WITH_NORMS, "image_size=16", "layers=['3']")
    assert keys(planned(*SWEEP)) == keys(planned(*SWEEP, *shown(album)))
    assert keys(planned(*net, PRIOR)) == keys(planned(*net, PRIOR, *shown(album)))
    before = keys(planned(*SWEEP, PRIOR, *shown(album)))
    assert before != keys(planned(*SWEEP, PRIOR))
    Image.new("RGB", (40, 40), (255, 0, 0)).save(album / "new.png")
    assert before != keys(planned(*SWEEP, PRIOR, *shown(album)))


@pytest.mark.slow
def test_methods_name_the_photographs(album: Path) -> None:
    (model,) = planned(*SWEEP, PRIOR, *shown(album)).models
    assert "distribution over photographs (weight 3; Yin et al. 2020)" in model.recipe.describe()
    (model,) = planned(WITH_NORMS, "image_size=16", "layers=['3']", PRIOR).models
    assert (
        "running statistics of batch norms (weight 3; Yin et al. 2020)" in model.recipe.describe()
    )


def test_a_norm_that_low_precision_cannot_compute_is_found_while_planning() -> None:
    net = ("models=[{name: net, target: tests.sweep.planning.test_feature_prior.Cancelling}]",)
    low = (*net, "image_size=16", "layers=[last]", "precision=bf16")
    config = composed("weights=none", *low)
    assert (
        make_plan(config, inspect_models(config), [WorkerDevice("cpu")]).models[0].recipe.precision
        == "bf16"
    )
    config = composed("weights=none", *low, PRIOR)
    with pytest.raises(UserError, match="cannot be optimized in bf16"):
        make_plan(config, inspect_models(config), [WorkerDevice("cpu")])


@pytest.mark.slow
def test_a_sweep_measures_its_photographs_and_is_resumed_to_the_bit(
    tmp_path: Path, album: Path
) -> None:
    sweep = (*SWEEP, PRIOR, *shown(album), "shard_size=2", "name=a")

    def images(name: str) -> np.ndarray:
        with h5py.File(tmp_path / name / "atlas.h5") as file:
            found: np.ndarray = file["demo/conv3/image"][()]
            return found

    assert run_here(tmp_path, *sweep) == EXIT_OK
    whole, made = images("a"), shards(tmp_path / "a")
    lost = next(name for name in made if name.count("/") == 3)
    (tmp_path / "a" / lost).unlink()
    assert run_here(tmp_path, *sweep) == EXIT_OK
    assert np.array_equal(images("a"), whole)
    assert run_here(tmp_path, *SWEEP, *shown(album), "name=b") == EXIT_OK
    assert not np.array_equal(images("b"), whole)
