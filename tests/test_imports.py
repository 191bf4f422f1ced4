"""Who imports whom: data flows one way, plan and collation need no torch, Hydra has one door."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import pipeline

PACKAGE = Path(pipeline.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

FLOW = (
    *("errors", "processes", "dotted", "settings"),
    *("environment", "jobs", "targets", "origin", "sampling", "plan", "wording"),
    *("store", "photographs"),
    *("numerics", "networks", "objectives", "aim"),
    *("transforms", "parameterizations", "ascent", "studies", "tasks", "worker"),
    *("collate", "reader", "figures", "site", "atlas"),
    *("executors", "scheduling", "survey", "inspection", "report", "sweep"),
)
"""The way of the data, from the design: config, plan, store, network, worker, atlas, sweep."""

READING = ("collate", "reader", "figures", "site", "atlas")
"""What knows the store or the atlas alone."""


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
    return {name for name in imported(MODULES[module]) if name in MODULES} - {"pipeline"}


def test_no_two_modules_import_each_other_by_any_detour() -> None:
    graph = {module: imports_of_the_package(module) for module in MODULES}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)


def home(module: str) -> str:
    """The folder of `pipeline` that a module lies in, or its name if it lies in none."""
    return module.split(".")[1]


@pytest.mark.parametrize("place", range(len(FLOW)), ids=FLOW)
def test_data_flows_one_way(place: int) -> None:
    downstream = set(FLOW[place + 1 :])
    for module in MODULES:
        if module != "pipeline" and home(module) == FLOW[place]:
            assert not set(map(home, imports_of_the_package(module))) & downstream, module


def test_every_folder_has_its_place() -> None:
    homes = {home(module) for module in MODULES if module != "pipeline"}
    assert homes - {"__main__"} == set(FLOW)


def test_collation_knows_no_model_and_no_worker() -> None:
    forbidden = {"networks", "ascent", "tasks", "worker", "survey", "scheduling", "sweep"}
    for module in MODULES:
        if module.startswith(tuple(f"pipeline.{name}" for name in READING)):
            names = {home(name) for name in imports_of_the_package(module)}
            assert not names & forbidden, module


@pytest.mark.parametrize(
    "modules",
    [
        ["plan"],
        ["collate.run", "collate.hdf5", "collate.montage", "collate.overlay", "collate.compare"],
        ["figures.make", "reader"],
        ["site.make", "atlas"],
        ["studies.evidence", "studies.study", "studies.files"],
        ["scheduling.schedule", "scheduling.stages", "store.shards"],
        ["executors.local", "executors.custom"],
        ["report.plan", "report.layers", "report.status", "report.summary", "report.cleaning"],
    ],
    ids=lambda modules: modules[0],
)
def test_planning_scheduling_and_collation_import_no_torch(modules: list[str]) -> None:
    code = "\n".join(
        [
            "import sys",
            *(f"import pipeline.{module}" for module in modules),
            "assert 'torch' not in sys.modules, sorted(sys.modules)",
        ]
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_only_the_door_knows_hydra() -> None:
    knowing = {
        module.removeprefix("pipeline.")
        for module, path in MODULES.items()
        if any(name.split(".")[0] in ("hydra", "omegaconf") for name in imported(path))
    }
    assert knowing <= {"settings.config", "settings.compose", "settings.config_source"}
