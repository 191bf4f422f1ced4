"""One run at a time: the lock of an output folder, and who holds it.

The kernel's lock decides. A network file system may have none, or keep it to one host. Then the
holder's record decides: it names host, boot and process, and its heartbeat counts up while the
holder lives. No clock of one host is compared with that of another.
"""

import contextlib
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Event
from typing import IO

from layer_atlas.config.records import build, parse_object
from layer_atlas.errors import UserError
from layer_atlas.processes import beside
from layer_atlas.store.folder import OutputFolder, not_writable

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
"""Seconds between two writes of the holder's record."""

SILENT_SECONDS = 5.0
"""Seconds after which a holder on another host is gone, if its record does not change."""

_RECORD_BYTES = 512
"""Size of a holder's record, which is padded, so that a shorter one overwrites all of it."""


@dataclass(frozen=True)
class Holder:
    """Who holds a folder."""

    host: str
    boot: str
    """Boot id of the host: a process of an earlier boot is gone."""
    pid: int
    started: int
    """Start of the process in ticks since boot, as a later process may have the same id."""
    since: str
    tick: int = 0

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"

    @property
    def is_gone(self) -> bool:
        """Whether its process has ended, given that it ran on this host."""
        return self.boot != _boot() or _started(self.pid) != self.started


def _this_process() -> Holder:
    pid = os.getpid()
    return Holder(socket.gethostname(), _boot(), pid, _started(pid), time.ctime())


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # another system than Linux
        return ""


def _started(pid: int) -> int:
    """Start of a process: field 22 of proc(5)'s stat, after a name with spaces; -1 if it ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return -1


@contextlib.contextmanager
def locked(folder: OutputFolder) -> Iterator[None]:
    """Hold an output folder; it is free again when this process ends, however it ends.

    If the last holder died, a note names it.

    Raises:
        UserError: another process holds it; names host, process and start.
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
            with _heartbeat(file):
                yield
        # An empty record marks an orderly end; the file stays, as removing it would race.
        finally:
            file.truncate(0)


def owner(folder: OutputFolder) -> Holder | None:
    """The process that holds a folder; `None` if none does. Takes and writes nothing."""
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
    """Whether the kernel granted its lock; raises BlockingIOError if another process has it."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        return False


def _living(file: IO[str], granted: bool) -> Holder | None:
    """The holder in the record, if it lives although the kernel's lock is free.

    Within one host the kernel's lock is reliable. Across hosts, each may have a lock of its own.
    """
    holder = _read(file)
    if holder is None:
        return None
    if holder.host == socket.gethostname():
        return None if granted or holder.is_gone else holder
    # Another host: only a record that changes proves that its writer lives.
    end = time.monotonic() + SILENT_SECONDS
    while time.monotonic() < end:
        time.sleep(HEARTBEAT_SECONDS / 4)
        if _read(file) != holder:
            return holder
    return None


@contextlib.contextmanager
def _heartbeat(file: IO[str]) -> Iterator[None]:
    """Count up the holder's record in a thread."""
    holder = _this_process()
    _write(file, holder)

    def tick(ended: Event) -> None:
        count = 0
        while not ended.wait(HEARTBEAT_SECONDS):
            count += 1
            _write(file, replace(holder, tick=count))

    with beside(tick, "lock"):
        yield


def _write(file: IO[str], holder: Holder) -> None:
    # In one piece, in place: a reader sees this record or the one before, never half of each.
    text = json.dumps(asdict(holder)).ljust(_RECORD_BYTES)
    with contextlib.suppress(OSError):  # on a full disk, the next commit raises
        os.pwrite(file.fileno(), text.encode(), 0)


def _read(file: IO[str]) -> Holder | None:
    file.seek(0)
    try:
        return build(Holder, parse_object(file.read(_RECORD_BYTES)))
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
