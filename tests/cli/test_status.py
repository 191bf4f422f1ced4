"""What status, failures and retry print: of toys, of a sweep that fails, of one that runs."""

import os
import re
import signal
import time
from pathlib import Path

import pytest
from runs import TINY, atlas_here, run_here, start, wait_for_shards
from toys import fail, fill_store, layer_info, make_manifest, make_plan, make_result

from layer_atlas.cli.status import causes_of_failures, status_table
from layer_atlas.plan.plan import Plan, flops_per_job
from layer_atlas.store.files import write_json
from layer_atlas.store.folder import OutputFolder, prepare
from layer_atlas.store.shards import commit
from layer_atlas.sweep.heartbeat import Heartbeat
from tests.sweep.test_monitor import begin, submit


def told(folder: OutputFolder, plan: Plan, every_layer: bool = False) -> list[str]:
    """What is printed of a plan, line by line."""
    write_json(folder.manifest, make_manifest(plan))
    return status_table(folder, every_layer).splitlines()


def rows(lines: list[str]) -> dict[str, list[int]]:
    """The numbers of every line of the table, by its title."""
    found = [re.fullmatch(r"(.*?)((?: +\d+){5})", line) for line in lines]
    return {row[1]: list(map(int, row[2].split())) for row in found if row}


def test_every_model_and_layer_has_its_numbers(folder: OutputFolder) -> None:
    plan = make_plan(layer_info("a", 6), layer_info("b.c", 4))
    shards = list(plan.shards())
    fill_store(folder, make_plan(layer_info("a", 6), channels=(0, 1)))
    fail(folder, shards[1])
    prepare(folder, 0)
    submit(folder, 0, detached=True)
    begin(folder, 0, shards[3])
    lines = told(folder, plan)
    assert lines[0] == f"{folder.root}: 2 of 10 images done (20.0 %)"
    assert lines[2].split() == ["layer", "images", "done", "running", "failed", "missing"]
    assert rows(lines) == {
        "toy": [10, 2, 2, 2, 4],
        "  a": [6, 2, 0, 2, 2],
        "  b.c": [4, 0, 2, 0, 2],
    }


NAMES = [f"encoder.layers.encoder_layer_{i}.self_attention.out_proj" for i in range(200)]


@pytest.fixture
def large(folder: OutputFolder, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Of 200 layers, 90 are complete, one more is failed in part, and one is being made."""
    monkeypatch.setenv("COLUMNS", "80")
    plan = make_plan(*(layer_info(name, 4) for name in NAMES), label="timm-vit_base_patch16_224")
    shards = list(plan.shards())
    for shard in shards[:180]:
        path = folder.shard(shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"present is done")
    fail(folder, shards[180], said="ValueError: 7 is odd")
    prepare(folder, 0)
    submit(folder, 0, detached=True)
    begin(folder, 0, shards[182], host="a-node-with-a-name", device="cuda:3")
    return plan


def test_many_layers_are_told_in_a_few_lines_that_fit(folder: OutputFolder, large: Plan) -> None:
    lines = told(folder, large)
    begun = [title.partition("...")[0] for title in rows(lines)][1:]
    assert begun == ["  90 layers, to ", "  ", "  ", "  108 layers, to "]
    table_and_workers = lines[2 : lines.index("1 task failed; the latest:")]
    assert any("cuda:3 on a-node" in line for line in table_and_workers)
    assert max(map(len, table_and_workers)) <= 80
    assert sum(numbers[0] for title, numbers in rows(lines).items() if title[0] == " ") == 800


def test_every_layer_is_told_if_asked_for(folder: OutputFolder, large: Plan) -> None:
    assert len(rows(told(folder, large, every_layer=True))) == 201


def test_layers_that_have_something_to_tell_are_not_folded(folder: OutputFolder) -> None:
    plan = make_plan(*(layer_info(f"l{i}", 2) for i in range(30)))
    shards = list(plan.shards())
    for shard in shards[:10]:
        fail(folder, shard)
    assert list(rows(told(folder, plan))) == [
        "toy",
        *(f"  l{i}" for i in range(10)),
        "  20 layers, to l29",
    ]


def test_workers_that_wait_and_workers_that_are_stuck_are_told(folder: OutputFolder) -> None:
    plan = make_plan(layer_info("a", 8))
    prepare(folder, 0)
    for number in range(4):
        submit(folder, number, detached=True)
    heartbeat = begin(folder, 0, host="node", device="cuda:1", done=7.0)
    heartbeat.facts["tick"] = 10
    heartbeat._begun = time.monotonic() - 25
    heartbeat.write()
    text = "\n".join(told(folder, plan))
    assert "at work: detached workers, which continue without their driver" in text
    assert "  cuda:1 on node: 7 channels so far; toy/a channels 0-1 seed 0\n" in text
    assert "    no heartbeat for 1 s; usually one every 2.5 s\n" in text
    assert "  3 workers waiting in the queue of slurm" in text


def test_time_left_goes_by_what_layers_cost(folder: OutputFolder) -> None:
    cheap, dear = layer_info("a", 10, flops_before=1), layer_info("b", 10, flops_before=99)
    plan = make_plan(cheap, dear)
    fill_store(folder, make_plan(cheap))
    prepare(folder, 0)
    submit(folder, 0, detached=True)
    heartbeat = begin(folder, 0, list(plan.shards())[5], done=20.0)
    heartbeat.facts["flops"] = 10 * flops_per_job(plan.models[0].layers[1], plan.models[0].recipe)
    heartbeat._begun = time.monotonic() - 5000
    heartbeat.write()
    # Ten of the dear ones are left, and as much as ten of these was computed in 5,000 s.
    assert "  14.4 channels/h, all images in about 83 min" in told(folder, plan)


def test_a_worker_that_is_loading_its_network_is_not_stuck(folder: OutputFolder) -> None:
    prepare(folder, 0)
    submit(folder, 0, detached=True)
    Heartbeat(folder.heartbeat("worker-00000000")).write()
    text = "\n".join(told(folder, make_plan()))
    assert ": preparing" in text
    assert "no heartbeat" not in text


def test_what_is_wrong_is_told_with_its_log_and_what_to_do(folder: OutputFolder) -> None:
    plan = make_plan(layer_info("a", 12))
    first, second, third, fourth, fifth, _ = plan.shards()
    for day, shard in enumerate((fifth, second, third, fourth), 1):
        fail(folder, shard, said=f"ValueError: {day} is odd", when=f"2026-01-0{day}")
    fail(folder, first, attempts=2, given_up=False, said="KeyError: 9", when="2026-01-09")
    prepare(folder, 0)
    folder.log("worker-00000002").write_text("Traceback ...")
    text = "\n".join(told(folder, plan))
    assert "5 tasks failed; the latest:\n" in text
    assert re.findall(r"Error: .*", text) == ["Error: 9", "Error: 4 is odd", "Error: 3 is odd"]
    assert f"{first.key[:8]}  to be tried again after 2 attempts\n" in text
    assert f"{fourth.key[:8]}  in quarantine after 3 attempts\n    {fourth}\n" in text
    assert text.count(f"    {folder.log('worker-00000002')}\n") == 2
    assert str(folder.log("worker-00000001")) not in text, "it is gone"
    assert f"`atlas retry {folder.choice}` puts back what is in quarantine" in text
    fill_store(folder, plan)
    assert "failed;" not in "\n".join(told(folder, plan))


# --- a sweep that fails, from the first run to the end of its story ------------------------------

MODEL = """
import os
from torch import nn

class Fragile(nn.Conv2d):
    def forward(self, x):
        if "FRAGILE" in os.environ and len(x) >= 8 and x.requires_grad:
            raise ArithmeticError("broken on purpose")
        return super().forward(x)

def build():
    net = nn.Sequential()
    net.add_module("safe", nn.Conv2d(3, 4, 3))
    net.add_module("fragile", Fragile(4, 4, 3))
    return net
"""


@pytest.mark.slow
def test_the_story_of_a_task_that_fails_until_it_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fragile_network.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FRAGILE", "1")
    model = "models=[{name: net, target: fragile_network.build}]"
    sweep = (model, "layers=[safe,fragile]", "optimizer.steps=2", "image_size=16", "name=x")
    assert run_here(tmp_path, *sweep) == 1
    folder = OutputFolder(tmp_path / "x")

    said = atlas_here("status", tmp_path, "name=x")[1]
    assert "  fragile       4     0        0       4        0\n" in said
    assert "    exit code 1: ArithmeticError: broken on purpose\n" in said

    said = atlas_here("failures", tmp_path, "name=x")[1]
    assert "1 task failed: 1 in quarantine\n" in said
    (key,) = re.findall(r"^([0-9a-f]{8})  in quarantine after 3 attempts$", said, re.MULTILINE)

    said = atlas_here("failures", tmp_path, key, "name=x")[1]
    assert re.findall(r"^attempt (\d), .*: exit code 1$", said, re.MULTILINE) == ["1", "2", "3"]
    assert said.count('  |     raise ArithmeticError("broken on purpose")\n') == 3
    assert all(str(log) in said for log in folder.logs.glob("worker-*.log"))

    assert run_here(tmp_path, *sweep) == 1
    assert len(list(folder.failures.glob("*.json"))) == 3, "a task in quarantine was tried"

    monkeypatch.delenv("FRAGILE")
    code, said = atlas_here("retry", tmp_path, "name=x")
    assert code == 0
    assert said.startswith(f"{key}  net/fragile channels 0-3 seed 0\n1 task put back; ")
    assert "nothing to put back" in atlas_here("retry", tmp_path, "name=x")[1]
    assert run_here(tmp_path, *sweep) == 0
    said = atlas_here("failures", tmp_path, "fragile", "name=x")[1]
    assert said.count("before it was put back") == 3
    assert "  state    done since\n" in said


# --- a sweep that runs ---------------------------------------------------------------------------


@pytest.mark.slow
def test_a_running_sweep_is_seen_from_outside(tmp_path: Path) -> None:
    slow = ("optimizer.steps=120", "batch_size=8", "executor.devices=[cpu]")
    process = start("run", tmp_path, *TINY, *slow)
    try:
        wait_for_shards(tmp_path / "demo", 1)
        said = atlas_here("status", tmp_path)[1]
        assert f"at work: process {process.pid} on {os.uname().nodename}, since" in said
        done, running = rows(said.splitlines())["demo"][1:3]
        assert done >= 8
        assert running >= 8
        assert re.search(
            r"^  \d+\.\d channels/(s|min), all images in about \d+", said, re.MULTILINE
        )
        assert re.search(r"\n  cpu on .*: \d+ channels so far; demo/conv\d channels ", said)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()
    said = atlas_here("status", tmp_path)[1]
    assert "no process is at work on it" in said
    assert rows(said.splitlines())["demo"][2] == 0


def test_a_run_ends_with_the_causes_of_its_failures(folder: OutputFolder) -> None:
    plan = make_plan(layer_info(n_channels=10))
    a, b, c, again, done = plan.shards()
    assert causes_of_failures(folder) == ""
    for shard in (a, c):
        fail(folder, shard, said='Traceback:\n  File "x.py", line 1, in f\nValueError: no channel')
    fail(folder, b, said='Traceback:\n  File "x.py", line 1, in f\nMemoryError: full')
    fail(folder, again, attempts=1, given_up=False)
    fail(folder, done)
    commit(folder, done, make_result(done))
    assert causes_of_failures(folder).splitlines() == [
        "3 tasks failed:",
        "  2 x ValueError: no channel",
        "  1 x MemoryError: full",
        f"`atlas failures {folder.choice}` lists them with their tracebacks",
        f"`atlas retry {folder.choice}` makes the next run try them again",
    ]
