"""The contract of executors, kept by a real Ray cluster: ends, logs, stops, losses, refusals."""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ray_clusters import Cluster, another_node, cluster, free_port

from layer_atlas.config.executors import RaySettings
from layer_atlas.errors import UserError
from layer_atlas.sweep.executors.base import State, WorkerJob, WorkerSpec
from layer_atlas.sweep.executors.ray import JOIN_SECONDS, RayExecutor, open_cluster

pytestmark = pytest.mark.slow


TELL = "import json, os; print(json.dumps({**os.environ, 'cwd': os.getcwd()}))"
POLITE = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(75))
print(os.getpid(), os.getppid(), flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def head() -> Iterator[Cluster]:
    with cluster(cpus=2, gpus=1) as made:
        yield made


@pytest.fixture
def executor(head: Cluster) -> Iterator[RayExecutor]:
    made = RayExecutor(settings(head.address))
    yield made
    made.close()


def settings(address: str, gpus: int = 0, cpus: int = 1, **more: object) -> RaySettings:
    return RaySettings(address=address, gpus=gpus, cpus=cpus, memory_gb=0.1, **more)  # type: ignore[arg-type]


def submit(executor: RayExecutor, log: Path, *argv: str) -> WorkerJob:
    (job,) = executor.submit([WorkerSpec(argv, log.name, log)])
    return job


def python(executor: RayExecutor, log: Path, code: str) -> WorkerJob:
    return submit(executor, log, sys.executable, "-c", code)


def state(executor: RayExecutor, job: WorkerJob) -> State:
    return executor.poll([job])[job.tag]


def wait_for(executor: RayExecutor, job: WorkerJob, phase: str, seconds: float = 60) -> State:
    end = time.monotonic() + seconds
    while (now := state(executor, job)).phase != phase:
        assert time.monotonic() < end, f"{now} after {seconds} s"
        time.sleep(0.05)
    return now


def numbers_in(log: Path) -> list[int]:
    """What a polite worker says: its process id and its parent's."""
    end = time.monotonic() + 60
    while not (log.exists() and log.read_text().endswith("\n")):
        assert time.monotonic() < end, "the worker does not say its process id"
        time.sleep(0.05)
    return [int(word) for word in log.read_text().split()]


def assert_gone(pid: int, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while is_alive(pid):
        assert time.monotonic() < end, f"process {pid} is there after {seconds} s"
        time.sleep(0.05)


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"still not so after {seconds} s"
        time.sleep(0.1)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# --- a worker's life -----------------------------------------------------------------------------


def test_exit_codes_and_output_of_several_workers(executor: RayExecutor, tmp_path: Path) -> None:
    codes = {f"w{code}": code for code in (0, 7, 75)}
    jobs = [
        python(executor, tmp_path / tag, f"import sys; print('I am {tag}'); sys.exit({code})")
        for tag, code in codes.items()
    ]
    assert json.loads(json.dumps([job.job_id for job in jobs]))
    ends = {job.tag: wait_for(executor, job, "ended") for job in jobs}
    assert ends == {tag: State("ended", code) for tag, code in codes.items()}
    assert all((tmp_path / tag).read_text() == f"I am {tag}\n" for tag in codes)
    assert executor.poll(jobs) == ends, "asked again it says the same"
    assert executor.poll([]) == {}


def test_a_worker_that_a_signal_kills_ends_with_its_number(
    executor: RayExecutor, tmp_path: Path
) -> None:
    job = python(executor, tmp_path / "w", "import os; os.kill(os.getpid(), 9)")
    assert wait_for(executor, job, "ended") == State("ended", -signal.SIGKILL)


def test_a_worker_finds_its_cores_its_folder_and_what_the_user_has_set(
    executor: RayExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "7")
    monkeypatch.setenv("SET_BY_USER", "here")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    monkeypatch.chdir(tmp_path)
    wait_for(executor, python(executor, tmp_path / "w", TELL), "ended")
    told = json.loads((tmp_path / "w").read_text())
    assert told["LAYER_ATLAS_DEVICE"] == f"{socket.gethostname()} cpu"
    assert told["CUDA_VISIBLE_DEVICES"] == "", "a worker on the CPU sees a GPU"
    assert told["LAYER_ATLAS_PARENT"] != str(os.getpid())
    assert (told["OMP_NUM_THREADS"], told["MALLOC_TRIM_THRESHOLD_"]) == ("1", str(1 << 40))
    assert (told["MALLOC_ARENA_MAX"], told["SET_BY_USER"]) == ("7", "here")
    assert told["cwd"] == str(tmp_path)


def test_a_worker_on_a_gpu_sees_the_one_that_ray_gave_it(head: Cluster, tmp_path: Path) -> None:
    executor = RayExecutor(settings(head.address, gpus=1, cpus=2))
    assert executor.max_parallel == 1
    wait_for(executor, python(executor, tmp_path / "w", TELL), "ended")
    executor.close()
    told = json.loads((tmp_path / "w").read_text())
    assert told["CUDA_VISIBLE_DEVICES"] == "0"
    assert told["LAYER_ATLAS_DEVICE"] == f"{socket.gethostname()} cuda:0"
    assert told["OMP_NUM_THREADS"] == "2"


def test_stop_asks_and_kill_ends(executor: RayExecutor, tmp_path: Path) -> None:
    asked, ended = (python(executor, tmp_path / tag, POLITE) for tag in ("asked", "ended"))
    pids = [numbers_in(tmp_path / tag)[0] for tag in ("asked", "ended")]
    assert state(executor, asked).phase == state(executor, ended).phase == "running"
    executor.stop([asked])
    executor.kill([ended])
    assert wait_for(executor, asked, "ended") == State("ended", 75)
    assert wait_for(executor, ended, "ended").exit_code is None
    for pid in pids:
        assert_gone(pid)


def test_what_finds_no_place_waits_and_can_be_called_off(
    executor: RayExecutor, tmp_path: Path
) -> None:
    holders = [python(executor, tmp_path / tag, POLITE) for tag in ("a", "b")]
    for job in holders:
        wait_for(executor, job, "running")
    third = python(executor, tmp_path / "third", POLITE)
    time.sleep(0.5)
    assert state(executor, third).phase == "waiting"
    executor.kill([third])
    assert wait_for(executor, third, "ended").exit_code is None
    assert not (tmp_path / "third").exists(), "it was started"
    executor.kill(holders)


def test_the_end_of_a_worker_frees_its_share(executor: RayExecutor, tmp_path: Path) -> None:
    for number in range(2):
        jobs = [python(executor, tmp_path / f"{number}{i}", "pass") for i in (0, 1)]
        for job in jobs:
            assert wait_for(executor, job, "ended").exit_code == 0


# --- losses --------------------------------------------------------------------------------------


def test_a_worker_dies_with_its_ray_process_and_is_told_lost(
    executor: RayExecutor, tmp_path: Path
) -> None:
    code = f"from layer_atlas.processes import die_with; import os; die_with(os.getppid()){POLITE}"
    job = python(executor, tmp_path / "w", code)
    pid, parent = numbers_in(tmp_path / "w")
    os.kill(parent, signal.SIGKILL)
    lost = wait_for(executor, job, "ended")
    assert lost.exit_code is None
    assert "its worker process has died" in lost.reason
    assert_gone(pid)


def test_a_node_that_lacks_the_program_says_so(executor: RayExecutor, tmp_path: Path) -> None:
    end = wait_for(executor, submit(executor, tmp_path / "w", "/no/such/python"), "ended")
    assert end.exit_code is None
    assert "No such file or directory: '/no/such/python'" in end.reason


def test_nodes_that_join_are_used_and_what_was_on_a_lost_one_is_told_lost(
    head: Cluster, executor: RayExecutor, tmp_path: Path
) -> None:
    assert executor.max_parallel == 2
    with another_node(head, cpus=3) as node:
        wait_until(lambda: executor.max_parallel == executor.max_submitted == 5)
        jobs = [python(executor, tmp_path / f"w{i}", POLITE) for i in range(5)]
        for job in jobs:
            wait_for(executor, job, "running")
        os.killpg(node.pid, signal.SIGKILL)
        wait_until(lambda: executor.max_parallel == 2)
        wait_until(lambda: len(ended(executor, jobs)) == 3)
    assert all(end.exit_code is None for end in ended(executor, jobs))
    assert all(end.reason.startswith("Ray: ") for end in ended(executor, jobs))


def ended(executor: RayExecutor, jobs: list[WorkerJob]) -> list[State]:
    return [state for state in executor.poll(jobs).values() if state.phase == "ended"]


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "asked"),
    [
        ({"gpus": 1, "cpus": 3}, "1 GPUs, 3 CPUs and 0.1 GB"),
        ({"cpus": 1, "memory_gb": 1e6}, "0 GPUs, 1 CPUs and 1000000.0 GB"),
    ],
    ids=["cpus", "memory"],
)
def test_what_no_node_can_ever_give_is_refused(
    head: Cluster, share: dict[str, float], asked: str
) -> None:
    with pytest.raises(UserError, match="the largest of 1 has 1 GPUs, 2 CPUs and") as refusal:
        RayExecutor(RaySettings(address=head.address, **{"gpus": 0, "memory_gb": 0.1, **share}))
    assert f"can give a worker {asked}" in str(refusal.value)
    assert "executor.cpus" in str(refusal.value)


def test_as_many_workers_as_wanted(head: Cluster) -> None:
    executor = RayExecutor(settings(head.address, workers=1))
    assert executor.max_parallel == executor.max_submitted == 1
    executor.close()


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nothing_answers_is_refused_at_once(scheme: str) -> None:
    begun = time.monotonic()
    with pytest.raises(UserError, match=r"nothing answers there .*refused"):
        open_cluster(settings(f"{scheme}127.0.0.1:{free_port()}"))
    assert time.monotonic() - begun < 5


def test_no_running_cluster_to_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "nonsense")
    with pytest.raises(UserError, match=r"executor\.address=auto: Invalid address format"):
        open_cluster(settings("auto"))


def test_ray_leaves_signals_as_they_are(head: Cluster) -> None:
    before = signal.getsignal(signal.SIGTERM)
    executor = RayExecutor(settings(head.address))
    assert signal.getsignal(signal.SIGTERM) is before
    executor.close()
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_is_no_ray_cluster_is_refused_within_the_promised_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        begun = time.monotonic()
        with pytest.raises(UserError, match=f"within {JOIN_SECONDS} s"):
            open_cluster(settings(f"127.0.0.1:{deaf.getsockname()[1]}"))
    assert time.monotonic() - begun < JOIN_SECONDS + 10


def test_a_cluster_of_another_version_is_refused() -> None:
    with cluster(version="2.0.1") as old, pytest.raises(UserError, match=r"Ray: 2\.0\.1"):
        open_cluster(settings(old.address))


def test_through_a_ray_client_a_worker_is_run_stopped_and_lost(
    head: Cluster, tmp_path: Path
) -> None:
    executor = RayExecutor(settings(head.client_address))
    jobs = [python(executor, tmp_path / tag, POLITE) for tag in ("a", "b")]
    numbers = [numbers_in(tmp_path / tag) for tag in ("a", "b")]
    assert wait_for(executor, jobs[0], "running")
    executor.stop(jobs[:1])
    assert wait_for(executor, jobs[0], "ended") == State("ended", 75)
    os.kill(numbers[1][1], signal.SIGKILL)
    assert "has died" in wait_for(executor, jobs[1], "ended").reason
    executor.close()
