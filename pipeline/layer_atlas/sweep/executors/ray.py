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
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from layer_atlas.config.executors import RaySettings
from layer_atlas.errors import UserError
from layer_atlas.processes import PARENT_VARIABLE
from layer_atlas.sweep.executors.base import (
    RUNNING,
    WAITING,
    State,
    WorkerJob,
    WorkerSpec,
    environment,
)
from layer_atlas.sweep.heartbeat import DEVICE_VARIABLE


@dataclass
class _Actor:
    actor: Any
    placed: Any
    """Reference that resolves when Ray has placed the actor on a node."""
    exit_code: Any
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
        self._actors: dict[str, _Actor] = {}
        self._ray = open_cluster(settings)
        if not self._room():
            nodes = self._nodes()
            self.close()
            raise UserError(_no_such_node(self._share, nodes))
        # Pickled as code, not by its name: Ray's processes on the nodes need not have this package.
        self._ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        self._actor_class = self._ray.remote(
            num_gpus=self._share["GPU"],
            num_cpus=self._share["CPU"],
            memory=self._share["memory"],
            max_restarts=0,
            max_concurrency=2,  # `stop` must get through while `run` waits for the worker
        )(WorkerActor)

    # --- room ---

    @property
    def max_parallel(self) -> int:
        """Number of workers that the present nodes have room for; later ones are used too.

        At least 1: without any node, a worker waits for one.
        """
        room = self._room()
        return max(1, min(room, self._settings.workers or room))

    @property
    def max_submitted(self) -> int:
        """The same: while other users occupy the cluster, workers wait in its queue."""
        return self.max_parallel

    def _room(self) -> int:
        return sum(_room(node, self._share) for node in self._nodes())

    def _nodes(self) -> list[Mapping[str, float]]:
        with self._connected():
            return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    @contextlib.contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            yield
        except ConnectionError as error:
            raise UserError(
                f"the connection to the Ray cluster {self._settings.address} is lost ({error}). "
                "Its workers have ended or soon will; the same command again goes on."
            ) from error

    # --- workers ---

    def submit(self, specs: Sequence[WorkerSpec]) -> list[WorkerJob]:
        """Start an actor for each worker."""
        with self._connected():
            return [self._submit(spec) for spec in specs]

    def _submit(self, spec: WorkerSpec) -> WorkerJob:
        variables = environment("", self._settings.cpus)
        actor = self._actor_class.remote()
        exit_code = actor.run.remote(
            spec.argv, str(spec.log), str(Path.cwd()), variables, self._settings.gpus
        )
        self._actors[spec.tag] = _Actor(actor, actor.is_placed.remote(), exit_code)
        return WorkerJob(spec.tag, exit_code.hex())

    def poll(self, jobs: Sequence[WorkerJob]) -> dict[str, State]:
        """Ask Ray which actors are placed, and which workers have ended."""
        actors = {job.tag: self._actors[job.tag] for job in jobs}
        refs = [ref for actor in actors.values() for ref in (actor.placed, actor.exit_code)]
        with self._connected():
            # With a timeout of 0 this is one question for all workers, without waiting.
            ready = set(self._ray.wait(refs, num_returns=max(1, len(refs)), timeout=0)[0])
            return {tag: self._state(actor, ready) for tag, actor in actors.items()}

    def _state(self, actor: _Actor, ready: set[Any]) -> State:
        if actor.exit_code not in ready:
            return RUNNING if actor.placed in ready else WAITING
        if actor.ended is None:
            actor.ended = self._end(actor)
            self._ray.kill(actor.actor)  # else it keeps its resources of the node
        return actor.ended

    def _end(self, actor: _Actor) -> State:
        errors = self._ray.exceptions
        try:
            return State("ended", self._ray.get(actor.exit_code))
        except errors.RayTaskError as error:
            return State("ended", None, f"its node: {error.cause}")
        except errors.RayError as error:
            why = re.sub(r"(?s).*\nThe actor (is dead|died) because ", "", str(error))
            return State("ended", None, f"Ray: {shorten(why, 200)}")

    def stop(self, jobs: Sequence[WorkerJob]) -> None:
        """Have the actors send SIGTERM."""
        with self._connected():
            for job in jobs:
                self._actors[job.tag].actor.stop.remote()

    def kill(self, jobs: Sequence[WorkerJob]) -> None:
        """Kill the actors, with which the workers die."""
        with self._connected():
            for job in jobs:
                self._ray.kill(self._actors[job.tag].actor)

    def close(self) -> None:
        """Leave the cluster, or end it if it was started for this run; kills remaining workers."""
        self._ray.shutdown()


def _room(node: Mapping[str, float], share: Mapping[str, float]) -> int:
    """Count the workers that a node can give their share.

    >>> _room({"CPU": 8.0, "GPU": 4.0, "memory": 20e9}, {"CPU": 1.0, "GPU": 1.0, "memory": 8e9})
    2
    """
    return int(min(node.get(name, 0.0) / amount for name, amount in share.items() if amount))


def _no_such_node(share: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> str:
    largest = max(nodes, key=lambda node: [node.get(name, 0.0) for name in share], default={})
    return (
        f"no node of the Ray cluster can give a worker {_amounts(share)}; the largest of "
        f"{len(nodes)} has {_amounts(largest)}. Ask for less with executor.gpus, executor.cpus "
        "or executor.memory_gb, or add a node."
    )


def _amounts(resources: Mapping[str, float]) -> str:
    gpus, cpus, memory = (resources.get(name, 0.0) for name in ("GPU", "CPU", "memory"))
    return f"{gpus:g} GPUs, {cpus:g} CPUs and {memory / 1e9:.1f} GB"


# --- the cluster ---------------------------------------------------------------------------------


REACH_SECONDS = 5
"""Timeout for a connection to an address."""

JOIN_SECONDS = 60
"""Timeout for joining a cluster."""

_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "CRITICAL"}

_ALONE: dict[str, Any] = {
    "include_dashboard": False,
    # Workers pass no objects through Ray's memory, of which it takes a third by default.
    "object_store_memory": 100_000_000,
    # By default workers yield to everything else on the machine, Ray's own services included.
    "_system_config": {"worker_niceness": 0},
}
"""Options of a Ray that serves this run alone."""

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
        # The ports of this Ray are open to the network: a token keeps others from sending it code.
        # Ray reads these variables while it is imported.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    ray = _import_ray()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        (_start if settings.address == "local" else _join)(ray, settings)
    finally:
        signal.signal(signal.SIGTERM, handler)  # Ray sets a handler of its own
    return ray


def _import_ray() -> Any:
    # Worker logs and failure records have it all; Ray would print its own reports between ours.
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                ray.init(address, **_QUIET)
            except ConnectionAbortedError:
                # A head node forks a process for each client, which now and then dies at once.
                ray.init(address, **_QUIET)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise _refused(address, str(error)) from error


def _reach(address: str, host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), REACH_SECONDS).close()
    except OSError as error:
        raise _refused(address, f"nothing answers there ({error}). {_ADDRESSES}") from error


@functools.cache
def _try_to_join(address: str) -> None:
    """Join once from another process.

    Where Ray cannot join, it may retry for minutes, deaf to signals, or abort the process.
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


# --- the actor on a node -------------------------------------------------------------------------


class WorkerActor:
    """Starts, stops and waits for one worker, which lives and dies with it.

    An actor rather than a task: Ray reports the loss of an actor's node after a minute, of a task's
    after seven. Each method runs in a thread of its own. Ray is sent this class as code, so that
    its processes on the nodes need not find this package; what it calls must be the standard
    library and Ray alone.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopped = False

    def is_placed(self) -> bool:
        """Return as soon as Ray has placed the actor on a node."""
        return True

    def run(
        self, argv: Sequence[str], log: str, folder: str, variables: Mapping[str, str], gpus: int
    ) -> int:
        """Run a worker to its end; returns the exit code, negative if a signal killed it.

        Args:
            argv: its command line.
            log: file that its output is appended to.
            folder: to run it in, if this node has it.
            variables: of its environment, besides the node's own.
            gpus: how many Ray has given to this actor.
        Raises:
            OSError: this node has no such program, or no such folder for the log.
        """
        with open(log, "ab") as output:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder if Path(folder).is_dir() else None,
                env=_actor_environment(variables, gpus),
                start_new_session=True,
            )
        if self._is_stopped:  # while the process was being started
            self._process.terminate()
        return self._process.wait()

    def stop(self) -> None:
        """Send SIGTERM to the worker, as soon as it is started."""
        self._is_stopped = True
        if self._process is not None:
            self._process.terminate()


def _actor_environment(variables: Mapping[str, str], gpus: int) -> dict[str, str]:
    """Merge the variables of the node and of the driver, with the GPUs that Ray assigned."""
    import ray

    # Ray itself would show all GPUs to an actor that asked for none.
    visible = ",".join(ray.get_runtime_context().get_accelerator_ids()["GPU"]) if gpus else ""
    return {
        **os.environ,
        **variables,
        PARENT_VARIABLE: str(os.getpid()),
        DEVICE_VARIABLE: f"{socket.gethostname()} {f'cuda:{visible}' if gpus else 'cpu'}",
        "CUDA_VISIBLE_DEVICES": visible,
    }
