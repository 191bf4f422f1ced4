"""One run at a time: who is refused, who is told of, which locks block nobody."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace

import pytest

from layer_atlas.errors import UserError
from layer_atlas.store import lock
from layer_atlas.store.folder import OutputFolder, prepare
from layer_atlas.store.lock import Holder, locked, owner

HOLD = """
import sys
from pathlib import Path
from layer_atlas.store.lock import locked
from layer_atlas.store.folder import OutputFolder
with locked(OutputFolder(Path(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""


def held_by(folder: OutputFolder) -> int:
    """The process that the record names."""
    return int(json.loads(folder.lock.read_text())["pid"])


@pytest.fixture
def holder(folder: OutputFolder) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the folder until its standard input closes."""
    prepare(folder, 0)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_second_run_is_refused_and_told_who_is_at_work(
    folder: OutputFolder, holder: "subprocess.Popen[str]"
) -> None:
    owner = held_by(folder)
    with pytest.raises(UserError) as caught, locked(folder):
        pass
    for words in (repr(str(folder.root)), f"process {holder.pid}", socket.gethostname(), "name="):
        assert words in str(caught.value)
    assert held_by(folder) == owner


def test_lock_is_free_after_an_orderly_end(
    folder: OutputFolder, holder: "subprocess.Popen[str]"
) -> None:
    holder.communicate()
    assert holder.returncode == 0
    with locked(folder):
        assert held_by(folder) == os.getpid()


def test_lock_of_a_killed_process_blocks_nobody(
    folder: OutputFolder, holder: "subprocess.Popen[str]"
) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert held_by(folder) == holder.pid
    with locked(folder):
        assert held_by(folder) == os.getpid()


def test_lock_is_free_after_an_exception(folder: OutputFolder) -> None:
    prepare(folder, 0)
    with pytest.raises(RuntimeError, match="fault"), locked(folder):
        raise RuntimeError("fault")
    with locked(folder):
        pass


def test_lock_is_not_inherited_by_workers(folder: OutputFolder) -> None:
    prepare(folder, 0)
    with locked(folder):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with locked(folder):
            pass
    finally:
        child.communicate(b"\n")


# --- where the kernel's lock does not reach ------------------------------------------------------


def write_holder(folder: OutputFolder, **changes: object) -> None:
    """Write the record of this process, with changes, as if a killed one had left it."""
    prepare(folder, 0)
    folder.lock.write_text(json.dumps(asdict(replace(lock._this_process(), **changes))))


@pytest.fixture
def without_kernel_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*told: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.usefixtures("without_kernel_locks")
def test_without_kernel_locks_the_record_of_a_living_process_refuses(folder: OutputFolder) -> None:
    write_holder(folder)
    assert owner(folder) is not None
    with pytest.raises(UserError, match=f"process {os.getpid()} on"), locked(folder):
        pass


@pytest.mark.usefixtures("without_kernel_locks")
@pytest.mark.parametrize(
    "changes", [{"boot": "an earlier one"}, {"started": 1}, {"pid": 2**22 + 1}], ids=str
)
def test_without_kernel_locks_the_record_of_a_dead_process_blocks_nobody(
    folder: OutputFolder, changes: dict[str, object]
) -> None:
    write_holder(folder, **changes)
    started = time.monotonic()
    assert owner(folder) is None
    with locked(folder):
        assert held_by(folder) == os.getpid()
    assert time.monotonic() - started < lock.HEARTBEAT_SECONDS


def test_a_holder_on_another_host_whose_beat_goes_on_refuses(folder: OutputFolder) -> None:
    write_holder(folder, host="elsewhere")
    beats = threading.Timer(0.5, write_holder, (folder,), {"host": "elsewhere", "tick": 1})
    beats.start()
    with pytest.raises(UserError, match="on elsewhere"), locked(folder):
        pass
    beats.join()


def test_a_silent_holder_on_another_host_blocks_nobody(
    folder: OutputFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "SILENT_SECONDS", 0.6)
    write_holder(folder, host="elsewhere")
    assert owner(folder) is None
    with locked(folder):
        assert held_by(folder) == os.getpid()


def test_the_beat_goes_on_while_the_folder_is_held(
    folder: OutputFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.02)
    prepare(folder, 0)
    with locked(folder):
        time.sleep(0.3)
        assert Holder(**json.loads(folder.lock.read_text())).tick >= 3


@pytest.mark.parametrize("text", ["", "garbage", "[]", '{"pid": 1}', "{" * 9999])
def test_a_record_that_cannot_be_read_blocks_nobody(folder: OutputFolder, text: str) -> None:
    prepare(folder, 0)
    folder.lock.write_text(text)
    assert owner(folder) is None
    with locked(folder):
        assert held_by(folder) == os.getpid()
