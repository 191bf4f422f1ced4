"""Maps of activations: cells, means and directions are what plain numpy finds in the samples."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import pdist
from threadpoolctl import threadpool_limits
from torch import nn

from layer_atlas.config.objectives import ActivationAtlasObjective
from layer_atlas.datasets import activation_map, projection
from layer_atlas.datasets.activation_map import (
    KEPT_CLASSES,
    ActivationMap,
    cells_of,
    check_atlas,
    map_of,
)
from layer_atlas.datasets.sources import Entry
from layer_atlas.errors import UserError
from layer_atlas.models.activations import Sampler, module_of
from layer_atlas.models.introspection import describe_layers
from layer_atlas.store.files import Arrays

N, K, CLASSES = 300, 5, 7
GRIDS = (3, 4)


def vectors(n: int = N) -> NDArray[np.float32]:
    """Activations of four kinds, and a few that are far from all others."""
    draw = np.random.default_rng(0)
    kinds = draw.normal(size=(4, K)) * 3
    found = kinds[np.arange(n) % 4] + draw.normal(size=(n, K))
    found[::150] *= 20
    return found.astype(np.float32)


class Blocks:
    """Samples in blocks of a size."""

    def __init__(self, rows: NDArray[np.float32], size: int = 64) -> None:
        self.rows, self.size = rows, size

    def __iter__(self) -> Iterator[Arrays]:
        scores = np.random.default_rng(1).random((len(self.rows), CLASSES), np.float32)
        order = np.argsort(-scores, axis=1)[:, :3]
        for start in range(0, len(self.rows), self.size):
            part = slice(start, start + self.size)
            yield {
                "index": np.arange(len(self.rows), dtype=np.int64)[part] * 2,
                "place": np.arange(len(self.rows), dtype=np.int32)[part] % 16,
                "vector": self.rows[part],
                "classes": np.asarray(CLASSES, np.int64),
                "class": order[part].astype(np.int32),
                "attribution": np.take_along_axis(scores, order, 1)[part],
            }


def settings(**changes: object) -> ActivationAtlasObjective:
    return ActivationAtlasObjective(**{"grid": GRIDS, "projection": "pca", **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made() -> ActivationMap:
    return map_of(Blocks(vectors()), settings(), K)


def test_cells_hold_their_samples_and_their_mean(made: ActivationMap) -> None:
    rows = vectors()
    for grid, (first, side) in enumerate([(0, 3), (9, 4)]):
        x, y = np.minimum((made.position * side).astype(int), side - 1).T
        assert (made.cell[:, grid] == first + y * side + x).all()
    for p, target in enumerate(made.target):
        held = rows[(made.cell == target).any(axis=1)]
        assert made.count[p] == len(held) > 0
        assert np.allclose(made.mean[p], held.mean(axis=0), atol=1e-5)
    assert set(made.target) == set(made.cell.ravel()) - {-1}
    assert made.count.sum() == N * len(GRIDS)


def test_directions_are_whitened_by_the_second_moment(made: ActivationMap) -> None:
    rows = vectors().astype(np.float64)
    ridge = settings().ridge * np.cov(rows.T, bias=True).trace() / K
    moment = rows.T @ rows / N + ridge * np.eye(K)
    assert np.allclose(made.direction, made.mean @ np.linalg.inv(moment), rtol=1e-3, atol=1e-4)


def test_attributions_are_means_over_the_members(made: ActivationMap) -> None:
    full = np.zeros((N, CLASSES))
    for start, block in zip(range(0, N, 64), Blocks(vectors()), strict=True):
        rows = start + np.arange(len(block["index"]))[:, None]
        full[rows, block["class"]] = block["attribution"]
    for p, target in enumerate(made.target):
        mean = full[(made.cell == target).any(axis=1)].mean(axis=0)
        assert np.allclose(made.class_attribution[p], np.sort(mean)[::-1], atol=1e-5)
        assert np.allclose(mean[made.class_index[p]], made.class_attribution[p], atol=1e-5)


def test_closeness_is_the_cosine_with_the_mean_of_the_cell(made: ActivationMap) -> None:
    rows, means = vectors(), dict(zip(made.target.tolist(), made.mean, strict=True))
    for i in range(0, N, 17):
        mean = means[made.cell[i, 1]]
        cosine = rows[i] @ mean / np.linalg.norm(rows[i]) / np.linalg.norm(mean)
        assert made.closeness[i, 1] == pytest.approx(cosine, abs=1e-5)


def test_thin_cells_are_left_empty(made: ActivationMap) -> None:
    thick = map_of(Blocks(vectors()), settings(least=10), K)
    assert thick.target.tolist() == made.target[made.count >= 10].tolist() != made.target.tolist()
    assert ((thick.cell == -1) == np.isnan(thick.closeness)).all()
    assert set(thick.cell.ravel()) == {-1, *thick.target.tolist()}


def test_a_few_outliers_do_not_take_the_grid(made: ActivationMap) -> None:
    fine = cells_of(made.position, (8,))
    assert made.position.min() == 0
    assert made.position.max() == 1
    assert len(np.unique(fine)) > 16, "nearly all samples share a few cells"


@pytest.mark.parametrize("size", [7, 300])
def test_blocks_of_any_size_give_the_same_map(made: ActivationMap, size: int) -> None:
    other = map_of(Blocks(vectors(), size), settings(), K)
    for name, array in vars(made).items():
        assert np.allclose(array, getattr(other, name), atol=1e-4, equal_nan=True), name
    assert made.cell.tolist() == other.cell.tolist()


def test_neighbours_are_more_alike_than_random_pairs() -> None:
    fine = map_of(Blocks(vectors(), 64), settings(grid=(6,)), K)
    rows = dict(zip(fine.target.tolist(), fine.mean, strict=True))

    def cosine(a: int, b: int) -> float:
        return float(rows[a] @ rows[b] / np.linalg.norm(rows[a]) / np.linalg.norm(rows[b]))

    near = [cosine(t, t + 1) for t in rows if t % 6 < 5 and t + 1 in rows]
    pairs = [cosine(a, b) for a in rows for b in rows if a < b]
    assert np.mean(near) > np.mean(pairs) + 0.2


def test_a_subsample_is_fitted_where_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activation_map, "FITTED", 100)
    fitted = map_of(Blocks(vectors()), settings(), K)
    assert len(fitted.index) == N, "all others are taken along"


def test_samples_without_a_direction_populate_no_cell() -> None:
    rows = np.zeros((20, K), np.float32)
    assert map_of(Blocks(rows), settings(), K).target.tolist() == []
    assert map_of(Blocks(rows[:0]), settings(), K).cell.shape == (0, 2)


_UMAP = """
import sys, hashlib
from datasets.test_activation_map import *
made = map_of(Blocks(vectors(120)), settings(projection="umap"), K)
again = map_of(Blocks(vectors(120)), settings(projection="umap"), K)
assert made.position.tobytes() == again.position.tobytes()
print(hashlib.sha256(b"".join(a.tobytes() for a in vars(made).values())).hexdigest())
"""


@pytest.mark.slow
def test_umap_gives_the_same_bits_in_every_process() -> None:
    tests = str(Path(__file__).parents[1])
    said = [
        subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {tests!r})\n{_UMAP}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for _ in range(2)
    ]
    assert said[0] == said[1] != ""


class FakeUMAP:
    """Takes two channels as coordinates: fits some samples, and takes others along."""

    def __init__(self, **settings: object) -> None:
        assert settings["random_state"] == 0
        assert settings["n_jobs"] == 1

    def fit(self, rows: NDArray[np.float32]) -> "FakeUMAP":
        self.embedding_ = rows[:, :2]
        return self

    def transform(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return rows[:, :2]


def test_umap_takes_others_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=FakeUMAP))
    monkeypatch.setattr(activation_map, "FITTED", 60)
    made = map_of(Blocks(vectors(120), 50), settings(projection="umap"), K)
    points = vectors(120)[:, :2]
    low, high = np.quantile(points, [0.01, 0.99], axis=0)
    assert np.allclose(made.position, np.clip((points - low) / (high - low), 0, 1), atol=1e-5)


@pytest.mark.slow
def test_tsne_keeps_kinds_together_from_known_axes_to_the_same_bits() -> None:
    pytest.importorskip("sklearn")
    draw, kind = np.random.default_rng(0), np.arange(90) % 3
    centres = np.eye(3, K, dtype=np.float32) * 4
    rows = centres[kind] + 0.3 * draw.normal(size=(90, K)).astype(np.float32)
    # Lengths must not matter: it goes by cosine.
    rows *= draw.uniform(0.1, 10, (90, 1)).astype(np.float32)
    fitted = projection.fit_neighbours("tsne", rows, 10, 0)
    assert fitted is not None
    points = fitted.embedding_
    middles = np.stack([points[kind == k].mean(axis=0) for k in range(3)])
    apart = np.linalg.norm(points[:, None] - middles, axis=2)
    assert (apart.argmin(axis=1) == kind).all()
    assert np.take_along_axis(apart, kind[:, None], 1).max() < 0.5 * pdist(middles).min()
    with threadpool_limits(2):
        again = projection.fit_neighbours("tsne", rows, 10, 0)
    assert again is not None
    assert again.embedding_.tobytes() == points.tobytes()
    # Others lie on the most similar of them, more of them than are compared at once.
    others = np.tile(rows * 3, (4, 1))
    assert (fitted.transform(others) == np.tile(points, (4, 1))).all()


def test_a_map_by_tsne_takes_others_along(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setattr(activation_map, "FITTED", 60)
    made = map_of(Blocks(vectors(120), 50), settings(projection="tsne"), K)
    assert len(made.index) == 120
    assert len(np.unique(made.position, axis=0)) <= 60
    assert made.position.min() == 0
    assert made.position.max() == 1


# --- messages ------------------------------------------------------------------------------------


class Photographs:
    def __init__(self, *paths: str) -> None:
        self.paths = paths

    def entries(self) -> Iterator[Entry]:
        return (Entry(path, 1) for path in self.paths)

    def image(self, index: int, entry: Entry) -> object:
        raise NotImplementedError


def test_mistakes_are_named_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    some = Photographs("a/cats/1.png", "dogs/2.png")
    check_atlas(settings(classes=("cats", "dogs")), some)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"cat.*cats"):
        check_atlas(settings(classes=("cat",)), some)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="lie in none"):
        check_atlas(settings(classes=("cat",)), Photographs("1.png"))  # type: ignore[arg-type]
    monkeypatch.setattr(projection.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"layer-atlas\[maps\].*projection=pca"):
        check_atlas(settings(projection="umap"), some)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"scikit-learn.*layer-atlas\[maps\].*projection=pca"):
        check_atlas(settings(projection="tsne"), some)  # type: ignore[arg-type]
    check_atlas(settings(projection="pca"), some)  # type: ignore[arg-type]


# --- samples -------------------------------------------------------------------------------------


class Toy(nn.Module):
    """A small network with a smooth head, an in-place ReLU and tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, KEPT_CLASSES + 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.relu(self.conv(x))
        tokens: torch.Tensor = self.norm(maps.flatten(2).transpose(1, 2))
        logits: torch.Tensor = self.head(torch.tanh(tokens).mean(dim=1))
        return logits


@pytest.mark.parametrize("name", ["conv", "norm", "output"])
def test_samples_and_attributions_are_those_of_plain_hooks(name: str) -> None:
    net = Toy().eval()
    images = torch.rand(5, 3, 8, 8)
    (info,) = (i for i in describe_layers(net, images[:1]) if i.name == name)
    places = torch.arange(5) * 7 % info.positions
    found = Sampler(net, [info], labels=True)(images, {name: places})[name]
    seen: list[torch.Tensor] = []

    def keep(module: nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:
        seen.append(output.clone().requires_grad_())
        return seen[0].clone()

    handle = module_of(net, name).register_forward_hook(keep)
    scores = net(images)
    handle.remove()
    whole = seen[0].transpose(1, 2) if name == "norm" else seen[0].flatten(1)[:, :, None]
    whole = seen[0].flatten(2) if name == "conv" else whole
    rows = torch.arange(5)
    expected = whole[rows, :, places]
    assert torch.allclose(found.vector, expected, atol=1e-6)
    for k in (0, 11, 33):
        (slope,) = torch.autograd.grad(scores[:, k].sum(), seen[0], retain_graph=True)
        slope = slope.transpose(1, 2) if name == "norm" else slope.flatten(1)[:, :, None]
        if name == "conv":
            (slope,) = torch.autograd.grad(scores[:, k].sum(), seen[0], retain_graph=True)
            slope = slope.flatten(2)
        product = (slope[rows, :, places] * expected).sum(dim=1)
        assert torch.allclose(found.attribution[:, k], product.detach(), atol=2e-4), k


def test_networks_without_class_scores_have_no_attributions() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    images = torch.rand(2, 3, 8, 8)
    info = describe_layers(net, images[:1])[0]
    found = Sampler(net, [info], labels=True)(images, {info.name: torch.zeros(2).long()})
    assert found[info.name].attribution.shape == (2, 0)
