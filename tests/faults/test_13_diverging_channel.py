"""Fault 13: one channel is not finite; its batch-mates must not notice."""

from pathlib import Path

import numpy as np
import pytest
import torch
import troubled
from runs import atlas_here, datasets
from sweeps import SWEEP
from torch import Tensor

MODEL = "models=[{name: troubled, target: troubled.build, weights: weights.pth}]"
ONE_BATCH = ("layers=[second]", "shard_size=24", "batch_size=24")
BAD = 5


@pytest.mark.parametrize(
    ("tensor", "value"),
    [
        ("bias", torch.tensor(float("-inf"))),
        ("weight", torch.tensor(3e38)),
        ("weight", torch.tensor([3e38, -3e38] * 4)[:, None, None]),
    ],
    ids=["infinite", "too large", "not a number"],
)
def test_it_is_marked_and_the_others_are_as_without_it(
    tensor: str, value: Tensor, tmp_path: Path
) -> None:
    state = troubled.build().state_dict()
    state[f"second.{tensor}"][BAD] = value
    torch.save(state, "weights.pth")
    others = [channel for channel in range(24) if channel != BAD]
    skipped_models = f"channels={others}".replace(" ", "")
    code, said = atlas_here("run", tmp_path / "all", *SWEEP, *ONE_BATCH, MODEL)
    assert code == 0, said
    assert "23 ok, 1 diverged" in said
    assert atlas_here("run", tmp_path / "rest", *SWEEP, *ONE_BATCH, MODEL, skipped_models)[0] == 0
    every, rest = (datasets(tmp_path / run / "demo" / "atlas.h5") for run in ("all", "rest"))
    compared = [name for name, array in rest.items() if array.shape[:1] == (23,)]
    assert len(compared) > 8
    for name in compared:
        assert np.delete(every[name], BAD, axis=0).tobytes() == rest[name].tobytes(), name
