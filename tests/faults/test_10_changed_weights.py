"""Fault 10: other weights under the same name, in a file of the same size and date."""

import os
import signal
from pathlib import Path

import pytest
import torch
import troubled
from runs import assert_same_atlas, atlas_here, shards
from sweeps import N_OF_FIRST, N_SHARDS, SWEEP, holding, run_forked, wait_until_held

MODEL = "models=[{name: troubled, target: troubled.build, weights: weights.pth}]"


def write_weights(number: int) -> None:
    """Write weights to the same file as ever, so that its date and size tell nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(number)
        torch.save(troubled.build().state_dict(), "weights.pth")
    os.utime("weights.pth", (0, 0))


@pytest.mark.slow
def test_nothing_made_with_the_old_ones_passes_for_the_new(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    write_weights(1)
    size = Path("weights.pth").stat().st_size
    assert atlas_here("run", tmp_path, *SWEEP, MODEL)[0] == 0
    before = shards(folder)
    write_weights(2)
    assert Path("weights.pth").stat().st_size == size
    assert atlas_here("run", tmp_path, *SWEEP, MODEL)[0] == 0
    assert before.items() < shards(folder).items()
    assert len(shards(folder)) == 2 * len(before)
    assert atlas_here("run", tmp_path / "fresh", *SWEEP, MODEL)[0] == 0
    assert_same_atlas(tmp_path / "fresh" / "demo" / "atlas.h5", folder / "atlas.h5")


def test_changed_under_a_run_they_end_it_with_a_message(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    write_weights(1)

    def change() -> None:
        worker = wait_until_held()
        write_weights(2)
        os.kill(worker, signal.SIGTERM)

    with holding(change):
        code, said = run_forked(tmp_path, MODEL)
    assert code == 2
    assert "the weights of model 'troubled' are not those" in said
    before = shards(folder)
    assert len(before) == N_OF_FIRST
    assert atlas_here("run", tmp_path, *SWEEP, MODEL)[0] == 0
    assert before.items() < shards(folder).items()
    assert len(shards(folder)) == N_OF_FIRST + N_SHARDS
