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
    assert torch.equal(read_directions(tmp_path / name, None, "conv", 2), MATRIX)


# --- sparse autoencoders -------------------------------------------------------------------------

LATENTS = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, -2.0], [0.5, 0.5]])
"""A decoder of 4 latents for 2 channels: a direction per row."""
BIAS = torch.tensor([7.0, 9.0])


class _Config:
    """Stands for the class of a config, which the reader need not have."""


def _linear_parts() -> dict[str, Tensor]:
    return {
        "encoder.weight": torch.ones(4, 2),
        "encoder.bias": torch.zeros(4),
        "decoder.weight": LATENTS.T.contiguous(),
    }


def _plain_parts() -> dict[str, Tensor]:
    return {
        "W_enc": torch.ones(2, 4),
        "b_enc": torch.zeros(4),
        "W_dec": LATENTS,
        "b_dec": BIAS,
    }


def _saev(path: Path) -> None:
    """A line of JSON, then the state dict."""
    with open(path, "wb") as file:
        file.write(b'{"schema": 2, "cfg": {"d_vit": 2, "exp_factor": 2}}\n')
        torch.save(_plain_parts(), file)


def _overcomplete(path: Path) -> None:
    """A pickled module of a class that the reader does not have."""
    sae = torch.nn.Module()
    sae.encoder = torch.nn.Linear(2, 4)
    sae.dictionary = torch.nn.Module()
    sae.dictionary._weights = torch.nn.Parameter(LATENTS.clone())
    torch.save(sae, path)


def _archetypal(path: Path) -> None:
    """Rows are mixtures of 3 data points, relaxed; W has a negative weight, which counts as 0."""
    points = torch.tensor([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    weights = torch.tensor([[1.0, 0, 0], [0, 3.0, -1.0], [0, 0, 2.0], [1.0, 1.0, 0]])
    mixed = torch.tensor([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0], [1.0, 1.0]])
    parts = {"C": points, "W": weights, "Relax": LATENTS - mixed, "multiplier": torch.tensor(0.3)}
    torch.save({f"dictionary.{name}": part for name, part in parts.items()}, path)


DECODER_FILES = {
    "saev.pt": _saev,
    "overcomplete.pth": _overcomplete,
    "overcomplete_archetypal.pth": _archetypal,
    "prisma.pt": lambda path: torch.save({"cfg": _Config(), "state_dict": _plain_parts()}, path),
    "sae_weights.safetensors": lambda path: save_file(_plain_parts(), path),
    "sparsify.safetensors": lambda path: save_file(
        {"encoder.weight": torch.ones(4, 2), "W_dec": LATENTS, "b_dec": BIAS}, path
    ),
    "dictionary_learning.pt": lambda path: torch.save({**_linear_parts(), "bias": BIAS}, path),
    "openai.pt": lambda path: torch.save(
        {"pre_bias": BIAS, **_linear_parts(), "activation": "ReLU"}, path
    ),
    "openai_tied.pt": lambda path: torch.save(
        {"encoder.weight": LATENTS, "decoder.linear.weight": LATENTS, "pre_bias": BIAS}, path
    ),
    "linear.pt": lambda path: torch.save({**_linear_parts(), "decoder.bias": BIAS}, path),
    "compiled.pt": lambda path: torch.save(
        {f"_orig_mod.{name}": part for name, part in _plain_parts().items()}, path
    ),
    "other_way_round.safetensors": lambda path: save_file(
        {"W_dec": LATENTS.T.contiguous(), "b_dec": BIAS}, path
    ),
}
"""Layouts of sparse autoencoders, as their packages write them, of the same decoder."""


@pytest.mark.parametrize("name", DECODER_FILES)
def test_decoders_of_sparse_autoencoders_are_found_and_turned(name: str, tmp_path: Path) -> None:
    DECODER_FILES[name](tmp_path / name)
    rows = read_directions(tmp_path / name, None, "blocks.8", 2)
    assert torch.allclose(rows, LATENTS, atol=1e-6)


def test_a_square_decoder_is_turned_by_its_name(tmp_path: Path) -> None:
    square = LATENTS[:2]
    torch.save({"encoder.weight": square, "decoder.weight": square.T}, tmp_path / "linear.pt")
    torch.save({"W_enc": square, "W_dec": square}, tmp_path / "plain.pt")
    for name in ("linear.pt", "plain.pt"):
        assert torch.equal(read_directions(tmp_path / name, None, "conv", 2), square)


def test_the_decoder_that_was_taken_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save({**_linear_parts(), "decoder.bias": BIAS}, tmp_path / "sae.pt")
    with caplog.at_level("INFO", "layer_atlas"):
        read_directions(tmp_path / "sae.pt", None, "conv", 2)
    assert "the 4 columns of decoder.weight, without the decoder's bias" in caplog.text


def test_one_of_several_decoders_must_be_named_unless_one_is_the_layers(tmp_path: Path) -> None:
    several = {"conv1.W_dec": LATENTS, "conv2.W_dec": 2 * LATENTS}
    save_file(several, tmp_path / "saes.safetensors")
    own = read_directions(tmp_path / "saes.safetensors", None, "conv2", 2)
    assert torch.equal(own, 2 * LATENTS)
    with pytest.raises(UserError, match=r"several decoders: conv1.W_dec, conv2.W_dec.*entry="):
        read_directions(tmp_path / "saes.safetensors", None, "conv3", 2)
    named = read_directions(tmp_path / "saes.safetensors", "conv1.W_dec", "conv3", 2)
    assert torch.equal(named, LATENTS)


def test_a_decoder_for_another_layer_is_told_with_its_shape(tmp_path: Path) -> None:
    torch.save({"W_dec": torch.ones(9, 5), "b_dec": torch.ones(5)}, tmp_path / "sae.pt")
    with pytest.raises(UserError, match=r"\(rows of W_dec\) have 5 numbers each.* has 2 channels"):
        read_directions(tmp_path / "sae.pt", None, "conv", 2)
    torch.save({"W_dec": torch.ones(2, 9, 5), "b_dec": torch.ones(5)}, tmp_path / "cross.pt")
    with pytest.raises(UserError, match=r"not \[2, 9, 5\]"):
        read_directions(tmp_path / "cross.pt", None, "conv", 2)


def test_a_vector_is_one_direction(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.asarray([3.0, 4.0], np.float32))
    assert read_directions(tmp_path / "v.npy", None, "conv", 2).tolist() == [[3.0, 4.0]]


@pytest.mark.parametrize(
    ("entry", "words"),
    [(None, ["conv9", "choose from: ", "objective.entry"]), ("comv", ["'comv'", "from: conv"])],
)
def test_one_of_several_matrices_must_be_named(
    entry: str | None, words: list[str], tmp_path: Path
) -> None:
    WRITERS["two.npz"](tmp_path / "m.npz")
    with pytest.raises(UserError) as caught:
        read_directions(tmp_path / "m.npz", entry, "conv9", 2)
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
        read_directions(tmp_path / "m.npy", None, "conv", 2)
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
        read_directions(tmp_path / "m.pt", None, "conv", 2)


def test_a_direction_of_the_wrong_length_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"have 3 numbers each, but .* has 2 channels"):
        objective_of(torch.ones(4, 3), tmp_path)


def test_files_hold_data_and_never_code(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", np.asarray([print], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="not a readable file"):
        read_directions(tmp_path / "m.npy", None, "conv", 2)
