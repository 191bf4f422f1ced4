"""The manifest: config and plan of an output folder, so that later commands need no model."""

import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from layer_atlas import __version__
from layer_atlas.config.config import Config
from layer_atlas.config.records import build, plain
from layer_atlas.errors import UserError
from layer_atlas.plan.plan import Plan
from layer_atlas.store.files import read_object, write_json
from layer_atlas.store.folder import OutputFolder

SCHEMA = "layer-atlas-manifest/1"
_MOST_BYTES = 2**29
_PARTS = ("config", "plan", "versions", "timings")
_PACKAGES = ("torch", "torchvision", "timm", "numpy", "h5py", "pillow", "hydra-core")


def write_manifest(
    folder: OutputFolder, config: Config, plan: Plan, devices: list[str], command: str = ""
) -> None:
    """Write the manifest, before anything is computed. Raises StorageError.

    Args:
        folder: the output folder.
        config: of the run.
        plan: of the run.
        devices: that it uses.
        command: the command line that began it; empty where a program did.
    """
    manifest = {
        "schema": SCHEMA,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": command,
        "config": plain(config),
        "plan": plain(plan),
        "devices": devices,
        "versions": versions(),
        "git_commit": _git_commit(),
        "timings": {},
    }
    write_json(folder.manifest, manifest)


def add_timings(
    folder: OutputFolder, seconds: dict[str, float], devices: dict[str, dict[str, float]]
) -> None:
    """Add seconds of the parts of a run, and of each device. Raises StorageError."""
    timings = {name: round(value, 3) for name, value in seconds.items()}
    manifest = read_manifest(folder)
    write_json(folder.manifest, {**manifest, "timings": {**timings, "devices": devices}})


def write_excluded_devices(folder: OutputFolder, excluded: Mapping[str, str]) -> None:
    """Write which devices the present run does without, and why. Raises StorageError, UserError."""
    write_json(folder.manifest, {**read_manifest(folder), "excluded_devices": dict(excluded)})


def excluded_devices(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The devices that the last run did without, and why."""
    values = manifest.get("excluded_devices")
    if not isinstance(values, dict):
        return {}
    return {str(name): str(reason) for name, reason in values.items()}


def read_manifest(folder: OutputFolder) -> dict[str, Any]:
    """Read the manifest. Raises UserError if there is none, or it cannot be read."""
    try:
        values = read_object(folder.manifest, _MOST_BYTES)
        if values.get("schema") != SCHEMA:
            raise ValueError(f"schema {values.get('schema')!r}")
        for name in _PARTS:
            if not isinstance(values.get(name), dict):
                raise ValueError(f"{name} is missing or no object")
    except FileNotFoundError:
        raise UserError(_no_manifest(folder)) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{str(folder.manifest)!r} is not a readable manifest: {error}.") from error
    return values


def plan_of(manifest: dict[str, Any]) -> Plan:
    """The plan of a manifest. Raises UserError if it is invalid."""
    try:
        return build(Plan, manifest["plan"], "plan")
    # A manifest may come from somebody else: its plan is validated like a config.
    except (UserError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(
            f"the manifest holds no valid plan: {error} Run the sweep again to write it anew."
        ) from error


def versions() -> dict[str, str]:
    """Versions of this package, of Python, and of the packages that it computes with."""
    known = {"layer-atlas": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            known[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {**known, "platform": sys.platform, "machine": platform.machine()}


def runs_in(root: Path) -> list[str]:
    """Names of the runs in a folder of output folders, the newest first."""
    found = [(path.stat().st_mtime, path.parent.name) for path in root.glob("*/manifest.json")]
    return [name for _, name in sorted(found, reverse=True)]


def _no_manifest(folder: OutputFolder) -> str:
    # A wrong name is the usual cause, so list the right ones.
    root = folder.root.parent
    runs = runs_in(root)
    known = f" Runs in {str(root)!r}: {', '.join(runs)}." if runs else ""
    return f"there is no run in {str(folder.root)!r}; choose one with name=...{known}"


def _git_commit() -> str | None:
    folder = Path(__file__).resolve().parent
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None
