"""Workers as actors of a Ray cluster, one each; retries are left to the scheduler."""

import contextlib
import functools
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from layer_atlas.config.executors import RaySettings
from layer_atlas.errors import UserError
from layer_atlas.sweep.executors import ray_actor
from layer_atlas.sweep.executors.base import (
    RUNNING,
    WAITING,
    Handle,
    State,
    WorkerSpec,
    environment,
)


@dataclass
class _Worker:
    minder: Any
    """The actor."""
    place: Any
    """Reference to what comes when Ray has found a place for it."""
    end: Any
    """Reference to the worker's exit code."""
    ended: State | None = None


class RayExecutor:
    """Runs workers under Ray actors, as many at once as the nodes have room for at that time."""

    detached = False
    poll_seconds = 0.25

    def __init__(self, settings: RaySettings) -> None:
        """Join the cluster.

        Raises:
            UserError: it cannot be joined, or no node of it can ever give what a worker needs.
        """
        self._settings = settings
        self._share = {
            "GPU": float(settings.gpus),
            "CPU": float(settings.cpus),
            "memory": settings.memory_gb * 1e9,
        }
        self._workers: dict[str, _Worker] = {}
        self._ray = open_cluster(settings)
        if not self._room():
            nodes = self._nodes()
            self.close()
            raise UserError(_too_much(self._share, nodes))
        self._minder = self._actor()

    def _actor(self) -> Any:
        # As code, not by its name: Ray's processes on the nodes need not have this package.
        self._ray.cloudpickle.register_pickle_by_value(ray_actor)
        return self._ray.remote(
            num_gpus=self._share["GPU"],
            num_cpus=self._share["CPU"],
            memory=self._share["memory"],
            max_restarts=0,
            max_concurrency=2,  # it hears that its worker shall leave while it waits for its end
        )(ray_actor.WorkerActor)

    # --- room ---

    @property
    def max_parallel(self) -> int:
        """What the nodes that are there now have room for; one that joins later is used too.

        At least 1: what finds no node any more waits for one.
        """
        room = self._room()
        return max(1, min(room, self._settings.workers or room))

    @property
    def max_submitted(self) -> int:
        """No more: where workers wait for other users of the cluster, they wait in its queue."""
        return self.max_parallel

    def _room(self) -> int:
        return sum(_room(node, self._share) for node in self._nodes())

    def _nodes(self) -> list[Mapping[str, float]]:
        with self._connected():
            return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    @contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            yield
        except ConnectionError as error:
            raise UserError(
                f"the connection to the Ray cluster {self._settings.address} is lost ({error}). "
                "Its workers have ended or soon will; the same command again goes on."
            ) from error

    # --- workers ---

    def submit(self, requests: Sequence[WorkerSpec]) -> list[Handle]:
        """Hand over workers to actors."""
        with self._connected():
            return [self._submit(request) for request in requests]

    def _submit(self, request: WorkerSpec) -> Handle:
        variables = environment("", self._settings.cpus)
        told = request.argv, str(request.log), str(Path.cwd()), variables, self._settings.gpus
        minder = self._minder.remote()
        worker = _Worker(minder, minder.is_there.remote(), minder.run.remote(*told))
        self._workers[request.tag] = worker
        return Handle(request.tag, worker.end.hex())

    def poll(self, handles: Sequence[Handle]) -> dict[str, State]:
        """Ask Ray which have a place, and which have ended."""
        workers = {handle.tag: self._workers[handle.tag] for handle in handles}
        refs = [ref for worker in workers.values() for ref in (worker.place, worker.end)]
        with self._connected():
            there = set(self._ray.wait(refs, num_returns=max(1, len(refs)), timeout=0)[0])
            return {tag: self._state(worker, there) for tag, worker in workers.items()}

    def _state(self, worker: _Worker, there: set[Any]) -> State:
        if worker.end not in there:
            return RUNNING if worker.place in there else WAITING
        if worker.ended is None:
            worker.ended = self._end(worker)
            self._ray.kill(worker.minder)  # else it keeps its share
        return worker.ended

    def _end(self, worker: _Worker) -> State:
        errors = self._ray.exceptions
        try:
            return State("ended", self._ray.get(worker.end))
        except errors.RayTaskError as error:
            return State("ended", None, f"its node: {error.cause}")
        except errors.RayError as error:
            why = re.sub(r"(?s).*\nThe actor (is dead|died) because ", "", str(error))
            return State("ended", None, f"Ray: {shorten(why, 200)}")

    def stop(self, handles: Sequence[Handle]) -> None:
        """SIGTERM, by their actors."""
        with self._connected():
            for handle in handles:
                self._workers[handle.tag].minder.leave.remote()

    def kill(self, handles: Sequence[Handle]) -> None:
        """End their actors, with which the workers die."""
        with self._connected():
            for handle in handles:
                self._ray.kill(self._workers[handle.tag].minder)

    def close(self) -> None:
        """Leave the cluster, or end it if it was started for this; what still runs is killed."""
        self._ray.shutdown()


def _room(node: Mapping[str, float], share: Mapping[str, float]) -> int:
    """How many workers a node can give their share.

    >>> _room({"CPU": 8.0, "GPU": 4.0, "memory": 20e9}, {"CPU": 1.0, "GPU": 1.0, "memory": 8e9})
    2
    """
    return int(min(node.get(name, 0.0) / much for name, much in share.items() if much))


def _too_much(share: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> str:
    largest = max(nodes, key=lambda node: [node.get(name, 0.0) for name in share], default={})
    return (
        f"no node of the Ray cluster can give a worker {_amounts(share)}; the largest of "
        f"{len(nodes)} has {_amounts(largest)}. Ask for less with executor.gpus, executor.cpus "
        "or executor.memory_gb, or add a node."
    )


def _amounts(of: Mapping[str, float]) -> str:
    gpus, cpus, memory = (of.get(name, 0.0) for name in ("GPU", "CPU", "memory"))
    return f"{gpus:g} GPUs, {cpus:g} CPUs and {memory / 1e9:.1f} GB"


REACH_SECONDS = 5
"""How long an address may take to answer at all."""

JOIN_SECONDS = 60
"""How long a cluster may take to let this process join."""

_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "CRITICAL"}

_ALONE: dict[str, Any] = {
    "include_dashboard": False,
    # Workers hand nothing on through Ray's memory, of which it takes a third by default.
    "object_store_memory": 100_000_000,
    # By default workers come after everything else on the machine, Ray's own services included.
    "_system_config": {"worker_niceness": 0},
}
"""How Ray is started where it serves nobody else."""

_ADDRESSES = (
    "HOST:PORT and auto join a cluster that this machine is a node of (`ray start "
    "--address=HOST:PORT`), ray://HOST:10001 joins from any machine, local starts Ray here"
)


def open_cluster(settings: RaySettings) -> Any:
    """Start Ray or join a cluster; returns the module `ray`, connected.

    Raises:
        UserError: Ray is not installed, does not start, or the cluster cannot be joined; after
            at most REACH_SECONDS + JOIN_SECONDS.
    """
    if settings.address == "local":
        _guard()
    ray = _import_ray()
    join = _start if settings.address == "local" else _join
    with _keeping_signals():
        join(ray, settings)
    return ray


def _guard() -> None:
    """Let nobody else send code to the Ray of this run, whose ports are open to the network.

    Ray reads this while it is imported. A token in a variable needs no home folder to keep it in.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _import_ray() -> Any:
    # What a worker says is in its log, and how it ended in the records of failures; of Ray's own
    # accounts, which it would print between ours, nothing is left by this.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".*")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError(
            f"executor=ray needs Ray, which cannot be imported ({error}): "
            "pip install 'layer-atlas[ray]'"
        ) from error
    return ray


@contextlib.contextmanager
def _keeping_signals() -> Iterator[None]:
    """Ray sets a handler of its own for SIGTERM."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


def _start(ray: Any, settings: RaySettings) -> None:
    try:
        ray.init("local", **_ALONE, **_QUIET)
    except Exception as error:  # Ray raises that itself, when it does not start in time
        raise UserError(
            f"Ray does not start on this machine: {shorten(str(error), 600)}"
        ) from error


def _join(ray: Any, settings: RaySettings) -> None:
    address = settings.address
    if settings.host_and_port:
        _reach(address, *settings.host_and_port)
    if not address.startswith("ray://"):
        _try_to_join(address)
    try:
        _init(ray, address)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise _refused(address, str(error)) from error


def _init(ray: Any, address: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ray.init(address, **_QUIET)
        except ConnectionAbortedError:
            # A head node forks a process for each client, which now and then dies at once.
            ray.init(address, **_QUIET)


def _reach(address: str, host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), REACH_SECONDS).close()
    except OSError as error:
        raise _refused(address, f"nothing answers there ({error}). {_ADDRESSES}") from error


@functools.cache
def _try_to_join(address: str) -> None:
    """Join once from another process.

    Where Ray cannot, it may go on trying for minutes, deaf to signals, or abort the process.
    """
    code = (
        "import ray, sys\n"
        f"try: ray.init({address!r}, **{_QUIET})\n"
        "except Exception as error: sys.exit(print(error) or 1)"
    )
    try:
        tried = subprocess.run(
            [sys.executable, "-P", "-c", code],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=JOIN_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        why = f"no Ray cluster answers there within {JOIN_SECONDS} s. {_ADDRESSES}"
        raise _refused(address, why) from error
    if tried.returncode:
        aborted = f"Ray aborts, as it does where this machine is no node of it. {_ADDRESSES}"
        raise _refused(address, tried.stdout.strip() or aborted)


def _refused(address: str, why: str) -> UserError:
    return UserError(f"cannot join Ray at executor.address={address}: {shorten(why, 600)}")
