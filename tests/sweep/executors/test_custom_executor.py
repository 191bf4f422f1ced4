"""Custom executors: their arguments, and the errors of targets that return none."""

import sys
from pathlib import Path
from typing import Any

import pytest
from runs import TINY, Here, driven_here, shards
from toys import layer_info, make_plan, make_sweep

from layer_atlas.config.executors import CustomSettings
from layer_atlas.errors import EXIT_USER_ERROR, UserError
from layer_atlas.store.folder import OutputFolder, prepare
from layer_atlas.sweep.executors import open_executor
from layer_atlas.sweep.executors.base import Executor, WorkerJob
from layer_atlas.sweep.scheduler import Scheduler
from layer_atlas.sweep.stages import stages
from layer_atlas.sweep.workers import Worker, submissions, write_submission


class Recording(Here):
    """Records its arguments."""

    def __init__(self, devices: list[str], **args: object) -> None:
        super().__init__()
        self.devices, self.args = devices, args


class Without(Here):
    """An executor that lacks something."""

    def __init__(self, devices: list[str], name: str) -> None:
        super().__init__()
        setattr(self, name, None)


class Misread(Here):
    """What should be a value is a method."""

    def max_submitted(self) -> int:  # type: ignore[override]
        return 1


def made(target: str, **args: Any) -> Any:
    settings = CustomSettings(target=f"{__name__}.{target}", args=args or None)
    return open_executor(settings, ["cpu", "cpu"], Path())


def test_it_is_told_the_devices_and_its_arguments() -> None:
    executor = made("Recording", prefix="nice", depth=3)
    assert executor.devices == ["cpu", "cpu"]
    assert executor.args == {"prefix": "nice", "depth": 3}


# --- what is none --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in vars(Executor) if not name.startswith("_")])
def test_whatever_part_of_the_contract_is_missing_is_named(name: str) -> None:
    with pytest.raises(UserError, match=f"returned Without, .* has no (method|value) '{name}'\\."):
        made("Without", name=name)


def test_a_method_is_no_value() -> None:
    with pytest.raises(UserError, match="it has no value 'max_submitted'"):
        made("Misread")


def nothing(devices: list[str]) -> None:
    """What forgets to return."""


def leave(devices: list[str]) -> None:
    sys.exit("no licence")


def refuse(devices: list[str]) -> None:
    raise UserError("the cluster is closed on Sundays.")


FAULTS = {
    "Gone": r"executor.target '.*\.Gone' cannot be imported",
    "FAULTS": "executor.target '.*' is dict, not a callable",
    "nothing": "returned NoneType, .* no value 'max_parallel', .* method 'submit', .* 'close'",
    "Without": "failed: TypeError.*name",
    "leave": "failed: SystemExit.*no licence",
    "refuse": "^the cluster is closed on Sundays",
}


@pytest.mark.parametrize(("target", "message"), FAULTS.items(), ids=FAULTS)
def test_what_is_no_executor_is_told(target: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        made(target)


def test_a_sweep_ends_before_anything_is_computed(tmp_path: Path) -> None:
    tiny = [setting for setting in TINY if not setting.startswith("executor")]
    mine = ("executor=custom", "executor.gpus=0", f"executor.target={__name__}.nothing")
    code, said = driven_here("run", tmp_path, *tiny, *mine)
    assert code == EXIT_USER_ERROR
    assert f"error: executor.target='{__name__}.nothing' returned NoneType" in said
    assert len([line for line in said.splitlines() if not line.startswith("model:")]) == 1
    assert not shards(tmp_path / "demo")


# --- workers that go on without the driver -------------------------------------------------------


class Detached(Here):
    """Its workers went on, and have all ended since."""

    detached = True


def test_workers_that_other_code_began_are_left_alone(folder: OutputFolder) -> None:
    plan = make_plan(layer_info(n_channels=8), shard_size=2)
    prepare(folder, 0)
    for tag, engine in (("worker-0", "mine.Other"), ("worker-1", "mine.Detached")):
        write_submission(folder, engine, Worker(WorkerJob(tag, "7"), []))
    settings = CustomSettings(target="mine.Detached")
    (stage,) = stages(make_sweep(plan, folder))
    Scheduler(folder, Detached(), settings, stage, lambda finished, busy: None).run([])
    assert [submission.engine for submission in submissions(folder)] == ["mine.Other"]
