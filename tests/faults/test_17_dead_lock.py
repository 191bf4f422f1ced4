"""Fault 17: a lock whose owner is dead: its process, its host, or the host's last boot."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from runs import atlas_here, shards
from sweeps import SWEEP, assert_nothing_lost, unfinished

from layer_atlas.store import lock
from layer_atlas.store.folder import OutputFolder

HOLD = """
import sys
from pathlib import Path
from layer_atlas.store.lock import locked
from layer_atlas.store.folder import OutputFolder
with locked(OutputFolder(Path(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""


def check_taken_over(folder: Path, undisturbed: Path, owner: str) -> None:
    """A run goes on where the dead owner left, and says whose work it was."""
    before = shards(folder)
    code, said = atlas_here("run", folder.parent, *SWEEP)
    assert code == 0, said
    (note,) = [line for line in said.splitlines() if "ended without a word" in line]
    assert note.startswith(f"warning: {owner}, since ")
    assert_nothing_lost(undisturbed, folder, before)
    code, said = atlas_here("run", folder.parent, *SWEEP)
    assert "ended without a word" not in said, "a run that ended well is taken for dead"


def test_of_a_killed_process(undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    unfinished(undisturbed, folder)
    argv = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        process.kill()
    check_taken_over(folder, undisturbed, f"process {process.pid} on {lock._this_process().host}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [{"boot": "an earlier one"}, {"host": "gone"}], ids=["boot", "host"]
)
def test_of_a_dead_host(
    change: dict[str, str], undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "SILENT_SECONDS", 0.6)
    folder = tmp_path / "demo"
    unfinished(undisturbed, folder)
    dead = replace(lock._this_process(), pid=4711, **change)
    OutputFolder(folder).lock.write_text(json.dumps(asdict(dead)))
    check_taken_over(folder, undisturbed, f"process 4711 on {dead.host}")
