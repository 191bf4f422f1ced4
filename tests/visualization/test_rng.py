"""Random numbers: the published Philox, and a draw depends on its own key and place alone."""

import math

import pytest
import torch
from torch import Tensor

from layer_atlas.visualization import rng

JOB_KEYS = [f"{i * 0x9E3779B97F4A7C15 % 2**64:016x}" + "0" * 48 for i in range(1, 9)]

# `kat_vectors` of Random123, the reference implementation: philox4x32, 10 rounds.
KNOWN = [
    ("0" * 32, "0" * 16, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("f" * 32, "f" * 16, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        "243f6a8885a308d313198a2e03707344",
        "a4093822299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


def words(text: str) -> list[Tensor]:
    return [torch.tensor(int(text[i : i + 8], 16)) for i in range(0, len(text), 8)]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_gives_the_published_vectors(counter: str, key: str, expected: str) -> None:
    drawn = rng.philox(words(counter), words(key))
    assert " ".join(f"{int(word):08x}" for word in drawn) == expected


def test_keys_are_the_first_64_bits_of_the_job_keys() -> None:
    keys = rng.keys(["0123456789abcdef" + "7" * 48, "f" * 64])
    assert keys.tolist() == [[0x01234567, 0x89ABCDEF], [0xFFFFFFFF, 0xFFFFFFFF]]


def test_draws_do_not_depend_on_batch_mates_or_their_order() -> None:
    keys = rng.keys(JOB_KEYS)
    uniform, normal = rng.uniform(keys, rng.WARP, 5, 7), rng.normal(keys, rng.INITIAL, 33)
    order = torch.tensor([3, 0, 7, 1, 6, 2, 5, 4])
    assert torch.equal(rng.uniform(keys[order], rng.WARP, 5, 7), uniform[order])
    assert torch.equal(rng.normal(keys[order], rng.INITIAL, 33), normal[order])
    for b in range(len(keys)):
        assert torch.equal(rng.uniform(keys[b : b + 1], rng.WARP, 5, 7)[0], uniform[b])
        assert torch.equal(rng.normal(keys[b : b + 1], rng.INITIAL, 33)[0], normal[b])


def test_more_steps_and_numbers_only_add_to_fewer() -> None:
    keys = rng.keys(JOB_KEYS)
    assert torch.equal(
        rng.uniform(keys, rng.WARP, 3, 5), rng.uniform(keys, rng.WARP, 9, 14)[:, :3, :5]
    )


def test_keys_streams_and_steps_share_no_draws() -> None:
    draws = torch.stack([rng.uniform(rng.keys(JOB_KEYS), stream, 6, 16) for stream in range(2)])
    # 1536 draws of 2**23 values: some 0.14 equal pairs are expected by chance.
    assert len(draws.unique()) >= draws.numel() - 3


def test_attempts_have_keys_of_their_own() -> None:
    keys = rng.keys(JOB_KEYS)
    assert torch.equal(rng.derived(keys, rng.START, 0), keys)
    attempts = torch.stack([rng.derived(keys, rng.START, start) for start in range(5)])
    assert attempts.shape == (5, 8, 2)
    assert attempts.min() >= 0
    assert attempts.max() < 2**32
    assert len(attempts.flatten(0, 1).unique(dim=0)) == 40
    assert torch.equal(rng.derived(keys[3:4], rng.START, 2), attempts[2, 3:4])


def test_steps_have_keys_of_their_own() -> None:
    keys = rng.keys(JOB_KEYS)
    drawn = rng.step_keys(keys, rng.NOISE_KEY, 6)
    assert drawn.shape == (8, 6, 2)
    assert drawn.min() >= 0
    assert drawn.max() < 2**32
    assert len(drawn.flatten(0, 1).unique(dim=0)) == 48
    assert torch.equal(rng.step_keys(keys[3:4], rng.NOISE_KEY, 2), drawn[3:4, :2])


def test_uniform_never_reaches_its_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def extremes(counter: list[Tensor], key: list[Tensor]) -> list[Tensor]:
        shape = torch.broadcast_shapes(*(t.shape for t in (*counter, *key)))
        return [torch.full(shape, value) for value in (0, 2**32 - 1, 0, 2**32 - 1)]

    monkeypatch.setattr(rng, "philox", extremes)
    drawn = rng.uniform(rng.keys(JOB_KEYS), 0, 1, 4)
    assert 0 < drawn.min() < 1e-6
    assert 1 - 1e-6 < drawn.max() < 1
    assert torch.isfinite(rng.normal(rng.keys(JOB_KEYS), 0, 4)).all()


def test_uniform_is_uniform() -> None:
    drawn = rng.uniform(rng.keys(JOB_KEYS), rng.WARP, 100, 250).flatten()
    counts = torch.histc(drawn, bins=64, min=0, max=1)
    expected = drawn.numel() / 64
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 130  # 63 degrees of freedom: one in a million


@pytest.mark.parametrize("n", [20_000, 20_001])
@pytest.mark.parametrize("quick", [False, True])
def test_normal_is_normal(n: int, quick: bool) -> None:
    keys = rng.keys(JOB_KEYS)
    drawn = (rng.quick_normal(keys, n) if quick else rng.normal(keys, rng.INITIAL, n)).double()
    assert drawn.shape == (8, n)
    moments = [float((drawn**k).mean()) for k in range(1, 5)]
    assert moments == pytest.approx([0, 1, 0, 3], abs=0.06)
    cdf = 0.5 * (1 + torch.erf(drawn.flatten().sort().values / math.sqrt(2)))
    ranks = (torch.arange(cdf.numel()) + 0.5) / cdf.numel()
    assert float((cdf - ranks).abs().max()) < 2.5 / math.sqrt(cdf.numel())  # Kolmogorov


def test_quick_normal_depends_on_its_key_and_place_alone() -> None:
    keys = rng.keys(JOB_KEYS)
    drawn = rng.quick_normal(keys, 33)
    assert torch.equal(rng.quick_normal(keys[2:4], 20), drawn[2:4, :20])
    wide = rng.quick_normal(keys, 20_000).double()
    assert torch.corrcoef(wide).fill_diagonal_(0).abs().max() < 0.04
    for lag in (1, 2, 8):
        assert abs(float((wide[:, lag:] * wide[:, :-lag]).mean())) < 0.02


def test_normal_numbers_of_a_sample_are_not_correlated() -> None:
    drawn = rng.normal(rng.keys(JOB_KEYS), rng.INITIAL, 20_000).double()
    for lag in (1, 2, 10_000):  # 10,000 apart lie the cosine and the sine of one pair
        assert abs(float((drawn[:, lag:] * drawn[:, :-lag]).mean())) < 0.02
