"""Workers forked from a warm parent: what they find, how they end, and that none is left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layer_atlas.sweep.executors.base import WORKER_COMMAND, environment
from layer_atlas.sweep.executors.warm import start_warm

DRIVER = """
import gc, json, os, pathlib, resource, subprocess, sys, time
import torch
from layer_atlas.sweep import worker
from layer_atlas.sweep.executors import warm
from layer_atlas.sweep.executors.base import WORKER_COMMAND, environment

def tell(argv):
    print(json.dumps({
        "argv": list(argv), "variables": dict(os.environ), "parent": os.getppid(),
        "session": os.getsid(0), "pid": os.getpid(), "threads": torch.get_num_threads(),
        "path": sys.path, "folder": os.getcwd(),
        "name": pathlib.Path("/proc/self/comm").read_text(),
        "frozen": gc.get_freeze_count(), "collects": gc.isenabled(),
    }))
    return 7

def fail(argv):
    raise RuntimeError("as planned")

def sleep(argv):
    child = subprocess.Popen(["sleep", "600"])
    print(os.getpid(), child.pid, flush=True)
    time.sleep(600)

def start():
    return warm.start_warm((*WORKER_COMMAND, "folder", "bundle"), log, environment("cpu", 3))

log = pathlib.Path(sys.argv[2])
worker.main = globals()[sys.argv[1]]
warm.fork_warm_parent()  # not yet
assert not warm._parents
warm.declare_command()
warm.fork_warm_parent()
print(warm._parents[0]._process.pid, flush=True)
"""
"""A program that forks workers which do something else; each test adds what it does with them."""

THEN = {
    "wait": "print(start().wait())",
    "terminate": "w = start(); time.sleep(1); w.terminate(); print(w.wait())",
    "kill": "w = start(); time.sleep(1); w.kill_session(); print(w.wait())",
    "twice": "print(start().wait(), start().wait())",
    "orphan": "w = start(); time.sleep(1); print('started', flush=True); time.sleep(600)",
    "lose": "w = start(); time.sleep(1); os.kill(warm._parents[0]._process.pid, 9);"
    "print(w.wait(), start())",
}


def driver(work: str, then: str, log: Path) -> "subprocess.Popen[str]":
    argv = [sys.executable, "-c", DRIVER + THEN[then], work, str(log)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def told(work: str, then: str, log: Path) -> str:
    """What the driver says at its end, after the process id of its warm parent."""
    process = driver(work, then, log)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return said.split("\n", 1)[1].strip()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(look: Callable[[], Any]) -> Any:
    end = time.monotonic() + 60
    while not (seen := look()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return seen


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.mark.slow
def test_a_worker_finds_what_one_that_starts_from_nothing_finds(log: Path) -> None:
    assert told("tell", "wait", log) == "7"
    found = json.loads(log.read_text())
    assert found["argv"] == ["folder", "bundle"]
    assert found["session"] == found["pid"]
    assert found["threads"] == 3
    assert found["folder"] == str(Path.cwd())
    assert found["name"].strip() == "atlas worker"
    assert "" not in found["path"]
    assert found["frozen"] > 100_000, "collections look through all of torch"
    assert found["collects"]
    expected = environment("cpu", 3)
    for name in ("MALLOC_MMAP_MAX_", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PATH"):
        assert found["variables"][name] == expected[name]
    assert found["variables"]["LAYER_ATLAS_PARENT"] == str(found["parent"])


@pytest.mark.slow
def test_each_worker_adds_to_its_log(log: Path) -> None:
    assert told("tell", "twice", log) == "7 7"
    assert len(log.read_text().splitlines()) == 2


@pytest.mark.slow
def test_a_worker_that_fails_says_why_in_its_log(log: Path) -> None:
    assert told("fail", "wait", log) == "1"
    assert "RuntimeError: as planned" in log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("how", "number"), [("terminate", 15), ("kill", 9)])
def test_a_worker_that_is_stopped_ends_by_the_signal(how: str, number: int, log: Path) -> None:
    assert told("sleep", how, log) == str(-number)
    worker, child = map(int, log.read_text().split())
    wait_for(lambda: not is_alive(worker))
    # Only killing reaches what it has started itself.
    assert is_alive(child) == (how == "terminate")
    if how == "terminate":
        os.kill(child, signal.SIGKILL)


@pytest.mark.slow
def test_all_die_with_their_driver(log: Path) -> None:
    process = driver("sleep", "orphan", log)
    assert process.stdout is not None
    parent = int(process.stdout.readline())
    assert process.stdout.readline() == "started\n"
    worker, child = map(int, log.read_text().split())
    assert is_alive(parent)
    assert is_alive(worker)
    process.kill()
    process.wait()
    wait_for(lambda: not is_alive(parent) and not is_alive(worker))
    os.kill(child, signal.SIGKILL)


@pytest.mark.slow
def test_a_warm_parent_that_is_killed_takes_its_workers_along_and_is_not_asked_again(
    log: Path,
) -> None:
    assert told("sleep", "lose", log) == "-9 None"
    worker, child = map(int, log.read_text().split())
    wait_for(lambda: not is_alive(worker))
    os.kill(child, signal.SIGKILL)


def test_a_process_without_a_warm_parent_starts_its_workers_from_nothing(log: Path) -> None:
    assert start_warm(WORKER_COMMAND, log, {}) is None
