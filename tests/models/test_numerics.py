"""Fingerprints: the same for rounding, another for anything else."""

import pytest
import torch
from torch import Tensor

from layer_atlas.models.numerics import fingerprint, is_same

ACTIVATION = torch.rand(2, 40, 49, generator=torch.Generator().manual_seed(0)) ** 4


def test_rounding_is_the_same() -> None:
    noise = 1 + 1e-4 * torch.randn(ACTIVATION.shape, generator=torch.Generator().manual_seed(1))
    assert is_same(fingerprint(ACTIVATION), fingerprint(ACTIVATION * noise))
    assert is_same(fingerprint(ACTIVATION), fingerprint(ACTIVATION.double()))


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a * 1.01,
        lambda a: a + 0.05,
        lambda a: a.roll(1, 1),
        lambda a: a.roll(1, 2),
        lambda a: a.flip(0),
        lambda a: a.mT.reshape(a.shape),
        torch.zeros_like,
    ],
    ids=["scaled", "moved", "other channels", "shifted", "other images", "other axes", "none"],
)
def test_anything_else_is_another(change) -> None:
    assert not is_same(fingerprint(change(ACTIVATION)), fingerprint(ACTIVATION))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_says_nothing(value: float) -> None:
    spoilt: Tensor = ACTIVATION.clone()
    spoilt[0, 0, 0] = value
    assert fingerprint(spoilt) == ()
    assert is_same((), fingerprint(ACTIVATION))
