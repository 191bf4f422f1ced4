"""Cleaning: what is known of an output folder, what is left alone, and what the command does."""

import io
import os
import sys
from pathlib import Path

import pytest
from runs import TINY, assert_same_atlas, atlas_here, run_here, shards
from toys import fill_store, layer_info, make_manifest, make_plan

from layer_atlas.errors import UserError
from layer_atlas.plan.plan import Plan
from layer_atlas.store.files import write_json
from layer_atlas.store.folder import OutputFolder
from layer_atlas.sweep.executors.base import Handle
from layer_atlas.sweep.executors.slurm_job import write_ending
from layer_atlas.sweep.inspection.cleaning import look_through, remove
from layer_atlas.sweep.scheduling.workers import Worker, write_submission

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
    "logs/worker-01234567.pulse",
    "logs/worker-01234567.pulse.tmp",
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
    worker = Worker(Handle("worker-76543210", "77"), [next(plan.shards())])
    write_submission(folder, "slurm", worker)
    before = files(folder)
    with pytest.raises(UserError, match="1 worker that slurm was given may still be at work"):
        look_through(folder, make_manifest(plan))
    assert files(folder) == before
    write_ending(folder.ending(worker.tag), 0)
    look_through(folder, make_manifest(plan))


# --- the command ---------------------------------------------------------------------------------


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
