"""A real Slurm of one node, for tests: in a folder of its own, on free ports, gone when they are.

Several can run side by side; the variable SLURM_CONF says which one the client commands talk to.
All its processes belong to a keeper (this file as a program), which ends them when it is told to,
or when its standard input is closed, as it is when the test's process is gone, however it died.
"""

import contextlib
import ctypes
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

BINARIES = ("munged", "slurmctld", "slurmd", "sbatch")
SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
START_SECONDS = 30.0

CONFIG = """
ClusterName=mini
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
CredType=cred/munge
# The time that a requeued job waits before it starts again: 5 s is the least.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
{signals}
# The node is what this file says, whatever the machine has.
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
EnforcePartLimits=ALL
ReturnToService=2
KillWait=2
MaxArraySize=4
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=16000 Gres=gpu:2
PartitionName=low Nodes={host} Default=YES PriorityTier=1 {preempted}
PartitionName=high Nodes={host} PriorityTier=10 PreemptMode=OFF
PartitionName=short Nodes={host} MaxTime=5
"""

# Any devices do: Slurm counts them, and tells jobs their numbers.
GPUS = """
Name=gpu File=/dev/null
Name=gpu File=/dev/zero
"""


@dataclass(frozen=True)
class MiniSlurm:
    """A Slurm that runs."""

    folder: Path

    @property
    def config(self) -> Path:
        """Its slurm.conf."""
        return self.folder / "slurm.conf"

    def ask(self, *command: str) -> str:
        """What a client command prints."""
        done = subprocess.run(
            command,
            env={**os.environ, "SLURM_CONF": str(self.config)},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return done.stdout

    def preempt(self) -> None:
        """Take the node from all jobs for two seconds, by one that comes first."""
        high = ("--partition=high", "--exclusive", "--output=/dev/null", "--wrap=sleep 2")
        self.ask("sbatch", *high)


def missing_binaries() -> list[str]:
    """What is not installed."""
    return [name for name in BINARIES if shutil.which(name, path=SEARCH) is None]


@contextlib.contextmanager
def mini_slurm(
    folder: Path,
    *,
    warns: bool = True,
    preempted: str = "PreemptMode=REQUEUE GraceTime=15",
) -> Iterator[MiniSlurm]:
    """Start it, name it in SLURM_CONF, and stop it in any case.

    Args:
        folder: for all its files.
        warns: whether it sends jobs that it preempts the signal they asked for, beside SIGTERM.
        preempted: what becomes of these jobs.

    Where that cannot be, the test is skipped, and the summary of all tests says so.
    """
    if missing_binaries():
        pytest.skip(f"NOT TESTED: no Slurm here ({', '.join(missing_binaries())} not installed)")
    slurm = MiniSlurm(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "folder": folder,
        "host": socket.gethostname().partition(".")[0],
        "user": getpass.getuser(),
        "controller_port": _free_port(),
        "node_port": _free_port(),
        "preempted": preempted,
        "signals": "SlurmctldParameters=preempt_send_user_signal" if warns else "",
    }
    slurm.config.write_text(CONFIG.format(**settings))
    (folder / "gres.conf").write_text(GPUS)
    with _kept(folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(slurm.config))
        yield slurm


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _kept(folder: Path) -> Iterator[None]:
    keeper = subprocess.Popen(
        [sys.executable, __file__, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PATH": SEARCH, "SLURM_CONF": str(folder / "slurm.conf")},
        start_new_session=True,
    )
    assert keeper.stdin
    assert keeper.stdout
    try:
        told = keeper.stdout.readline().strip()
        if told != "ready":
            pytest.skip(f"NOT TESTED: Slurm does not start here: {told or 'its keeper died'}")
        yield
    finally:
        keeper.terminate()  # its input may still be open in a process that was forked off this one
        keeper.wait()
        keeper.stdin.close()
        keeper.stdout.close()


# --- the keeper ----------------------------------------------------------------------------------


def keep(folder: Path) -> None:
    """Start the daemons, say so, wait until nobody wants them any more, and end them."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit())
    pr_set_child_subreaper = 36
    ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1)  # orphans, such as jobs, become children
    try:
        trouble = _start(folder)
        print(trouble or "ready", flush=True)
        if not trouble:
            sys.stdin.read()
    finally:
        _end_all()


def _start(folder: Path) -> str:
    """Start the daemons; returns what went wrong."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    own = [f"--{kind}-file={folder / name}" for kind, name in _MUNGE_FILES.items()]
    # --force: temporary folders may be readable by more people than munged approves of.
    socket = folder / "munge.socket"
    munged = _daemon(folder, "munged", "-F", "--force", f"--socket={socket}", *own)
    if not _wait_until(socket.exists, [munged]):
        return f"munged: {_last_line(folder / 'munged.out')}"
    daemons = [_daemon(folder, name, "-D") for name in ("slurmctld", "slurmd")]
    if not _wait_until(_node_is_idle, daemons):
        return "; ".join(
            f"{_last_line(folder / f'{name}.out')}" for name in ("slurmctld", "slurmd")
        )
    return ""


_MUNGE_FILES = {
    "key": "munge.key",
    "pid": "munged.pid",
    "log": "munged.log",
    "seed": "munged.seed",
}


def _daemon(folder: Path, *command: str) -> "subprocess.Popen[bytes]":
    with open(folder / f"{command[0]}.out", "w") as output:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)


def _node_is_idle() -> bool:
    told = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, check=False)
    return "idle" in told.stdout


def _wait_until(true: Callable[[], bool], daemons: Sequence["subprocess.Popen[bytes]"]) -> bool:
    end = time.monotonic() + START_SECONDS
    while not true():
        dead = any(daemon.poll() is not None for daemon in daemons)
        if dead or time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").split("\n") if path.exists() else []
    return next((line for line in reversed(lines) if line), "(silent)")


def _end_all() -> None:
    """Kill every descendant; again, as those that one leaves behind become this process's own."""
    while children := _descendants():
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.02)


def _descendants() -> list[int]:
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(folder.name)] = _parent(folder)
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def _parent(process: Path) -> int:
    # The name of a program, in brackets, may contain anything.
    return int((process / "stat").read_text().rpartition(")")[2].split()[1])


if __name__ == "__main__":
    keep(Path(sys.argv[1]))
