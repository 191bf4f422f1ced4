"""Fingerprints: the same for rounding, another for anything else."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from layer_atlas.models.activations import fingerprint, is_same

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


PRODUCTS = """
import layer_atlas
import torch
torch.manual_seed(0)
for k, n in ((192, 25), (366, 30), (570, 47)):
    row, matrix = torch.randn(1, 1, k), torch.randn(1, k, n)
    together = torch.bmm(row.expand(8, -1, -1).contiguous(), matrix.expand(8, -1, -1).contiguous())
    assert torch.equal(together, together[:1].expand_as(together)), (k, n)
    rows = row[0].expand(8, -1).contiguous() @ matrix[0]
    assert torch.equal(rows, rows[:1].expand_as(rows)), (k, n)
"""


def test_equal_rows_of_a_batch_have_equal_products() -> None:
    # In a process of its own: the library reads its setting before its first product.
    subprocess.run([sys.executable, "-c", PRODUCTS], check=True)
