"""The documentation builds without a warning and fetches nothing; its commands and examples run."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from docs_pages import PAGES, ROOT, blocks, commands
from runs import TINY, assert_same_atlas, run_here
from toys import composed

from layer_atlas import __version__
from layer_atlas.atlas.hdf5 import SCHEMA as ATLAS_SCHEMA
from layer_atlas.cli.commands import COMMANDS, split_words
from layer_atlas.config.compose import with_config
from layer_atlas.config.outputs import ExportSettings
from layer_atlas.config.recipe import ALGORITHM_VERSIONS
from layer_atlas.datasets.statistics_files import SCHEMA as STUDY_SCHEMA
from layer_atlas.errors import EXIT_OK
from layer_atlas.plan.jobs import STATUS
from layer_atlas.presentation.export import SCHEMA as EXPORT_SCHEMA
from layer_atlas.presentation.export import export_atlas
from layer_atlas.store.manifest import SCHEMA as MANIFEST_SCHEMA
from layer_atlas.store.shards import SCHEMA as SHARD_SCHEMA
from layer_atlas.sweep import run as sweep
from layer_atlas.sweep.executors import open_executor
from layer_atlas.sweep.executors.base import Executor

DOCS = ROOT / "docs"
ATLAS, EXTENDING, FORMATS, SLURM, TUTORIAL = (
    DOCS / f"{name}.md" for name in ("atlas", "extending", "formats", "slurm", "tutorial")
)


# --- the site ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built documentation."""
    folder = tmp_path_factory.mktemp("docs")
    build = ["mkdocs", "build", "--strict", "-f", str(ROOT / "scripts" / "mkdocs.yml")]
    command = [sys.executable, "-m", *build, "-d", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_every_page_is_built_and_needs_no_network(site: Path) -> None:
    pages = {path.stem: path.read_text() for path in site.glob("*.html")}
    assert {*(path.stem for path in DOCS.glob("*.md")), "overview"} <= pages.keys()
    elsewhere = r'<(?:script|img|iframe|source|link)[^>]*(?:src|href)="(?:https?:)?//'
    assert not [name for name, page in pages.items() if re.search(elsewhere, page)]
    for style in site.rglob("*.css"):
        fetched = r"(?:url\(|@import)\s*['\"]?(?:https?:)?//"
        assert not re.search(fetched, style.read_text()), style


# --- commands ------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with the file of a site that the page on Slurm has; within it, a checkpoint."""
    (file,) = (block for block in blocks(SLURM, "yaml") if "cluster.yaml" in block)
    folder = tmp_path / "atlas" / "executor"
    folder.mkdir(parents=True)
    (tmp_path / "runs" / "resnet18").mkdir(parents=True)
    (tmp_path / "runs" / "resnet18" / "step_1.pth").touch()
    monkeypatch.chdir(tmp_path)
    (folder / "cluster.yaml").write_text(file)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_command_is_understood(path: Path) -> None:
    for name, *arguments in commands(path):
        assert name in COMMANDS, name
        _, rest = split_words(name, [re.sub("^~", str(Path.home()), a) for a in arguments])
        if "--cfg" not in rest:  # which prints the config
            with_config(lambda config: EXIT_OK, rest)


# --- Python --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `atlas run` made some of the demo's atlas."""
    folder = tmp_path_factory.mktemp("demo")
    some = (*TINY, "layers=[conv6]", 'channels="0:8"', "name=demo")
    assert run_here(folder / "outputs", *some) == EXIT_OK
    made = folder / "outputs" / "demo"
    export_atlas(made / "atlas.h5", made / "export", ExportSettings(format="jsonl"))
    return folder


@pytest.mark.parametrize(
    "block",
    [
        block
        for path in (ROOT / "README.md", ATLAS, TUTORIAL, FORMATS)
        for block in blocks(path, "python")
    ],
)
def test_python_runs_as_it_stands(
    block: str, demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(demo)
    exec(block, {})
    said = capsys.readouterr().out
    assert bool(said) == ("print(" in block)
    assert "damaged" not in said


@pytest.mark.slow
def test_the_page_on_python_runs_from_its_first_line_to_its_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks(DOCS / "python.md", "python"):
        exec(block, names)
    assert "mine/stem.0: 16 channels" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "outputs").iterdir()} == {"mine", "sweep"}
    assert len(names["result"].compare(names["later"])) == 2


# --- words ---------------------------------------------------------------------------------------


def test_formats_are_those_of_the_code(demo: Path) -> None:
    page = FORMATS.read_text()
    for schema in (ATLAS_SCHEMA, EXPORT_SCHEMA, SHARD_SCHEMA, STUDY_SCHEMA, MANIFEST_SCHEMA):
        assert f"`{schema}`" in page
    assert all(f"| {code} | {word} |" in page for word, code in STATUS.items())
    documented = page + ATLAS.read_text()
    with h5py.File(demo / "outputs" / "demo" / "atlas.h5") as atlas:
        layer = atlas["demo/conv6"]
        names = [*layer, *layer.attrs, *layer.parent.attrs, *atlas.attrs]
    assert not [name for name in names if f"`{name}`" not in documented]


def test_versions_and_licence_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert citation["version"] == __version__
    assert f"({__version__})" in changes or f"## {__version__}" in changes
    assert all(f"{number} in {name}" in changes for name, number in ALGORITHM_VERSIONS.items())
    assert f"`{ATLAS_SCHEMA}`" in changes
    assert project["license"] == citation["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()


# --- adding your own -----------------------------------------------------------------------------

SMALL = (*TINY, "layers=[conv1]", 'channels="0:16"')


def example(word: str) -> str:
    """The one block of Python that a word is in, on the page about extending."""
    (found,) = (block for block in blocks(EXTENDING, "python") if word in block)
    assert sum(map(bool, found.splitlines())) < 30
    return found


def command(word: str) -> list[str]:
    """The one command with a word on that page."""
    (found,) = (line for line in commands(EXTENDING) if word in line)
    return found


def test_the_example_of_an_objective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "alone.py").write_text(example("def score"))
    (_, *told) = command("name=alone")
    assert run_here(tmp_path, *SMALL, *told) == EXIT_OK
    with h5py.File(tmp_path / "alone" / "atlas.h5") as file:
        layer = file["demo/conv1"]
        channels, responses = layer["channel"][:], layer["response"][:, 0]
        activation, trace = layer["activation"][:, 0], layer["trace"][:, 0]
    own = responses[np.arange(len(channels)), channels]
    others = (responses.sum(axis=1) - own) / (responses.shape[1] - 1)
    np.testing.assert_allclose(activation, own - 2 * others, rtol=1e-4, atol=1e-4)
    assert np.median(trace[:, -1] - trace[:, 0]) > 0


def test_the_example_of_a_parameterization(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("blobs.py").write_text(example("class Blobs"))
    exec(example("save_file"), {})
    (_, *told) = command("name=blobs")
    assert run_here(tmp_path, *SMALL, *told) == EXIT_OK
    with h5py.File(tmp_path / "blobs" / "atlas.h5") as file:
        images, trace = file["demo/conv1/image"][:, 0], file["demo/conv1/trace"][:, 0]
    assert np.median(trace[:, -1] - trace[:, 0]) > 0
    # Blobs are smooth: neighbours differ little, whatever a channel would rather see.
    assert np.abs(np.diff(images.astype(float), axis=2)).mean() < 16


def copy_of_the_package(folder: Path) -> Path:
    """A copy of package and config that may be changed; returns the package."""
    package = folder / "pipeline" / "layer_atlas"
    left_out = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "pipeline" / "layer_atlas", package, ignore=left_out)
    shutil.copytree(ROOT / "conf", folder / "conf")
    return package


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "name", "record", "code", "words"),
    [
        ("objective", "peak", "class PeakObjective", "class Peak(", "the largest fraction of 0.1"),
        ("parameterization", "blocks", "class Blocks(", "class BlockImages", "blocks of 4 pixels"),
    ],
)
def test_the_example_in_the_package(
    tmp_path: Path, family: str, name: str, record: str, code: str, words: str
) -> None:
    package = copy_of_the_package(tmp_path)
    with open(package / "config" / f"{family}s.py", "a") as file:
        file.write("\n\n" + example(record))
    (package / "visualization" / f"{family}s" / f"{name}.py").write_text(example(code))
    (defaults,) = (block for block in blocks(EXTENDING, "yaml") if f"name: {name}" in block)
    (tmp_path / "conf" / family / f"{name}.yaml").write_text(defaults)

    def atlas(*arguments: str) -> str:
        command = [sys.executable, "-P", "-m", "layer_atlas", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(package.parent)}
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == EXIT_OK, done.stderr
        return done.stdout

    assert f"{name}: " in atlas(f"{family}s")
    atlas("run", *SMALL, f"{family}={name}", "name=new", f"output_root={tmp_path}")
    with h5py.File(tmp_path / "new" / "atlas.h5") as file:
        layer = file["demo/conv1"]
        recipe, status = json.loads(layer.attrs["recipe"]), layer["status"][:]
        activation, trace = layer["activation"][:, 0], layer["trace"][:, 0]
        responses = layer["response"][:, 0][np.arange(16), layer["channel"][:]]
        images = layer["image"][:, 0]
    assert recipe[family]["name"] == name
    assert (status == STATUS["ok"]).all()
    assert np.median(trace[:, -1] - trace[:, 0]) > 0
    if family == "objective":
        assert (activation > responses).all()  # the largest of what these are the mean of
    else:
        blocky = images.reshape(len(images), 8, 4, 8, 4, 3)
        assert (blocky == blocky[:, :, :1, :, :1]).all()
    describe = (
        "import json, sys; from layer_atlas.config.recipe import Recipe; "
        "from layer_atlas.config.records import build; "
        "print(build(Recipe, json.load(sys.stdin)).describe())"
    )
    told = subprocess.run(
        [sys.executable, "-P", "-c", describe],
        input=json.dumps(recipe),
        env={**os.environ, "PYTHONPATH": str(package.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert words in told.stdout


@pytest.mark.slow
def test_the_example_of_an_executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "prefixed.py").write_text(example("class Prefixed"))
    opened = []

    def note(*told: Any) -> Executor:
        opened.append(open_executor(*told))
        return opened[-1]

    monkeypatch.setattr(sweep, "open_executor", note)
    (_, *told) = command("name=nice")
    on_any = [setting for setting in SMALL if not setting.startswith("executor.devices")]
    assert sweep.run(composed(f"output_root={tmp_path}", *on_any, *told)).exit_code == EXIT_OK
    (executor,) = opened
    begun = [process.args[:3] for process in executor.processes.values()]
    assert begun == [["nice", "-n", "19"]] * 2
    assert run_here(tmp_path, *SMALL, "name=usual") == EXIT_OK
    assert_same_atlas(tmp_path / "nice" / "atlas.h5", tmp_path / "usual" / "atlas.h5")
