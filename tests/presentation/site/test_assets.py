"""The scripts of the pages among themselves: what one calls is what another has."""

import shutil
import subprocess
from pathlib import Path

import pytest

from layer_atlas.presentation.site import make

CALLS = Path(__file__).with_name("calls.cjs")


def misfits(folder: Path) -> tuple[list[str], int]:
    """Calls whose arguments do not fit their functions, and how many calls were looked at."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("NOT TESTED: no node to parse scripts with")
    command = [node, "--expose-internals", CALLS, *sorted(folder.glob("*.js"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "internal/deps/acorn" in done.stderr:
        pytest.skip("NOT TESTED: this node has no parser of its own")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), int(done.stderr)


def test_every_call_between_scripts_has_the_arguments_of_its_function() -> None:
    found, calls = misfits(make._ASSETS)
    assert found == []
    assert calls > 300


@pytest.mark.parametrize(
    ("script", "call", "instead", "told"),
    [
        (
            "tiles.js",
            "part(source, row - first, count, data.columns)",
            "part(row, 9)",
            "part takes 4",
        ),
        ("tiles.js", "sheets.ready(preview)", "sheets.ready()", "sheets.ready takes 1"),
        ("grid.js", "this.tile(this.focus)", "this.tile()", "this.tile takes 1"),
        ("grid.js", "new Wall(layer, data, rows, place)", "new Wall(layer)", "new Wall takes 4"),
    ],
)
def test_a_call_that_does_not_fit_is_found(
    tmp_path: Path, script: str, call: str, instead: str, told: str
) -> None:
    folder = shutil.copytree(make._ASSETS, tmp_path / "assets")
    text = (folder / script).read_text()
    assert call in text
    (folder / script).write_text(text.replace(call, instead))
    found, _ = misfits(folder)
    assert found
    assert all(told in line for line in found)


def test_the_page_has_all_scripts() -> None:
    assert sorted(make._SCRIPTS) == sorted(path.stem for path in make._ASSETS.glob("*.js"))
