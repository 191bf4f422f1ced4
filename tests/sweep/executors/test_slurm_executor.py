"""Workers as jobs of a real Slurm of one node: small scripts, real signals, real preemption."""

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mini_slurm import MiniSlurm, mini_slurm

from layer_atlas.config.executors import SlurmSettings
from layer_atlas.errors import EXIT_PREEMPTED, UserError
from layer_atlas.sweep.executors import slurm as slurm_module
from layer_atlas.sweep.executors.base import State, WorkerJob, WorkerSpec
from layer_atlas.sweep.executors.slurm import SlurmExecutor
from layer_atlas.sweep.executors.slurm_job import JobState, Limits, job_states

SETTINGS = SlurmSettings(jobs=2, gpus=0, cpus=1, memory_gb=0.1, minutes=30)
TAGS = (f"worker-{number}" for number in itertools.count())

TELL = "import json, os; print(json.dumps(dict(os.environ)))"
SLEEP = "import time; print('up', flush=True); time.sleep(60)"
LEAVE = """
import pathlib, signal, sys, time
marks = pathlib.Path(sys.argv[1])
def leave(number, frame):
    sys.exit(75)
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, leave)
life = len(list(marks.iterdir()))
(marks / str(life)).touch()
if life == 0:
    time.sleep(60)
"""
"""Leaves as workers do when told to; in its second life it has nothing left to do."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask a squeue that has nothing else to do ten times as often."""
    monkeypatch.setattr(slurm_module, "LEAST_INTERVAL", 0.1)
    monkeypatch.setattr(slurm_module, "MOST_INTERVAL", 0.4)


@pytest.fixture
def logs(slurm: MiniSlurm, tmp_path: Path) -> Path:
    folder = tmp_path / "atlas" / "logs"
    folder.mkdir(parents=True)
    return folder


def open_slurm(logs: Path, **settings: Any) -> SlurmExecutor:
    return SlurmExecutor(replace(SETTINGS, **settings), logs)


def request(logs: Path, code: str, *arguments: str) -> WorkerSpec:
    tag = next(TAGS)
    return WorkerSpec((sys.executable, "-c", code, *arguments), tag, logs / f"{tag}.log")


def wait(
    executor: SlurmExecutor,
    handles: Sequence[WorkerJob],
    until: Callable[[Sequence[State]], bool] = lambda states: (
        {s.phase for s in states} == {"ended"}
    ),
    timeout: float = 60,
) -> list[State]:
    """Poll as the scheduler does, until it is so; returns the states."""
    end = time.monotonic() + timeout
    while True:
        states = executor.poll(handles)
        found = [states[handle.tag] for handle in handles]
        if until(found):
            return found
        assert time.monotonic() < end, found
        time.sleep(0.02)


def all_run(states: Sequence[State]) -> bool:
    return {state.phase for state in states} == {"running"}


def log(logs: Path, handle: WorkerJob) -> str:
    return (logs / f"{handle.tag}.log").read_text()


def wait_for(true: Callable[[], bool], timeout: float = 30) -> None:
    end = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


# --- the ordinary way ----------------------------------------------------------------------------


@pytest.mark.slow
def test_workers_run_as_an_array_and_their_exit_codes_are_told(logs: Path) -> None:
    executor = open_slurm(logs)
    ends = ["print('hello')", "import sys; sys.exit(3)", "import os; os.kill(os.getpid(), 9)"]
    leaves_by_itself = "import sys; sys.exit(75)"
    handles = executor.submit([request(logs, code) for code in [*ends, leaves_by_itself]])
    assert {handle.job_id.partition("_")[2] for handle in handles} == {"0", "1", "2", "3"}
    assert executor.poll(handles)[handles[0].tag].phase in ("waiting", "running")
    assert [state.exit_code for state in wait(executor, handles)] == [0, 3, -9, EXIT_PREEMPTED]
    assert log(logs, handles[0]) == "hello\n"
    assert json.loads((logs / f"{handles[1].tag}.exit").read_text()) == {"exit_code": 3}
    left = {path.name for path in (logs / "slurm").iterdir() if "submission.sh" not in path.name}
    assert left == {f"{handle.job_id}_0_log.out" for handle in handles[1:]}


@pytest.mark.slow
def test_a_worker_is_told_its_threads_and_its_device_and_not_of_a_job_around_its_driver(
    logs: Path, slurm: MiniSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    around = ("SLURM_MEM_PER_CPU", "SLURM_MEM_PER_GPU", "SLURM_MEM_PER_NODE")
    for name in around:  # srun refuses these together
        monkeypatch.setenv(name, "100")
    settings = {
        "setup": ("export FROM_SETUP=1",),
        "options": {"comment": "hers", "test-only": False},
    }
    executor = open_slurm(logs, **settings)
    (handle,) = executor.submit([request(logs, TELL)])
    assert "Comment=hers" in slurm.ask("scontrol", "show", "job", handle.job_id)
    assert wait(executor, [handle])[0].exit_code == 0
    told = json.loads(log(logs, handle))
    assert told["OMP_NUM_THREADS"] == "1"
    assert told["LAYER_ATLAS_DEVICE"] == "cpu"
    assert told["CUDA_VISIBLE_DEVICES"] == ""
    assert told["FROM_SETUP"] == "1"
    assert told["MALLOC_TRIM_THRESHOLD_"] == "1099511627776"
    assert int(told["LAYER_ATLAS_PARENT"]) > 1
    assert {os.environ[name] for name in around} == {"100"}


@pytest.mark.slow
def test_every_job_has_a_gpu_of_its_own(logs: Path) -> None:
    executor = open_slurm(logs, gpus=1)
    tell = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES']); time.sleep(1)"
    handles = executor.submit([request(logs, tell), request(logs, tell)])
    wait(executor, handles)
    assert sorted(log(logs, handle) for handle in handles) == ["0\n", "1\n"]


@pytest.mark.slow
def test_an_array_that_is_longer_than_the_site_allows_is_cut_and_no_more_run_at_once(
    logs: Path, tmp_path: Path
) -> None:
    """The site allows 4 jobs in an array, and has room for 4 at once; of 5, two run at once."""
    count = (
        "import os, sys, time; mark = f'{sys.argv[1]}/{os.getpid()}'; open(mark, 'x').close();"
        "time.sleep(0.5); n = len(os.listdir(sys.argv[1])); os.unlink(mark); sys.exit(n)"
    )
    (tmp_path / "marks").mkdir()
    executor = open_slurm(logs)
    handles = executor.submit([request(logs, count, str(tmp_path / "marks")) for _ in range(5)])
    assert len({handle.job_id.partition("_")[0] for handle in handles}) == 2
    assert executor.max_submitted == 5, "there is room for more while some wait"
    codes = [state.exit_code for state in wait(executor, handles)]
    assert max(code or 0 for code in codes) == 2
    assert codes[4] == 1, "the second array did not wait for the first"
    assert executor.max_submitted > 5


def test_an_array_that_is_refused_for_its_length_is_cut(
    logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_module, "site_limits", lambda: Limits(array=100, jobs=100))
    executor = open_slurm(logs)
    handles = executor.submit([request(logs, SLEEP) for _ in range(5)])
    arrays = [handle.job_id.partition("_")[0] for handle in handles]
    assert [len(list(group)) for _, group in itertools.groupby(arrays)] == [2, 2, 1]
    executor.stop(handles)
    wait(executor, handles)


def test_a_job_that_fails_before_its_worker_starts_says_why_in_the_workers_log(logs: Path) -> None:
    executor = open_slurm(logs, setup=("echo there is no such module", "exit 7"))
    handles = executor.submit([request(logs, TELL)])
    assert wait(executor, handles) == [State("ended", 7)]
    assert "there is no such module" in log(logs, handles[0])


# --- leaving -------------------------------------------------------------------------------------


def lives(logs: Path) -> Path:
    marks = logs / "lives"
    marks.mkdir()
    return marks


@pytest.mark.slow
def test_a_worker_that_slurm_tells_to_leave_goes_on_later(logs: Path, slurm: MiniSlurm) -> None:
    """By the signal of time limits and preemption; that these send it is seen in slow tests."""
    deaf = (
        "import pathlib, sys, time; mark = pathlib.Path(sys.argv[1]) / 'deaf';"
        "mark.exists() and sys.exit(0); mark.touch(); time.sleep(60)"
    )
    executor, marks = open_slurm(logs), lives(logs)
    handles = executor.submit([request(logs, LEAVE, str(marks)), request(logs, deaf, str(logs))])
    wait_for(lambda: (marks / "0").exists() and (logs / "deaf").exists())
    wait(executor, handles, all_run)
    slurm.ask("scancel", "--signal=USR2", *(handle.job_id for handle in handles))
    wait(executor, handles, lambda states: {state.phase for state in states} == {"waiting"})
    assert wait(executor, handles) == [State("ended", 0)] * 2
    assert {mark.name for mark in marks.iterdir()} == {"0", "1"}


def test_a_stopped_worker_leaves_for_good_and_one_that_waits_too(logs: Path) -> None:
    executor, marks = open_slurm(logs, jobs=1), lives(logs)
    handles = executor.submit([request(logs, LEAVE, str(marks)) for _ in range(2)])
    wait_for((marks / "0").exists)
    executor.stop(handles)
    assert wait(executor, handles) == [State("ended", EXIT_PREEMPTED, "CANCELLED")] * 2
    assert len(list(marks.iterdir())) == 1


# --- coming back ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_another_process_takes_workers_up_by_their_handles(logs: Path) -> None:
    first = open_slurm(logs, jobs=3)
    codes = [SLEEP, "import sys; sys.exit(4)", SLEEP]
    handles = first.submit([request(logs, code) for code in codes])
    first.close()
    del first
    written = json.loads(json.dumps([[handle.tag, handle.job_id] for handle in handles]))
    handles = [WorkerJob(*fields) for fields in written]
    second = open_slurm(logs)
    phases = ["running", "ended", "running"]
    wait(second, handles, lambda states: [state.phase for state in states] == phases)
    second.stop(handles[:1])
    wait(second, handles[:2])
    assert second.poll(handles)[handles[2].tag].phase == "running", "one more was stopped"
    second.stop(handles[2:])
    states = wait(second, handles)
    assert [state.exit_code for state in states] == [EXIT_PREEMPTED, 4, EXIT_PREEMPTED]


def test_a_job_that_slurm_has_forgotten_ended_as_was_written_down(logs: Path) -> None:
    known, unknown = WorkerJob("worker-known", "99999"), WorkerJob("worker-unknown", "99998_3")
    (logs / "worker-known.exit").write_text('{"exit_code": 74}')
    assert open_slurm(logs).poll([known])[known.tag].exit_code == 74
    states = open_slurm(logs).poll([known, unknown])
    assert states[unknown.tag].phase == "ended"
    assert states[unknown.tag].exit_code is None
    assert "no longer in the queue" in states[unknown.tag].reason


@pytest.mark.slow
def test_while_slurm_does_not_answer_jobs_are_as_they_were(
    logs: Path,
    slurm: MiniSlurm,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    executor = open_slurm(logs)
    handles = executor.submit([request(logs, SLEEP)])
    wait(executor, handles, all_run)
    monkeypatch.setattr("layer_atlas.sweep.executors.slurm_job.COMMAND_SECONDS", 0.3)
    monkeypatch.setattr("layer_atlas.sweep.executors.slurm.MOST_INTERVAL", 0.0)
    monkeypatch.setenv("SLURM_CONF", "/nowhere/slurm.conf")
    for _ in range(3):
        time.sleep(0.4)
        assert executor.poll(handles)[handles[0].tag].phase == "running"
        executor.stop(handles)
    said = caplog.text
    assert said.count("Slurm does not answer") == said.count("does not cancel") == 1
    monkeypatch.setenv("SLURM_CONF", str(slurm.config))
    monkeypatch.setattr("layer_atlas.sweep.executors.slurm_job.COMMAND_SECONDS", 30)
    executor.stop(handles)
    assert wait(executor, handles)[0].reason == "CANCELLED"


@pytest.mark.slow
def test_squeue_is_asked_once_for_all_and_less_and_less_often(
    logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def count(jobs: Iterable[str]) -> dict[str, JobState]:
        asked.append(time.monotonic())
        return job_states(jobs)

    monkeypatch.setattr(slurm_module, "job_states", count)
    executor = open_slurm(logs)
    handles = executor.submit([request(logs, SLEEP), request(logs, SLEEP)])
    wait(executor, handles, all_run)
    asked.clear()
    end = time.monotonic() + 2
    while time.monotonic() < end:
        executor.poll(handles)
        time.sleep(0.01)
    between = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert between == pytest.approx([0.2, 0.4, 0.4, 0.4, 0.4][: len(between)], abs=0.1)
    executor.stop(handles)
    wait(executor, handles)


# --- refusals ------------------------------------------------------------------------------------


def test_an_unknown_partition_is_named_with_those_there_are(logs: Path) -> None:
    with pytest.raises(UserError, match=r"executor.partition 'hihg'; choose from: high, low"):
        open_slurm(logs, partition="hihg")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"partition": "short"}, "time limit is invalid.*executor.minutes"),
        ({"options": {"gres": "tpu:1"}}, "generic resource.*executor.gpus=0"),
        ({"options": {"wish": "yes"}}, "unrecognized option.*executor.options"),
        ({"memory_gb": 5000.0}, "Memory specification.*memory_gb"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_sbatch_refuses_is_told_in_its_words_with_a_remedy(
    settings: dict[str, Any], words: str, logs: Path
) -> None:
    executor = open_slurm(logs, **settings)
    with pytest.raises(UserError, match=f"(?s)Slurm refuses the jobs: .*{words}"):
        executor.submit([request(logs, TELL), request(logs, TELL)])
    assert not list((logs / "slurm").iterdir()), "what was not submitted is left"


@pytest.mark.slow
def test_what_is_refused_while_others_run_is_offered_again(
    logs: Path, slurm: MiniSlurm, caplog: pytest.LogCaptureFixture
) -> None:
    executor = open_slurm(logs)
    first = executor.submit([request(logs, SLEEP)])
    wait(executor, first, all_run)
    assert executor.max_submitted == 2
    slurm.ask("scontrol", "update", "partitionname=low", "state=drain")
    try:
        assert executor.submit([request(logs, TELL)]) == []
        assert executor.max_submitted == 1, "it would be offered again at once"
    finally:
        slurm.ask("scontrol", "update", "partitionname=low", "state=up")
    assert "Slurm takes no more jobs now" in caplog.text
    executor.stop(first)
    wait(executor, first)
    again = executor.submit([request(logs, TELL)])
    assert wait(executor, again)[0].exit_code == 0


def test_jobs_that_wait_for_what_never_comes_are_told_of(
    logs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    executor = open_slurm(logs, options={"time-min": 1, "hold": True})
    handles = executor.submit([request(logs, TELL)])
    states = wait(executor, handles, lambda states: bool(states[0].reason))
    assert states[0] == State("waiting", reason="PENDING (JobHeldUser)")
    assert "Slurm keeps jobs waiting: JobHeldUser" in caplog.text
    executor.stop(handles)


def test_without_slurm_or_submitit_a_message_says_what_is_missing(
    logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"pip install 'layer-atlas\[slurm\]'"):
        open_slurm(logs)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="there is no sbatch, srun, squeue"):
        open_slurm(logs)


# --- what takes minutes --------------------------------------------------------------------------


@pytest.mark.slow
def test_a_worker_that_does_not_leave_is_killed(logs: Path) -> None:
    stubborn = "import signal; signal.signal(15, signal.SIG_IGN); " + SLEEP
    executor = open_slurm(logs)
    handles = executor.submit([request(logs, stubborn)])
    wait_for((logs / f"{handles[0].tag}.log").exists)
    wait_for(lambda: "up" in log(logs, handles[0]))
    executor.stop(handles)
    assert wait(executor, handles) == [State("ended", EXIT_PREEMPTED, "CANCELLED")]
    assert "CANCELLED" in log(logs, handles[0]), "Slurm's own words are not in the log"


@pytest.mark.slow
def test_slurm_tells_a_job_before_its_time_limit(logs: Path) -> None:
    executor, marks = open_slurm(logs, minutes=1, notice_seconds=30), lives(logs)
    handles = executor.submit([request(logs, LEAVE, str(marks))])
    assert wait(executor, handles, timeout=120)[0] == State("ended", 0)
    assert len(list(marks.iterdir())) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "site",
    [
        {},
        {"warns": False},
        {"preempted": "PreemptMode=REQUEUE GraceTime=0"},
        {"preempted": "PreemptMode=CANCEL GraceTime=15"},
    ],
    ids=str,
)
def test_a_preempted_job_goes_on_by_whatever_rules_the_site_has(
    site: dict[str, Any], tmp_path: Path
) -> None:
    with mini_slurm(tmp_path / "slurm", **site) as slurm:
        logs = tmp_path / "atlas" / "logs"
        logs.mkdir(parents=True)
        executor, marks = open_slurm(logs), lives(logs)
        handles = executor.submit([request(logs, LEAVE, str(marks))])
        wait_for((marks / "0").exists)
        slurm.preempt()
        assert wait(executor, handles)[0] == State("ended", 0)
        assert len(list(marks.iterdir())) == 2
