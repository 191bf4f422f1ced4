"""The README is read first: what it says of settings and commands must be so."""

import re
from pathlib import Path

import pytest

from layer_atlas.cli.commands import COMMANDS
from layer_atlas.config.config import config_folder

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_every_command_is_explained() -> None:
    assert not [command for command in COMMANDS if f"`atlas {command}`" not in README]


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
def test_every_picture_is_there(path: Path) -> None:
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", path.read_text())
    assert pictures or path.name != "README.md"
    assert not [picture for picture in pictures if not (path.parent / picture).exists()]


def test_every_page_is_linked() -> None:
    linked = set(re.findall(r"\]\((docs/[a-z]+\.md)", README))
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} == linked


def test_every_experiment_opens_with_the_command_that_runs_it() -> None:
    for path in (config_folder() / "experiment").glob("*.yaml"):
        command = path.read_text().splitlines()[1]
        assert command.startswith(f"# ./scripts/atlas run experiment={path.stem}")


def test_every_fault_has_a_test_and_the_modules_that_meet_it() -> None:
    faults = ROOT / "tests" / "faults"
    rows = re.findall(r"^\| `(\d\d)` .*\| (.*) \|$", (faults / "README.md").read_text(), re.M)
    assert [number for number, _ in rows] == [
        path.name[5:7] for path in sorted(faults.glob("test_[0-9]*"))
    ]
    named = [module for _, by in rows for module in re.findall(r"`([^`]+)`", by)]
    assert not [
        module for module in named if not (ROOT / "pipeline" / "layer_atlas" / module).is_file()
    ]
