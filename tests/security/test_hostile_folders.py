"""An output folder from somebody else: nothing outside it is touched, and no code in it is run."""

import contextlib
import io
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runs import atlas_here
from toys import composed, fill_store, make_plan, make_recipe

from layer_atlas.cli.commands import COMMANDS
from layer_atlas.config.config import CollateSettings
from layer_atlas.datasets.sources import Listing
from layer_atlas.errors import UserError
from layer_atlas.logs import terminal_logging
from layer_atlas.plan.plan import Plan
from layer_atlas.presentation.collate import collate_here, is_current
from layer_atlas.store.folder import OutputFolder, output_folder
from layer_atlas.store.manifest import plan_of, read_manifest, write_manifest
from layer_atlas.sweep.workers import submissions

PLAN = make_plan(channels=(0, 1, 2), shard_size=2, recipe=make_recipe(image_size=16))

CONFIG = composed("models=[{name: toy, target: os.getcwd}]")


def make(root: Path, plan: Plan = PLAN) -> OutputFolder:
    """A finished sweep of toys, without an atlas."""
    folder = OutputFolder(root / "demo")
    fill_store(folder, plan)
    write_manifest(folder, CONFIG, plan, ["cpu"])
    folder.logs.mkdir()
    folder.failures.mkdir()
    return folder


@pytest.fixture
def received(tmp_path: Path) -> OutputFolder:
    return make(tmp_path / "out")


def said_by(command: str, folder: OutputFolder, *words: str) -> tuple[int, str]:
    """What a command returns and says, once its config is composed."""
    said = io.StringIO()
    config = replace(CONFIG, output_root=str(folder.root.parent))
    redirected = contextlib.redirect_stdout(said), contextlib.redirect_stderr(said)
    with redirected[0], redirected[1], terminal_logging("info"):
        try:
            code = COMMANDS[command](config, *words)
        except UserError as error:
            return 2, f"error: {error}\n"
    return code, said.getvalue()


def assert_told(told: tuple[int, str]) -> None:
    assert told[0] == 2, told
    assert told[1].startswith("error: ")
    assert told[1].count("\n") == 1


# --- what leads out ------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder of the user's own, full of what would be overwritten or deleted."""
    folder = tmp_path / "mine"
    for name in (
        *("lock", "atlas.h5", "atlas.json", "manifest.json", "worker-0.json", "worker-0.heartbeat"),
        *("block.conv.png", "block.conv.evidence-001.png", "strip.png", ".half.tmp", "a.h5"),
        *("toy/block.conv.png", "toy/block.conv/channel-0.seed-0.png", "block.conv/x.png"),
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"mine: {name}")
    return folder


PLACES = (
    *("lock", "atlas.h5", "atlas.json", "manifest.json", "montages", "store", "animations", "logs"),
    *("failures", "inputs", "photographs", "store/toy", "store/toy/block.conv", "montages/toy"),
    *("animations/toy", "animations/toy/block.conv", "montages/toy/block.conv.png", "logs/drain"),
)


def plant(folder: OutputFolder, place: str, target: Path) -> None:
    """Put a link into a received folder."""
    link = folder.root / place
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_dir():
        link.rename(folder.root / "was")
    link.unlink(missing_ok=True)
    link.symlink_to(target)


@pytest.mark.parametrize("place", PLACES)
def test_links_that_lead_out_are_seen(received: OutputFolder, mine: Path, place: str) -> None:
    same = mine / Path(place).name
    plant(received, place, same if same.is_file() else mine)
    with pytest.raises(UserError, match="is a link to"):
        output_folder(str(received.root.parent), "demo")


@pytest.mark.parametrize("place", ["lock", "montages", "animations/toy/block.conv", "store/toy"])
def test_no_command_follows_links_that_lead_out(
    received: OutputFolder, mine: Path, place: str
) -> None:
    same = mine / Path(place).name
    plant(received, place, same if same.is_file() else mine)
    before = contents(mine)
    # These look into no folder, or only after the networks were loaded.
    elsewhere = {"layers", "objectives", "parameterizations", "plan"}
    for command in set(COMMANDS) - elsewhere:
        assert_told(said_by(command, received))
    assert contents(mine) == before


@pytest.mark.slow
def test_the_folder_itself_may_be_a_link_and_links_within_it_are_fine(
    received: OutputFolder, tmp_path: Path
) -> None:
    (tmp_path / "large disk").mkdir()
    received.root.rename(tmp_path / "large disk" / "demo")
    received.root.symlink_to(tmp_path / "large disk" / "demo")
    (received.root / "last.log").symlink_to(received.root / "logs" / "worker.log")
    (received.root / "latest").symlink_to("logs")
    assert said_by("collate", received)[0] == 0
    assert received.atlas.exists()


@pytest.mark.parametrize("place", ["manifest.json", "lock", "atlas.h5", "store/toy/x.h5", "pipe"])
def test_pipes_are_not_waited_for(received: OutputFolder, place: str) -> None:
    path = received.root / place
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    begun = time.monotonic()
    for command in ("status", "collate", "verify", "run"):
        assert_told(said_by(command, received))
    assert time.monotonic() - begun < 30


# --- code ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_verify_runs_no_code_that_only_the_manifest_names(
    tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path / "out")
    collate_here(folder, CollateSettings())
    manifest = json.loads(folder.manifest.read_text())
    (model,) = manifest["config"]["models"]
    model["target"], model["args"] = "os.system", {"command": f"touch '{marker}'"}
    folder.manifest.write_text(json.dumps(manifest))
    code, said = atlas_here("verify", tmp_path / "out")
    assert code == 0
    assert "3 images: shards and atlas compared, 0 problems" in said
    assert "not measured again: that runs code which only the manifest names (os.system(" in said


CODE = """
from pathlib import Path
from torch import nn

def build(where):
    Path(where).touch()
    return nn.Sequential(nn.Conv2d(3, 3, 1))
"""


@pytest.mark.slow
def test_verify_runs_code_that_the_user_names_with_the_same_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "code_of_mine.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    tiny = ("optimizer.steps=2", "optimizer.leaky_steps=0", "executor.devices=[cpu]")

    def model(where: str) -> str:
        return f"models=[{{name: m, target: code_of_mine.build, args: {{where: {where}}}}}]"

    size = ("image_size=16", *tiny)
    assert atlas_here("run", tmp_path / "out", model("one"), *size)[0] == 0
    (tmp_path / "one").unlink()
    for command_line in ((), (model("two"),)):
        code, said = atlas_here("verify", tmp_path / "out", *command_line)
        assert (code, "not measured again" in said) == (0, True)
    assert not (tmp_path / "one").exists()
    code, said = atlas_here("verify", tmp_path / "out", model("one"))
    assert (code, "3 activations measured again" in said) == (0, True)
    assert (tmp_path / "one").exists()


# --- manifests -----------------------------------------------------------------------------------

Change = Callable[[dict[str, Any]], object]


def at(*path: str | int, value: Any) -> Change:
    """Set a value somewhere in a manifest."""

    def change(manifest: dict[str, Any]) -> None:
        inner: Any = manifest
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = value

    return change


LAYER = ("plan", "models", 0, "layers", 0)
MANIFESTS: dict[str, Change] = {
    "no schema": lambda manifest: manifest.pop("schema"),
    "another schema": at("schema", value=["layer-atlas-manifest/1"]),
    "no plan": lambda manifest: manifest.pop("plan"),
    "a plan that is a list": at("plan", value=[]),
    "a plan that is a text": at("plan", value="plan"),
    "an empty plan": at("plan", value={}),
    "a plan with more": at("plan", "_target_", value="os.system"),
    "no models": at("plan", "models", value=[]),
    "models that are numbers": at("plan", "models", value=[1]),
    "no layers": at("plan", "models", 0, "layers", value=[]),
    "a layer twice": lambda m: m["plan"]["models"][0].update(
        layers=m["plan"]["models"][0]["layers"] * 2
    ),
    "a model twice": lambda m: m["plan"].update(models=m["plan"]["models"] * 2),
    "no seeds": at("plan", "seeds", value=[]),
    "seeds of 65 bits": at("plan", "seeds", value=[2**64]),
    "seeds that are texts": at("plan", "seeds", value=["0"]),
    "endless seeds": at("plan", "seeds", value=[float("inf")]),
    "shards of nothing": at("plan", "shard_size", value=0),
    "shards of less": at("plan", "shard_size", value=-1),
    "10**12 channels": at(*LAYER, "info", "n_channels", value=10**12),
    "10**30 channels": at(*LAYER, "info", "n_channels", value=10**30),
    "no channels": at(*LAYER, "info", "n_channels", value=0),
    "negative channels": at(*LAYER, "channels", value=[-3, -2]),
    "a channel twice": at(*LAYER, "channels", value=[0, 0, 1]),
    "channels that fall": at(*LAYER, "channels", value=[2, 1, 0]),
    "a channel beyond": at(*LAYER, "channels", value=[0, 99]),
    "channels that are true": at(*LAYER, "channels", value=[True]),
    "channels that are no numbers": at(*LAYER, "channels", value=[None]),
    "channels that are a text": at(*LAYER, "channels", value="all"),
    "a range of 10**12": at(*LAYER, "channels", value=f"0:{10**12}"),
    "a range beyond 64 bits": at(*LAYER, "channels", value=f"0:{2**70}"),
    "a range that falls": at(*LAYER, "channels", value="2:0:-1"),
    "a range in steps of nothing": at(*LAYER, "channels", value="0:3:0"),
    "more names than classes": at(*LAYER, "targets", value={"sizes": [6], "names": ["a"]}),
    "combinations of one layer's": at(*LAYER, "targets", value={"sizes": [6, 0], "names": []}),
    "an axis beyond": at(*LAYER, "info", "channel_axis", value=9),
    "a negative axis": at(*LAYER, "info", "channel_axis", value=-9),
    "another shape": at(*LAYER, "info", "shape", value=[5, 4, 4]),
    "images of 10**6 pixels": at("plan", "models", 0, "recipe", "image_size", value=[10**6, 10**6]),
    "images of nothing": at("plan", "models", 0, "recipe", "image_size", value=[0, 0]),
    "an image on its way, too often": lambda m: m["plan"]["models"][0]["recipe"].update(
        snapshots=1, optimizer={"name": "adam", "steps": 10**15}
    ),
    "no such recipe": at("plan", "models", 0, "recipe", "objective", value={"name": "evil"}),
    "no colours": at("plan", "models", 0, "network", "mean", value=[]),
    "thousands of colours": lambda m: m["plan"]["models"][0]["network"].update(
        mean=[0.5] * 5000, std=[0.5] * 5000
    ),
    "colours that are no numbers": at("plan", "models", 0, "network", "mean", value=[float("nan")]),
    "no config": lambda manifest: manifest.pop("config"),
    "a config that is a list": at("config", value=[]),
    "versions that are a number": at("versions", value=7),
    "timings that are a text": at("timings", value="fast"),
    "a study of 10**12 photographs": at(
        "plan",
        "study",
        value={
            "source": "x",
            "listing": "../../../etc/passwd",
            "count": 10**12,
            "top": 9,
            "bottom": 9,
            "reference": 100,
            "examples": 4,
            "saliency": None,
        },
    ),
}


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("change", MANIFESTS.values(), ids=MANIFESTS)
def test_manifests_that_no_run_writes_are_told(received: OutputFolder, change: Change) -> None:
    manifest = json.loads(received.manifest.read_text())
    change(manifest)
    received.manifest.write_text(json.dumps(manifest))
    with pytest.raises(UserError):
        plan_of(read_manifest(received))


@pytest.mark.parametrize("name", ["no plan", "10**12 channels", "no config"])
def test_commands_tell_such_manifests_in_one_message(received: OutputFolder, name: str) -> None:
    manifest = json.loads(received.manifest.read_text())
    MANIFESTS[name](manifest)
    received.manifest.write_text(json.dumps(manifest))
    for command in ("status", "collate", "verify", "clean"):
        assert_told(said_by(command, received))


TEXTS = {
    "nothing": b"",
    "no JSON": b"{",
    "no text": b"\xff\xfe\x00\x80",
    "a number": b"7",
    "a list": b"[]",
    "not a number": b'{"schema": NaN}',
    "deep": b"[" * 1_000_000,
    "deep objects": b'{"a":' * 100_000,
    "a number of a million digits": b'{"schema": ' + b"9" * 1_000_000 + b"}",
}


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_manifests_that_are_none_are_told(received: OutputFolder, text: bytes) -> None:
    received.manifest.write_bytes(text)
    for command in ("status", "collate", "verify"):
        assert_told(said_by(command, received))


def test_a_folder_in_the_place_of_the_manifest_is_told(received: OutputFolder) -> None:
    received.manifest.unlink()
    received.manifest.mkdir()
    assert_told(said_by("status", received))


# --- records -------------------------------------------------------------------------------------

RECORDS: dict[str, Any] = {
    **TEXTS,
    "nothing in it": {},
    "other types": {"kind": 3, "done": "x", "seconds": None, "tasks": 4, "tick": [], "at": {}},
    "endless": {"kind": "optimize", "done": 1e999, "seconds": 0, "tick": -1, "flops": float("nan")},
    "commands to a terminal": {"at": "\x1b[2J", "host": "\x1b]0;x\x07", "done": 1, "tick": 3},
}

OF_A_FAILURE = {
    "task": "0" * 64,
    "what": "\x1b[31m",
    "request": {"layers": 5},
    "attempt": 1,
    "given_up": True,
    "how": "\x9b",
    "when": "",
    "worker": "../..",
    "host": "\n",
    "log": "../../../etc/passwd",
    "said": "\x1b[2J\nb",
    "files": ["../../x", "\0", "/etc"],
}


def as_bytes(record: Any) -> bytes:
    return record if isinstance(record, bytes) else json.dumps(record).encode()


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_records_of_workers_that_no_worker_writes_do_no_harm(
    received: OutputFolder, record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layer_atlas.sweep.monitor.LOOK_SECONDS", 0.01)
    for path in (
        received.lock,
        received.summary,
        received.heartbeat("worker-00000000"),
        received.bundle("worker-00000000"),
        received.submission("worker-00000000"),
        received.failure("0" * 64, 1),
    ):
        path.write_bytes(as_bytes(record))
    for command in ("status", "failures", "retry"):
        code, said = said_by(command, received)
        assert code in (0, 2), said
        assert said.replace("\n", "").isprintable()


@pytest.mark.slow
def test_collation_minds_no_other_record_than_the_manifest(received: OutputFolder) -> None:
    for path in (received.lock, received.summary, received.failure("0" * 64, 1)):
        path.write_bytes(b"[" * 100_000)
    assert said_by("collate", received)[0] == 0


@pytest.mark.usefixtures("bounded")
def test_failures_that_somebody_made_up_are_shown_and_do_nothing(received: OutputFolder) -> None:
    received.failure("0" * 64, 1).write_text(json.dumps(OF_A_FAILURE))
    for words in (("status",), ("failures",), ("failures", "0000"), ("retry",)):
        code, said = said_by(words[0], received, *words[1:])
        assert code == 0, said
        assert said.replace("\n", "").isprintable()


@pytest.mark.parametrize("where", ["--user=me", "../../mine", "/tmp/mine", "", "12;x", "1\n2", 12])
def test_workers_to_take_up_again_have_names(received: OutputFolder, where: Any) -> None:
    # They become arguments of scancel, and parts of paths of files that are removed.
    told = {"engine": "slurm", "job_id": where, "tasks": []}
    received.submission("worker-00000000").write_text(json.dumps(told))
    found = list(submissions(received))
    assert bool(found) == (where == 12)


# --- files that are longer than the disk ---------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("bounded")
def test_a_shard_of_a_terabyte_of_nothing_is_set_aside(received: OutputFolder) -> None:
    path = next(received.store.rglob("*.safetensors"))
    with open(path, "r+b") as file:
        file.truncate(2**40)
    code, said = said_by("collate", received)
    assert code == 0
    assert "corrupt file set aside" in said
    assert not path.exists()


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize(
    "place", ["manifest.json", "atlas.json", "logs/worker-0.heartbeat", "lock"]
)
def test_records_of_a_terabyte_of_nothing_are_not_read(received: OutputFolder, place: str) -> None:
    begun = time.monotonic()
    with open(received.root / place, "wb") as file:
        file.truncate(2**40)
    code, said = said_by("status", received)
    assert code == (2 if place == "manifest.json" else 0), said
    assert is_current(received, "content", CollateSettings()) is False
    assert time.monotonic() - begun < 30


@pytest.mark.usefixtures("bounded")
def test_a_list_of_photographs_of_a_terabyte_of_nothing_is_told(tmp_path: Path) -> None:
    with open(tmp_path / "list.jsonl", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match="a line without end"):
        Listing(tmp_path / "list.jsonl")


@pytest.mark.parametrize(
    "line", [b"[" * 99_999, b'["a", Infinity]', b'["a"]', b"{}", b"\xff", b"7"]
)
def test_lists_of_photographs_that_are_none_are_told(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "list.jsonl").write_bytes(line + b"\n")
    with pytest.raises(UserError, match="is not a readable listing"):
        Listing(tmp_path / "list.jsonl").block(0, 1)


@pytest.mark.slow
def test_a_shard_of_another_sweep_is_set_aside(received: OutputFolder, tmp_path: Path) -> None:
    other = make(tmp_path / "other", make_plan(channels=(0, 1, 2), seeds=(1,), shard_size=2))
    mine, theirs = (sorted(folder.store.rglob("*.safetensors")) for folder in (received, other))
    for path, foreign in zip(mine, theirs, strict=True):
        path.write_bytes(foreign.read_bytes())
    code, said = said_by("collate", received)
    assert code == 0
    assert said.count("corrupt file set aside") == 2
    assert "3 images: 3 missing" in said
