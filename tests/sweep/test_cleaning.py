"""Cleaning: what is known of an output folder, what is left alone, and what the command does."""

import io
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import TINY, assert_same_atlas, atlas_here, run_here, shards
from toys import (
    fail,
    fill_store,
    fill_study,
    layer_info,
    make_listing,
    make_manifest,
    make_plan,
    make_recipe,
    make_result,
)

from layer_atlas.atlas.gather import layer_views
from layer_atlas.datasets.statistics_files import write_arrays
from layer_atlas.datasets.tasks import all_statistics, examples_of
from layer_atlas.errors import UserError
from layer_atlas.plan.jobs import Shard
from layer_atlas.plan.plan import Plan, SkippedModel
from layer_atlas.store.files import write_json
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.resume import DoneIndex
from layer_atlas.store.shards import commit
from layer_atlas.sweep.cleaning import look_through, remove
from layer_atlas.sweep.executors.base import WorkerJob
from layer_atlas.sweep.executors.slurm_job import write_ending
from layer_atlas.sweep.workers import Worker, write_submission
from tests.environments import NEW, OLD, make, wanting

KEY = "0123456789abcdef" * 4

LITTER = (
    f"store/toy/a/{KEY}.safetensors",
    f"store/toy/a/{KEY}.safetensors.corrupt-01234567",
    f"store/toy/a/study/{KEY}.safetensors.corrupt-01234567",
    f"store/toy/gone/study/{KEY}.safetensors",
    f"store/toy/gone/fields/{KEY}.safetensors",
    f"store/toy/gone/photographs/{KEY}.safetensors",
    f"store/toy/gone/examples/{KEY}.safetensors",
    f"store/other/a/{KEY}.safetensors",
    "montages/toy/gone.png",
    "montages/toy/gone.evidence-012.png",
    "animations/toy/gone/channel-3.seed-0.png",
    "animations/toy/gone/channel-3.seed-0.webp",
    f"photographs/{KEY}.jsonl",
    f"inputs/{KEY}.safetensors",
    "logs/worker-01234567.log",
    "logs/worker-01234567.json",
    "logs/worker-01234567.heartbeat",
    "logs/worker-01234567.heartbeat.tmp",
    "logs/worker-01234567.exit",
    "logs/worker-01234567.exit.tmp",
    "logs/slurm/12_submitted.pkl",
    "logs/slurm/12_3_0_log.out",
    f"logs/slurm/{KEY[:32]}.pkl",
    "logs/drain",
    ".probe.0123.tmp",
    "figures/.images.pdf.0123.tmp",
    f"site/{KEY[::-1][:16]}/a/layer.js",
    "site/.index.html.0123.tmp",
    f"store/toy/a/.{KEY[:40]}.0123.tmp",
)
"""Of each kind of file one that nothing needs."""

WANTED = (
    "atlas.h5",
    "manifest.json",
    "lock",
    "montages/toy/a.png",
    "montages/toy/a.evidence-001.png",
    "animations/toy/a/channel-3.seed-0.png",
    "figures/images.pdf",
    "figures/images.provenance.json",
    "site/index.html",
    f"site/{KEY[:16]}/a/layer.js",
)

UNKNOWN = (
    "notes.txt",
    "site/CNAME",
    f"store/{KEY}.safetensors",
    f"store/toy/a/{KEY}.hdf5",
    f"store/toy/a/{KEY[:-1]}.safetensors",
    f"store/toy/a/{KEY}.safetensors.corrupt-mine",
    f"store/toy/a/mine/{KEY}.safetensors",
    "montages/toy/never_seen.png",
    "montages/cover.png",
    "animations/toy/gone/notes.txt",
    f"inputs/{KEY[:-1]}",
    f"failures/{KEY}.1.txt",
    f"failures/{KEY}.1.json",
    "logs/worker-mine.log",
    "logs/slurm/notes.out",
    "logs/drain\n",
    "h5.tmp",
    os.fsdecode(b"\xff.png"),
)


@pytest.fixture
def plan(folder: OutputFolder) -> Plan:
    plan = make_plan(layer_info("a", 4))
    fill_store(folder, plan)
    return plan


def put(folder: OutputFolder, *names: str) -> None:
    for name in names:
        path = folder.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def files(folder: OutputFolder) -> set[str]:
    return {folder.relative(p) for p in folder.root.rglob("*") if p.is_symlink() or p.is_file()}


def test_what_nothing_needs_goes_and_everything_else_stays(
    folder: OutputFolder, plan: Plan
) -> None:
    put(folder, *WANTED, *UNKNOWN)
    page = f'<meta name="layer-atlas-site" content="{KEY[:16]}">'
    (folder.site / "index.html").write_text(page)
    before = files(folder)
    put(folder, *LITTER)
    found = look_through(folder, make_manifest(plan))
    remove(folder, found)
    assert files(folder) == before
    unreadable = {f"failures/{KEY}.1.json"}  # a record, though nobody can tell of what
    assert {folder.relative(path) for path in found.unknown} == set(UNKNOWN) - unreadable


def test_folders_that_are_empty_then_go_too(folder: OutputFolder, plan: Plan) -> None:
    before = set(folder.root.rglob("*"))
    put(folder, *LITTER)
    remove(folder, look_through(folder, make_manifest(plan)))
    assert set(folder.root.rglob("*")) == before


def test_links_are_neither_followed_nor_removed(
    folder: OutputFolder, plan: Plan, tmp_path: Path
) -> None:
    outside = OutputFolder(tmp_path / "outside")
    put(outside, f"{KEY}.safetensors", f"a/{KEY}.safetensors", "lost.tmp")
    (folder.store / "other").symlink_to(outside.root)
    (folder.store / "toy" / "gone").symlink_to(outside.root)
    (folder.store / "toy" / "a" / f"{KEY}.safetensors").symlink_to(
        outside.root / f"{KEY}.safetensors"
    )
    (folder.root / ".lost.tmp").symlink_to(outside.root / "lost.tmp")
    (folder.root / "inputs").symlink_to(outside.root)
    before = files(folder), files(outside)
    found = look_through(folder, make_manifest(plan))
    assert found.removable == {}
    assert len(found.unknown) == 5
    remove(folder, found)
    assert (files(folder), files(outside)) == before


def test_nothing_is_cleaned_while_workers_may_be_writing(folder: OutputFolder, plan: Plan) -> None:
    put(folder, *LITTER)
    worker = Worker(WorkerJob("worker-76543210", "77"), [next(plan.shards())])
    write_submission(folder, "slurm", worker)
    before = files(folder)
    with pytest.raises(UserError, match="1 worker that slurm was given may still be at work"):
        look_through(folder, make_manifest(plan))
    assert files(folder) == before
    write_ending(folder.ending(worker.tag), 0)
    look_through(folder, make_manifest(plan))


# --- the command ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_cleaning_changes_no_atlas_and_leaves_nothing_to_compute(tmp_path: Path) -> None:
    narrow = (*TINY, "layers=[conv1]", "channels='3:21'", "shard_size=5")
    assert run_here(tmp_path, *TINY) == 0
    assert run_here(tmp_path, *narrow) == 0
    folder = tmp_path / "demo"
    before = shards(folder)
    (tmp_path / "before.h5").write_bytes((folder / "atlas.h5").read_bytes())
    code, said = atlas_here("clean", tmp_path, "yes")
    assert code == 0, said
    left = shards(folder)
    # Three shards of 8 hold the channels 3 to 20; the other five are of conv2.
    assert (len(before), len(left)) == (8, 3)
    assert not (folder / "montages" / "demo" / "conv2.png").exists()
    assert atlas_here("collate", tmp_path)[0] == 0
    assert_same_atlas(tmp_path / "before.h5", folder / "atlas.h5")
    assert run_here(tmp_path, *narrow) == 0
    assert shards(folder) == left
    assert "there is nothing to remove" in atlas_here("clean", tmp_path)[1]


def test_without_a_terminal_it_only_shows(folder: OutputFolder, plan: Plan) -> None:
    put(folder, *LITTER, "notes.txt")
    write_json(folder.manifest, make_manifest(plan))
    before = files(folder)
    code, said = atlas_here("clean", folder.root.parent, "name=atlas")
    assert code == 0
    assert "`atlas clean yes name=atlas output_root=" in said
    assert "unknown, left alone:\n  notes.txt\n" in said
    assert files(folder) - before == {"lock"}


@pytest.mark.parametrize("answer", ["y", "n", ""])
def test_on_a_terminal_it_asks(
    folder: OutputFolder, plan: Plan, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    write_json(folder.manifest, make_manifest(plan))
    stray = folder.input(KEY)
    stray.parent.mkdir()
    stray.write_bytes(b"x" * 2048)
    terminal = io.StringIO(f"{answer}\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    code, said = atlas_here("clean", folder.root.parent, "name=atlas")
    assert code == 0
    assert stray.exists() == (answer != "y")
    assert [line.split() for line in said.splitlines() if "inputs" in line] == [
        ["inputs", "of", "recipes", "1", "2.0", "kB"]
    ]


K = 7


def made(folder: OutputFolder, plan: Plan) -> None:
    """Make what is missing, as a run does."""
    for shard in list(DoneIndex(folder).missing(plan.shards())):
        commit(folder, shard, make_result(shard, K))


def located(folder: OutputFolder, plan: Plan) -> list[tuple[Shard, dict[Path, tuple[int, ...]]]]:
    """Where collation finds each job."""
    views = layer_views(folder, plan)
    return [(shard, where) for view in views for _, shard, where in view.located()]


def clean(folder: OutputFolder, plan: Plan) -> list[str]:
    """Clean up; returns what was removed, relative to the folder."""
    found = look_through(folder, make_manifest(plan))
    remove(folder, found)
    return sorted(folder.relative(path) for paths in found.removable.values() for path in paths)


SWEEPS = st.builds(
    lambda layers, channels, seeds, shard_size, steps: make_plan(
        *(layer_info(name, K) for name in layers),
        channels=tuple(sorted(channels)),
        seeds=tuple(seeds),
        shard_size=shard_size,
        recipe=make_recipe(image_size=2, steps=steps),
    ),
    layers=st.sets(st.sampled_from("ab"), min_size=1).map(sorted),
    channels=st.sets(st.integers(0, K - 1), min_size=1),
    seeds=st.sets(st.integers(0, 1), min_size=1).map(sorted),
    shard_size=st.integers(1, K),
    steps=st.sampled_from([4, 5]),
)
"""Sweeps that are wider, narrower, cut otherwise, or of another recipe than others."""


@given(st.lists(SWEEPS, min_size=1, max_size=4))
@settings(max_examples=15, deadline=None)
def test_after_any_sweeps_cleaning_leaves_the_last_as_it_is_and_nothing_else(
    plans: list[Plan],
) -> None:
    with TemporaryDirectory() as root:
        folder, last = OutputFolder(Path(root)), plans[-1]
        for plan in plans:
            made(folder, plan)
        before = located(folder, last)
        clean(folder, last)
        assert located(folder, last) == before
        assert not list(DoneIndex(folder).missing(last.shards()))
        needed = {path for _, where in before for path in where}
        assert set(folder.store.rglob("*.safetensors")) == needed


@given(SWEEPS, SWEEPS, st.data())
@settings(max_examples=8, deadline=None)
def test_a_sweep_that_was_cut_short_loses_nothing_either(
    earlier: Plan, last: Plan, data: st.DataObject
) -> None:
    with TemporaryDirectory() as root:
        folder = OutputFolder(Path(root))
        made(folder, earlier)
        for shard in list(DoneIndex(folder).missing(last.shards())):
            if data.draw(st.booleans()):
                commit(folder, shard, make_result(shard, K))
        before = located(folder, last)
        clean(folder, last)
        assert located(folder, last) == before


def test_a_copy_is_kept_while_the_file_that_counts_is_damaged(folder: OutputFolder) -> None:
    info, narrow = layer_info("a", 6), (0, 1, 2)
    fill_store(folder, make_plan(info, channels=narrow, shard_size=3))
    whole = make_plan(info, shard_size=6)
    (shard,) = whole.shards()
    commit(folder, shard, make_result(shard))
    intact = folder.shard(shard).read_bytes()
    folder.shard(shard).write_bytes(intact[:-9])
    assert clean(folder, whole) == []
    folder.shard(shard).write_bytes(intact)
    assert len(clean(folder, whole)) == 1
    assert list(folder.store.rglob("*.safetensors")) == [folder.shard(shard)]


def test_models_that_were_left_out_keep_what_they_have(folder: OutputFolder) -> None:
    other = make_plan(layer_info("a", 2), label="other")
    fill_store(folder, other)
    folder.montage("other", "a").parent.mkdir(parents=True)
    folder.montage("other", "a").write_bytes(b"picture")
    made(folder, make_plan())
    assert (
        clean(folder, replace(make_plan(), skipped_models=(SkippedModel("other", "damaged"),)))
        == []
    )
    assert len(clean(folder, make_plan())) == 2


# --- photographs, inputs, records ----------------------------------------------------------------


def photographed(folder: OutputFolder, n: int, **changes: Any) -> Plan:
    """A sweep of n photographs whose study and examples are done."""
    dataset_plan = make_listing(folder, (f"{i}.png" for i in range(n)), **changes)
    plan = replace(make_plan(layer_info("a", 6)), dataset_plan=dataset_plan)
    (statistics,) = all_statistics(plan.models[0], dataset_plan)
    fill_study(folder, statistics, np.zeros((n, 6)), np.zeros((n, 6)), np.zeros((16, 4)))
    write_arrays(folder, statistics.product, {"count": np.asarray(n)})
    for task in examples_of(plan, dataset_plan):
        write_arrays(folder, task.products[0], {"target": np.asarray(task.targets)})
    return plan


def shelves(names: Iterable[str]) -> list[str]:
    """Where files lay: their folders, the layer's left out."""
    return sorted(name.removeprefix("store/toy/a/").rpartition("/")[0] for name in names)


def test_studies_and_examples_of_other_photographs_go(folder: OutputFolder) -> None:
    earlier, last = photographed(folder, 130), photographed(folder, 150)
    clean(folder, last)
    left = sorted(path.parent.name for path in folder.store.rglob("*.safetensors"))
    assert left == ["examples"] * 3 + ["fields"] + ["photographs"] * 3 + ["study"]
    assert earlier.dataset_plan is not None
    assert not folder.listing(earlier.dataset_plan.listing).exists()


def test_without_photographs_nothing_about_them_is_wanted(folder: OutputFolder) -> None:
    plan = photographed(folder, 70)
    assert clean(folder, plan) == []
    gone = shelves(clean(folder, replace(plan, dataset_plan=None)))
    assert gone == [*["examples"] * 3, "fields", *["photographs"] * 3, "study"]


def test_inputs_that_nothing_refers_to_go(folder: OutputFolder) -> None:
    for reference in ("1" * 64 + ".npy", "2" * 64):
        folder.input(reference).parent.mkdir(parents=True, exist_ok=True)
        folder.input(reference).write_bytes(b"x")
    plan = replace(make_plan(), inputs={"1" * 64 + ".npy": "vectors.npy"})
    assert clean(folder, plan) == [f"inputs/{'2' * 64}"]


def test_records_of_tasks_that_are_done_go_and_others_stay_with_their_logs(
    folder: OutputFolder,
) -> None:
    plan = make_plan(layer_info("a", 6))
    first, second, _ = plan.shards()
    fail(folder, first, attempts=2)
    fail(folder, second, attempts=1)
    folder.failure("f" * 64, 1).write_text("not a record")
    commit(folder, first, make_result(first))
    folder.logs.mkdir()
    for number in range(2):
        folder.log(f"worker-{number:08}").write_text("said")
    records = [f"failures/{first.key}.{attempt}.json" for attempt in (1, 2)]
    assert clean(folder, plan) == [*records, "logs/worker-00000001.log"]
    assert len(json.loads(folder.failure(second.key, 1).read_text())["files"]) == 1


def test_what_a_sweep_has_made_is_all_wanted(folder: OutputFolder) -> None:
    plan = make_plan(layer_info("a", 6), layer_info("b", 4), seeds=(0, 1))
    fill_store(folder, plan)
    assert clean(folder, plan) == []


def test_images_of_other_versions_are_kept_until_they_are_made_again(folder: OutputFolder) -> None:
    plan = make_plan(layer_info("a"), shard_size=3)
    first, second = plan.shards()
    for shard in (first, second):
        make(folder, shard, OLD)
    strict = wanting(plan, NEW)
    DoneIndex(folder, strict.environments).make_way(first)
    assert clean(folder, strict) == []
    make(folder, first, NEW)
    (removed,) = clean(folder, strict)  # that of which the jobs are made again
    assert removed not in map(folder.relative, map(folder.shard, (first, second)))
    assert located(folder, plan) == [(s, {folder.shard(s): s.targets}) for s in (first, second)]
