"""Kills at random places of one sweep; `scripts/soak.py` prints what they cost."""

import random
from pathlib import Path

import pytest
from soak import Soak


@pytest.mark.slow
@pytest.mark.parametrize(("n_kills", "n_seeds"), [(1, 1), (100, 80)])
def test_random_kills_lose_nothing_and_change_nothing(
    n_kills: int, n_seeds: int, tmp_path: Path
) -> None:
    soak = Soak(tmp_path, n_seeds, random.Random(0))
    soak.run(n_kills)
    assert len(soak.kills) == n_kills
    assert not soak.complaints
