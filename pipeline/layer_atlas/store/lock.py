"""One run at a time: the lock of an output folder, and who holds it.

The kernel's lock decides. Where it cannot, because a network file system has none or keeps it to
one host, the holder's record does: it names host, boot and process, and its beat counts on while
the holder lives. No clock of one host is compared with another's.
"""

import contextlib
import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

from layer_atlas.config.records import build, parse_object
from layer_atlas.errors import UserError
from layer_atlas.store.folder import OutputFolder, not_writable

logger = logging.getLogger(__name__)

BEAT_SECONDS = 1.0
"""How often the holder's record is written anew."""

SILENT_SECONDS = 5.0
"""A holder on another host whose record stays as it is for so long is gone."""


_MOST_LETTERS = 4096
"""Of a holder's record."""


@dataclass(frozen=True)
class Holder:
    """Who holds a folder."""

    host: str
    boot: str
    """Of the host's kernel: a process of an earlier one is gone."""
    pid: int
    started: int
    """When the process started, in ticks since the boot: tells it from a later one of its id."""
    since: str
    tick: int = 0

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"

    @property
    def is_gone(self) -> bool:
        """Whether its process has ended; if it is one of this host."""
        return self.boot != _boot() or _started(self.pid) != self.started


def _me() -> Holder:
    pid = os.getpid()
    return Holder(socket.gethostname(), _boot(), pid, _started(pid), time.ctime())


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # another system than Linux
        return ""


def _started(pid: int) -> int:
    """Field 22 of proc(5)'s stat, after the name, which may hold spaces; -1: no such process."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return -1


@contextlib.contextmanager
def locked(folder: OutputFolder) -> Iterator[None]:
    """Hold an output folder; it is free again when this process ends, however it ends.

    Whose work is taken up that did not end in good order is told on standard error.

    Raises:
        UserError: somebody else holds it; names host, process and start.
        StorageError: the disk is full.
    """
    with _opened(folder) as file:
        try:
            granted = _granted(file, fcntl.LOCK_EX)
        except BlockingIOError:
            raise UserError(_held(folder, _read(file))) from None
        holder = _living(file, granted)
        if holder is not None:
            raise UserError(_held(folder, holder))
        _tell_of(_read(file))
        try:
            file.truncate(0)
            with _beating(file):
                yield
        finally:
            file.truncate(0)


def owner(folder: OutputFolder) -> Holder | None:
    """Who is at work in the folder, if anybody is; takes nothing and writes nothing."""
    try:
        with open(folder.lock) as file:
            try:
                granted = _granted(file, fcntl.LOCK_SH)
            except BlockingIOError:
                return _read(file)
            return _living(file, granted)
    except OSError:
        return None


def _opened(folder: OutputFolder) -> IO[str]:
    try:
        return os.fdopen(os.open(folder.lock, os.O_RDWR | os.O_CREAT, 0o644), "r+")
    except OSError as error:
        raise not_writable(folder, error) from error


def _granted(file: IO[str], kind: int) -> bool:
    """Whether the kernel gave its lock; raises BlockingIOError if somebody else has it."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        return False


def _living(file: IO[str], granted: bool) -> Holder | None:
    """The holder that the record names, if it still works though the kernel's lock is not in use.

    On one host the kernel's lock tells the truth. On two, it may be kept to each of them.
    """
    holder = _read(file)
    if holder is None:
        return None
    if holder.host == socket.gethostname():
        return None if granted or holder.is_gone else holder
    end = time.monotonic() + SILENT_SECONDS
    while time.monotonic() < end:
        time.sleep(BEAT_SECONDS / 4)
        if _read(file) != holder:
            return holder
    return None


@contextlib.contextmanager
def _beating(file: IO[str]) -> Iterator[None]:
    """Keep the holder's record counting."""
    me, ended = _me(), threading.Event()
    _write(file, me)

    def tick() -> None:
        count = 0
        while not ended.wait(BEAT_SECONDS):
            count += 1
            _write(file, replace(me, tick=count))

    thread = threading.Thread(target=tick, name="lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _write(file: IO[str], holder: Holder) -> None:
    # In one piece, in place: a reader finds this record or the one before.
    text = json.dumps(asdict(holder)).ljust(512)
    with contextlib.suppress(OSError):  # a full disk is met, and told, by the next commit
        os.pwrite(file.fileno(), text.encode(), 0)


def _read(file: IO[str]) -> Holder | None:
    file.seek(0)
    try:
        return build(Holder, parse_object(file.read(_MOST_LETTERS)))
    except (ValueError, UserError):
        return None


def _tell_of(dead: Holder | None) -> None:
    """Say whose work is taken up: who ends in good order leaves no record."""
    if dead is not None:
        logger.warning("%s, ended without a word; continuing from what it left", dead)


def _held(folder: OutputFolder, holder: Holder | None) -> str:
    who = holder or "another process"
    return (
        f"the output folder {str(folder.root)!r} is in use ({who}). Wait for it, stop it, or "
        "choose another name=..."
    )
