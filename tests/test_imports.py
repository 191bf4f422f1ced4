"""Who imports whom: rooms import only those before them, plan and pictures need no torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import layer_atlas

PACKAGE = Path(layer_atlas.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

ROOMS = (
    *("config", "plan", "store", "models", "datasets"),
    *("visualization", "atlas", "presentation", "sweep", "cli"),
)
ORDER = ("errors", "processes", "logs", "imports", *ROOMS)
"""Each imports only what stands before it."""


def imported(path: Path) -> Iterator[str]:
    """Dotted names of what a file imports, also within functions, but not for type checks alone."""
    tree = ast.parse(path.read_text())
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else str(node.module)


def imports_of_the_package(module: str) -> set[str]:
    return {name for name in imported(MODULES[module]) if name in MODULES} - {"layer_atlas"}


def room(module: str) -> str:
    """The room of a module, or its own name if it lies in none."""
    return module.split(".")[1]


@pytest.mark.slow
def test_no_two_modules_import_each_other_by_any_detour() -> None:
    graph = {module: imports_of_the_package(module) for module in MODULES}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)


@pytest.mark.parametrize("place", range(len(ORDER)), ids=ORDER)
def test_rooms_import_only_those_before_them(place: int) -> None:
    downstream = set(ORDER[place + 1 :])
    for module in MODULES:
        if module != "layer_atlas" and room(module) == ORDER[place]:
            assert not set(map(room, imports_of_the_package(module))) & downstream, module


def test_there_are_ten_rooms_and_each_says_what_it_is_for() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders == set(ROOMS)
    for name in ROOMS:
        purpose = ast.get_docstring(ast.parse((PACKAGE / name / "__init__.py").read_text()))
        assert purpose, name


def test_every_module_has_its_place() -> None:
    places = {room(module) for module in MODULES if module != "layer_atlas"}
    assert places - {"__main__"} == set(ORDER)


def test_what_is_made_from_the_store_knows_no_model_and_no_worker() -> None:
    forbidden = {"models", "visualization", "sweep", "cli"}
    for module in MODULES:
        if module.startswith(("layer_atlas.atlas.", "layer_atlas.presentation.")):
            assert not set(map(room, imports_of_the_package(module))) & forbidden, module


@pytest.mark.parametrize(
    "modules",
    [
        ["plan.plan"],
        ["presentation.collate", "presentation.montages.montage"],
        ["presentation.montages.evidence_pages", "atlas.hdf5"],
        ["presentation.figures.make", "atlas.reader"],
        ["presentation.site.make", "presentation.similarity"],
        ["datasets.evidence", "datasets.statistics", "datasets.statistics_files"],
        ["sweep.scheduler", "sweep.stages", "store.shards"],
        ["sweep.executors", "sweep.executors.local"],
        ["cli.tables", "cli.status", "cli.commands"],
        ["sweep.cleaning", "sweep.run"],
    ],
    ids=lambda modules: modules[0],
)
def test_planning_scheduling_and_collation_import_no_torch(modules: list[str]) -> None:
    code = "\n".join(
        [
            "import sys",
            *(f"import layer_atlas.{module}" for module in modules),
            "assert 'torch' not in sys.modules, sorted(sys.modules)",
        ]
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_only_the_door_knows_hydra() -> None:
    knowing = {
        module.removeprefix("layer_atlas.")
        for module, path in MODULES.items()
        if any(name.split(".")[0] in ("hydra", "omegaconf") for name in imported(path))
    }
    assert knowing <= {"config.config", "config.compose", "config.config_source"}


def test_a_module_of_a_user_may_be_called_pipeline(tmp_path: Path) -> None:
    (tmp_path / "pipeline.py").write_text("def build():\n    return 'mine'\n")
    code = (
        "from layer_atlas.imports import import_callable\n"
        "assert import_callable('pipeline.build', 'target', '')() == 'mine'"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_network_of_ones_own_is_planned_without_torchs_compiler() -> None:
    """The compiler takes as long to import as torch itself, and torchvision imports it."""
    code = """
import sys, torch
from torch import nn
from layer_atlas.models.graph import trace
from layer_atlas.models.introspection import describe_layers
import layer_atlas.sweep.planning, layer_atlas.sweep.worker
network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
assert describe_layers(network, torch.rand(1, 3, 8, 8)) and trace(network)
assert not {"torch._dynamo", "torchvision"} & sys.modules.keys()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_the_first_steps_of_a_worker_import_nothing_more() -> None:
    """Sympy alone takes 0.9 s, and torch imports it for what looks harmless."""
    code = """
import sys, torch
from layer_atlas.config.config import ModelConfig
from layer_atlas.config.objectives import ChannelObjective, DirectionObjective
from layer_atlas.config.optimizers import Adam
from layer_atlas.config.parameterizations import NaturalFourier
from layer_atlas.config.recipe import Recipe, Transforms
from layer_atlas.models.introspection import describe_layers
from layer_atlas.models.load import load_network
from layer_atlas.sweep import worker
from layer_atlas.visualization.optimization.renderer import Renderer
network = load_network(ModelConfig("demo"))
info = describe_layers(network.module, network.example((32, 32)))[0]
for objective in (ChannelObjective(), DirectionObjective()):
    recipe = Recipe(
        objective=objective,
        parameterization=NaturalFourier(),
        transforms=Transforms(),
        optimizer=Adam(steps=2),
        image_size=(32, 32),
        precision="fp32",
    )
    Renderer(network, recipe, torch.device("cpu")).layer(info).make(["0" * 64], [0])
    assert not {"sympy", "torch._dynamo"} & sys.modules.keys()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
