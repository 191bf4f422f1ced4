"""Fault 14: the checkpoint of one of several models is unreadable, or would do harm."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import troubled
from runs import atlas_here, shards
from sweeps import N_SHARDS, SWEEP, assert_nothing_lost

MODELS = (
    "models=[{name: troubled, target: troubled.build}, "
    "{name: other, target: troubled.build, weights: other.pth}]"
)


def write_good(path: Path) -> None:
    torch.save(troubled.build().state_dict(), path)


def write_half(path: Path) -> None:
    write_good(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_noise(path: Path) -> None:
    path.write_bytes(os.urandom(5000))


class Harm:
    """What a pickle makes of it: a call of whatever its author likes."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch harmed",)


def write_harm(path: Path) -> None:
    torch.save({"first.weight": Harm()}, path)


@pytest.mark.parametrize("write", [write_half, write_noise, write_harm])
def test_that_model_is_left_out_and_the_others_go_on(
    write: Callable[[Path], None], undisturbed: Path, tmp_path: Path
) -> None:
    folder, checkpoint = tmp_path / "demo", tmp_path / "other.pth"
    write(checkpoint)
    code, said = atlas_here("run", tmp_path, *SWEEP, MODELS)
    assert code == 1, said
    assert "Traceback" not in said
    (error,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "'other.pth'" in error
    assert not (tmp_path / "harmed").exists()
    assert_nothing_lost(undisturbed, folder)
    if write is write_half:
        check_repaired(folder, checkpoint)


def check_repaired(folder: Path, checkpoint: Path) -> None:
    """With a good checkpoint the next run makes what is missing, and nothing else."""
    before = shards(folder)
    write_good(checkpoint)
    code, said = atlas_here("run", folder.parent, *SWEEP, MODELS)
    assert code == 0, said
    assert before.items() < shards(folder).items()
    assert len(shards(folder)) == 2 * N_SHARDS
