"""Nothing is lost and nothing changes, whatever is killed: real processes, real signals."""

import random
import signal
import time
from pathlib import Path

import pytest
from runs import (
    TINY,
    assert_same_atlas,
    atlas,
    atlas_here,
    finish,
    kill_group,
    run_here,
    shards,
    start,
    wait_for_shards,
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a sweep that nothing disturbed."""
    root = tmp_path_factory.mktemp("undisturbed")
    code, said = atlas("run", root, *TINY)
    assert code == 0, said
    return root / "demo"


def test_a_sweep_killed_at_random_moments_ends_in_the_same_atlas(
    undisturbed: Path, tmp_path: Path
) -> None:
    draw = random.Random(0)
    folder = tmp_path / "demo"
    for _ in range(4):
        before = shards(folder)
        process = start("run", tmp_path, *TINY)
        time.sleep(draw.uniform(1.0, 9.0))
        kill_group(process)
        assert before.items() <= shards(folder).items(), "a committed shard was lost or rewritten"
    before = shards(folder)
    code, said = atlas_here("run", tmp_path, *TINY)
    assert code == 0, said
    assert before.items() <= shards(folder).items(), "a committed shard was made again"
    assert_same_atlas(undisturbed / "atlas.h5", folder / "atlas.h5")
    assert not list(folder.rglob("*.tmp"))


def test_workers_die_with_a_killed_driver(tmp_path: Path) -> None:
    process = start("run", tmp_path, *TINY, "optimizer.steps=60")
    wait_for_shards(tmp_path / "demo", 1)
    kill_group(process)
    time.sleep(1.0)
    before = shards(tmp_path / "demo")
    time.sleep(3.0)
    assert shards(tmp_path / "demo") == before


def test_a_finished_sweep_computes_nothing(undisturbed: Path) -> None:
    before = shards(undisturbed)
    atlas_file = (undisturbed / "atlas.h5").stat().st_mtime_ns
    code, said = atlas_here("run", undisturbed.parent, *TINY)
    assert code == 0
    assert "64 images: " in said
    assert shards(undisturbed) == before
    assert (undisturbed / "atlas.h5").stat().st_mtime_ns == atlas_file


def test_ctrl_c_finishes_the_shards_in_progress_and_leaves(
    undisturbed: Path, tmp_path: Path
) -> None:
    process = start("run", tmp_path, *TINY, "optimizer.steps=200")
    wait_for_shards(tmp_path / "demo", 1)
    process.send_signal(signal.SIGINT)
    code, said = finish(process)
    assert code == 130
    assert "Ctrl-C again" in said
    assert not (tmp_path / "demo" / "atlas.h5").exists()
    assert 1 <= len(shards(tmp_path / "demo")) < len(shards(undisturbed))


def test_sigterm_drops_the_shards_in_progress_and_leaves(tmp_path: Path) -> None:
    process = start("run", tmp_path, *TINY, "optimizer.steps=60")
    wait_for_shards(tmp_path / "demo", 1)
    process.send_signal(signal.SIGTERM)
    code, _ = finish(process)
    assert code == 75
    assert not list((tmp_path / "demo").glob("failures/*")), "a shard is charged for a signal"


def test_a_corrupt_shard_is_set_aside_and_made_again(undisturbed: Path, tmp_path: Path) -> None:
    assert run_here(tmp_path, *TINY) == 0
    folder = tmp_path / "demo"
    first, second = sorted((folder / "store").rglob("*.h5"))[:2]
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    first.write_bytes(data)
    second.write_bytes(second.read_bytes()[:-100])
    code, said = atlas_here("verify", tmp_path)
    assert code == 1
    assert said.count("corrupt shard set aside") == 2
    code, said = atlas_here("run", tmp_path, *TINY)
    assert code == 0, said
    assert_same_atlas(undisturbed / "atlas.h5", folder / "atlas.h5")
    assert len(list((folder / "store").rglob("*.corrupt-*"))) == 2


def test_a_corrupt_shard_met_while_collating_does_not_stay_missing(
    undisturbed: Path, tmp_path: Path
) -> None:
    small = (*TINY, "layers=[conv1]")
    assert run_here(tmp_path, *small) == 0
    shard = next((tmp_path / "demo" / "store").rglob("*.h5"))
    shard.write_bytes(shard.read_bytes()[:-100])
    (tmp_path / "demo" / "atlas.h5").unlink()
    code, said = atlas_here("run", tmp_path, *small)
    assert code == 0
    assert "missing" not in said
    assert atlas_here("verify", tmp_path)[0] == 0


def test_a_second_run_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    slow = (*TINY, "optimizer.steps=200", "executor.devices=[cpu]")
    first = start("run", tmp_path, *slow)
    wait_for_shards(tmp_path / "demo", 1)
    code, said = atlas_here("run", tmp_path, *slow)
    assert code == 2
    assert f"process {first.pid} on" in said
    kill_group(first)
    code, said = atlas_here("run", tmp_path, *TINY, "channels=[0]")
    assert code == 0, "the lock of a killed run blocks"


def test_a_widened_sweep_computes_only_what_is_new(undisturbed: Path, tmp_path: Path) -> None:
    assert run_here(tmp_path, *TINY, "channels='0:12'") == 0
    before = shards(tmp_path / "demo")
    code, said = atlas_here("run", tmp_path, *TINY)
    assert code == 0, said
    assert "24 of 64 channels are done already" in said
    assert before.items() <= shards(tmp_path / "demo").items()
    assert_same_atlas(undisturbed / "atlas.h5", tmp_path / "demo" / "atlas.h5")


def test_a_shard_that_kills_every_worker_is_given_up_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "poisoned.py").write_text(POISONED)
    models = "models=[{name: p, target: poisoned.build}]"
    overrides = (models, "layers=[safe,deadly]", "optimizer.steps=2", "image_size=16")
    process = start("run", tmp_path, *overrides, "name=x", cwd=tmp_path)
    code, said = finish(process)
    assert code == 1, said
    assert "4 ok, 4 failed" in said
    records = sorted((tmp_path / "x" / "failures").glob("*.json"))
    assert [path.suffixes[0] for path in records] == [".1", ".2", ".3"]
    assert "SIGKILL" in records[0].read_text()


POISONED = """
import os, signal, sys
from torch import nn

class Deadly(nn.Conv2d):
    def forward(self, x):
        if "worker" in sys.argv and len(x) > 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)

class Poisoned(nn.Module):
    def __init__(self):
        super().__init__()
        self.safe = nn.Conv2d(3, 4, 3)
        self.deadly = Deadly(4, 4, 3)

    def forward(self, x):
        return self.deadly(self.safe(x))

def build():
    return Poisoned()
"""
