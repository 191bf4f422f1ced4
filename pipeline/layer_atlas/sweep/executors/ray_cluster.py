"""Starting Ray on this machine, or joining a cluster that runs."""

import contextlib
import functools
import os
import secrets
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from textwrap import shorten
from typing import Any

from layer_atlas.config.executors import RaySettings
from layer_atlas.errors import UserError

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
