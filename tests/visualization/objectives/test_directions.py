"""Directions: known responses, files of every kind, and mistakes told."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from toys import layer_info, surroundings

from layer_atlas.config.objectives import DirectionObjective
from layer_atlas.errors import UserError
from layer_atlas.visualization.objectives import Objective, make_objective
from layer_atlas.visualization.objectives.directions import random_directions, read_directions

MATRIX = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, -2.0]])
MAPS = torch.tensor([[[1.0, 2.0], [0.0, 1.0]]])
"""One sample, two channels, two positions."""


def objective_of(matrix: Tensor, folder: Path, **changes: object) -> Objective:
    np.save(folder / "m.npy", matrix.numpy())
    record = DirectionObjective(vectors="m.npy", **changes)  # type: ignore[arg-type]
    layer = layer_info(n_channels=2)
    return make_objective(record, surroundings(layer, find=lambda name: folder / name))


def test_the_response_is_the_product_with_the_direction_of_length_1(tmp_path: Path) -> None:
    objective = objective_of(MATRIX, tmp_path)
    assert objective.sizes == (3,)
    for row, expected in enumerate([[1.0, 2.0], [0.6, 2.0], [0.0, -1.0]]):
        responses = objective.responses([MAPS], torch.tensor([row]))
        assert responses.flatten().tolist() == pytest.approx(expected)


def test_the_cosine_weighs_each_position(tmp_path: Path) -> None:
    responses = objective_of(MATRIX, tmp_path, cosine_power=2.0).responses(
        [MAPS], torch.tensor([0])
    )
    assert responses.flatten().tolist() == pytest.approx([1.0, 2.0 * 4 / 5])
    against = objective_of(MATRIX, tmp_path, cosine_power=1.0).responses([MAPS], torch.tensor([2]))
    assert against.flatten().tolist() == pytest.approx([0.0, -0.1])


def test_a_unit_vector_is_a_channel(tmp_path: Path) -> None:
    activation = torch.randn(3, 2, 5, requires_grad=True)
    objective = objective_of(torch.eye(2), tmp_path)
    score = objective.score([activation], torch.tensor([0, 1, 1]))
    assert torch.allclose(score, activation[[0, 1, 2], [0, 1, 1]].mean(dim=1))
    (gradient,) = torch.autograd.grad(score.sum(), activation)
    expected = torch.zeros(3, 2, 5)
    expected[[0, 1, 2], [0, 1, 1]] = 0.2
    assert torch.allclose(gradient, expected)


def test_random_directions_are_spread_evenly_and_their_own() -> None:
    few, many = random_directions(10, 64), random_directions(300, 64)
    assert torch.equal(many[:10], few)
    assert abs(float(many.mean())) < 0.03
    assert float(many.std()) == pytest.approx(1.0, abs=0.03)
    cosines = torch.nn.functional.normalize(many) @ torch.nn.functional.normalize(many).T
    assert float((cosines - torch.eye(300)).abs().max()) < 0.7


WRITERS = {
    "m.npy": lambda path: np.save(path, MATRIX.numpy()),
    "one.npz": lambda path: np.savez(path, anything=MATRIX.numpy()),
    "two.npz": lambda path: np.savez(path, conv=MATRIX.numpy(), other=np.zeros((1, 9))),
    "m.safetensors": lambda path: save_file({"conv": MATRIX, "bias": torch.zeros(3)}, path),
    "m.pt": lambda path: torch.save(MATRIX, path),
    "named.pt": lambda path: torch.save({"conv": MATRIX}, path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_files_of_every_kind_are_read(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    assert torch.equal(read_directions(tmp_path / name, None, "conv"), MATRIX)


def test_a_vector_is_one_direction(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.asarray([3.0, 4.0], np.float32))
    assert read_directions(tmp_path / "v.npy", None, "conv").tolist() == [[3.0, 4.0]]


@pytest.mark.parametrize(
    ("entry", "words"),
    [(None, ["conv9", "choose from: ", "objective.entry"]), ("comv", ["'comv'", "from: conv"])],
)
def test_one_of_several_matrices_must_be_named(
    entry: str | None, words: list[str], tmp_path: Path
) -> None:
    WRITERS["two.npz"](tmp_path / "m.npz")
    with pytest.raises(UserError) as caught:
        read_directions(tmp_path / "m.npz", entry, "conv9")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (np.zeros((2, 3, 4)), "with a direction per row, not [2, 3, 4]"),
        (np.full((2, 3), np.nan), "finite"),
        (np.asarray([[1.0, 0.0], [0.0, 0.0]]), "a row of zeros"),
    ],
)
def test_what_is_no_matrix_of_directions_is_told(
    matrix: np.ndarray, words: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "m.npy", matrix)
    with pytest.raises(UserError) as caught:
        read_directions(tmp_path / "m.npy", None, "conv")
    assert words in str(caught.value)


@pytest.mark.filterwarnings("ignore")  # of torch, about sparse tensors
@pytest.mark.parametrize(
    "matrix",
    [
        torch.eye(2).to_sparse(),
        torch.eye(2) * 1j,
        torch.eye(2).to("meta"),
        torch.ones(1, 1).expand(10**6, 10**6),
    ],
    ids=["sparse", "complex", "without values", "one number for a terabyte"],
)
def test_what_is_no_plain_array_is_told(matrix: Tensor, tmp_path: Path) -> None:
    torch.save({"conv": matrix}, tmp_path / "m.pt")
    with pytest.raises(UserError, match=r"'conv' in .*m.pt' is no plain array of real numbers"):
        read_directions(tmp_path / "m.pt", None, "conv")


def test_a_direction_of_the_wrong_length_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"have 3 numbers each, but .* has 2 channels"):
        objective_of(torch.ones(4, 3), tmp_path)


def test_files_hold_data_and_never_code(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", np.asarray([print], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="not a readable file"):
        read_directions(tmp_path / "m.npy", None, "conv")
