"""The store: safe names, commits that are whole or not there, what is done."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toys import (
    fill_store,
    layer_info,
    make_plan,
    make_recipe,
    make_result,
    make_series,
    stored_arrays,
)

from layer_atlas.errors import StorageError, UserError
from layer_atlas.plan.jobs import Shard
from layer_atlas.plan.plan import Plan
from layer_atlas.store.files import CorruptFile, set_aside, write_atomically
from layer_atlas.store.folder import OutputFolder, prepare, safe_name, sweep_temporary
from layer_atlas.store.resume import DoneIndex
from layer_atlas.store.shards import commit, read_shard

# --- names ---------------------------------------------------------------------------------------

HOSTILE = [
    "",
    ".",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "a_b",
    ".hidden",
    "~root",
    "a b",
    "a\nb",
    "a\0b",
    "layer:0",
    "C:\\x",
    "$(reboot)",
    "名前",
    "e\u0301",
    "\u00e9",
    "\ud800",
    "x" * 80,
    "x" * 81,
    "x" * 5000,
    "x" * 70 + "~deadbeef",
    "lock~",
    "-rf",
]


@pytest.mark.parametrize("name", ["layer3.0.conv1", "features.12", "timm@resnet-50_a+b=c"])
def test_usual_names_stay_as_they_are(name: str) -> None:
    assert safe_name(name) == name


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name)[:20])
def test_hostile_names_become_one_plain_file_name(name: str, tmp_path: Path) -> None:
    safe = safe_name(name)
    assert safe.isascii()
    assert 0 < len(safe) <= 80
    assert not safe.startswith(".")
    assert not set("/\\:\0\n $*?") & set(safe)
    path = tmp_path / safe
    path.write_text("x")
    assert path.resolve().parent == tmp_path.resolve()


def test_no_two_names_become_one() -> None:
    assert len({safe_name(name) for name in HOSTILE}) == len(HOSTILE)


def test_every_path_lies_in_the_output_folder(folder: OutputFolder) -> None:
    shard = Shard(make_series(model="../..", layer="/etc/passwd"), (0,))
    paths = [folder.shard(shard), folder.montage("../..", "../x"), folder.failure(shard.key, 1)]
    for path in paths:
        assert folder.root.resolve() in path.resolve().parents
        assert ".." not in path.parts


# --- writing -------------------------------------------------------------------------------------


def test_written_file_replaces_the_old_one_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.json"
    for data in (b"first", b"second"):
        write_atomically(path, data)
        assert path.read_bytes() == data
    assert list(path.parent.iterdir()) == [path]


def test_name_as_long_as_a_file_system_takes_can_be_written(tmp_path: Path) -> None:
    write_atomically(tmp_path / ("x" * 255), b"data")


def below_a_file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("in the way")
    return tmp_path / "file" / "new.safetensors"


def onto_a_folder(tmp_path: Path) -> Path:
    (tmp_path / "taken" / "by_a_folder").mkdir(parents=True)
    return tmp_path / "taken"


@pytest.mark.parametrize("where", [below_a_file, onto_a_folder])
def test_write_that_fails_is_told_and_leaves_nothing(
    where: Callable[[Path], Path], tmp_path: Path
) -> None:
    path = where(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StorageError, match=f"cannot write {path}"):
        write_atomically(path, b"data")
    assert sorted(tmp_path.rglob("*")) == before


WRITE_TOO_MUCH = """
import resource, sys
from pathlib import Path
from layer_atlas.store.files import write_atomically

# As on a full disk, the kernel refuses to write on, root or not.
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write_atomically(Path(sys.argv[1]), b"new" * 1000)
"""


def test_write_that_breaks_off_is_told_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    child = subprocess.run(
        [sys.executable, "-c", WRITE_TOO_MUCH, str(path)], stderr=subprocess.PIPE, text=True
    )
    assert f"StorageError: cannot write {path}: File too large" in child.stderr
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_of_killed_writers_are_swept_and_shards_are_not(folder: OutputFolder) -> None:
    paths = fill_store(folder, make_plan())
    leftover = paths[0].parent / f".{paths[0].name[:40]}.0123.tmp"
    leftover.write_bytes(b"half")
    sweep_temporary(folder)
    assert not leftover.exists()
    assert all(path.exists() for path in paths)


# --- what is done --------------------------------------------------------------------------------


def jobs(shards: Iterator[Shard]) -> list[tuple[str, int, int]]:
    return [(s.series.layer, s.series.seed, c) for s in shards for c in s.targets]


def missing(folder: OutputFolder, plan: Plan) -> list[tuple[str, int, int]]:
    return jobs(DoneIndex(folder).missing(plan.shards()))


def test_committed_shard_is_done_and_comes_back(folder: OutputFolder) -> None:
    plan = make_plan(shard_size=2)
    first, second, third = plan.shards()
    commit(folder, second, make_result(second))
    index = DoneIndex(folder)
    assert list(index.missing(plan.shards())) == [first, third]
    assert index.locate(second) == {folder.shard(second): second.targets}
    assert stored_arrays(folder.shard(second))["target"].tolist() == [2, 3]


def test_everything_is_missing_where_there_is_nothing(folder: OutputFolder) -> None:
    plan = make_plan(seeds=(0, 1))
    assert list(DoneIndex(folder).missing(plan.shards())) == list(plan.shards())
    assert not folder.root.exists()


def test_widened_sweep_lacks_only_what_is_new(folder: OutputFolder) -> None:
    a, b = layer_info("a", 4), layer_info("b", 3)
    fill_store(folder, make_plan(a, seeds=(0,)))
    assert missing(folder, make_plan(a, b, seeds=(0, 1))) == (
        [("a", 1, c) for c in range(4)] + [("b", s, c) for s in (0, 1) for c in range(3)]
    )


@pytest.mark.parametrize("shard_size", [1, 3, 4, 6])
def test_shards_cut_differently_are_used_channel_by_channel(
    shard_size: int, folder: OutputFolder
) -> None:
    done = make_plan(channels=(0, 1, 4), shard_size=2)
    fill_store(folder, done)
    wanted = make_plan(channels=(0, 1, 2, 4, 5), shard_size=shard_size)
    assert missing(folder, wanted) == [("block.conv", 0, 2), ("block.conv", 0, 5)]
    for shard in wanted.shards():
        for path, channels in DoneIndex(folder).locate(shard).items():
            arrays = stored_arrays(path)
            rows = np.searchsorted(arrays["target"], channels)
            assert arrays["activation"][rows].tolist() == [10 * channel for channel in channels]


def test_other_recipe_weights_or_seed_are_never_taken_for_done(folder: OutputFolder) -> None:
    fill_store(folder, make_plan())
    changed_recipe = make_plan(recipe=make_recipe(steps=13))
    model = make_plan().models[0]
    new_weights = replace(model, network=replace(model.network, weights_sha256="f" * 64))
    changed_weights = replace(make_plan(), models=(new_weights,))
    for plan in (changed_recipe, changed_weights, make_plan(seeds=(1,))):
        assert len(missing(folder, plan)) == 6
    assert missing(folder, make_plan()) == []


def test_shard_set_aside_is_missing_and_kept(folder: OutputFolder) -> None:
    plan = make_plan(shard_size=3)
    path, _ = fill_store(folder, plan)
    content = path.read_bytes()
    aside = set_aside(path)
    assert aside.read_bytes() == content
    assert not path.exists()
    assert missing(folder, plan) == [("block.conv", 0, c) for c in (0, 1, 2)]


def test_files_without_a_readable_header_count_for_nothing(folder: OutputFolder) -> None:
    plan = make_plan(shard_size=2)
    paths = fill_store(folder, plan)
    paths[0].write_bytes(b"")
    paths[1].write_bytes(b"garbage\n" * 99)
    (paths[2].parent / ".half.tmp").write_bytes(b"x")
    assert missing(folder, make_plan(shard_size=6)) == [("block.conv", 0, c) for c in range(4)]
    with pytest.raises(CorruptFile):
        read_shard(paths[0], plan.models[0], plan.models[0].layers[0])


# --- preparing -----------------------------------------------------------------------------------


def test_folder_is_made_ready(folder: OutputFolder) -> None:
    prepare(folder, 1000)
    assert folder.logs.is_dir()
    assert list(folder.root.iterdir()) == [folder.logs]


def test_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    path = below_a_file(tmp_path).parent / "atlas"
    with pytest.raises(UserError) as caught:
        prepare(OutputFolder(path), 0)
    for words in (repr(str(path)), "Not a directory", "output_root="):
        assert words in str(caught.value)


def test_file_in_the_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "atlas").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        prepare(OutputFolder(tmp_path / "atlas"), 0)


def test_folder_without_the_right_to_write_is_told() -> None:
    # The kernel's own folder refuses root, too.
    with pytest.raises(UserError, match="'/proc/atlas' cannot be written"):
        prepare(OutputFolder(Path("/proc/atlas")), 0)


def test_disk_without_space_is_told_with_both_numbers(folder: OutputFolder) -> None:
    with pytest.raises(StorageError) as caught:
        prepare(folder, 5e18)
    for words in (repr(str(folder.root)), " free", "5000000000.0 GB", "output_root="):
        assert words in str(caught.value)
