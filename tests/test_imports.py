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
    *("errors", "paths", "ranges", "records", "inputs", "objective_records", "optimizer_records"),
    *("transform_record", "parameterization_records", "photograph_records", "recipe", "jobs"),
    *("executor_records", "config", "targets", "plan", "wording"),
    *("stored", "sealed_file", "frames", "shard_file", "store", "backlog", "lock", "failures"),
    *("listing", "image_files", "photographs", "jpegs", "views", "pictures"),
    *("rng", "batches", "gradients", "weights", "architectures", "models", "activations", "layers"),
    *("fields", "observe", "colours", "resample", "device_network"),
    *("objectives.base", "objectives.channels", "objectives.directions", "objectives.joint"),
    *("objectives.likeness", "objectives.variants", "objectives.whole_layer", "objectives.custom"),
    *("objectives", "spectrum"),
    *("parameterizations.base", "parameterizations.frequencies", "parameterizations.given"),
    *("parameterizations.fourier", "parameterizations.pixel", "parameterizations.maco"),
    *("parameterizations.pyramid", "parameterizations.cppn", "parameterizations.generator"),
    *("parameterizations.masked", "parameterizations", "parameterizations.check"),
    "regularizers",
    *("transforms.part", "transforms.spread", "transforms.warp", "transforms.geometry"),
    *("transforms.photometry", "transforms", "side_by_side", "optimizers"),
    *("optimize", "octaves", "statistics", "bench", "saliency", "aim"),
    *("devices", "survey", "manifest"),
    *("study", "study_tasks", "study_frames", "study_store", "evidence"),
    *("family", "pulse", "committer"),
    *("tasks.base", "tasks.ascend", "tasks.study", "tasks.illustrate", "worker"),
    *("collate.overlay", "collate.drawing", "collate.evidence_row", "collate.sheet_grid"),
    *("collate.evidence_sheet", "collate.gather", "collate.coordinates"),
    *("collate.study_group", "collate.hdf5"),
    *("collate.layout", "collate.labels", "collate.montage", "collate.films"),
    *("collate.evidence_pages", "collate.brief", "collate.child", "collate.compare"),
    "collate.run",
    *("executors.base", "executors.local", "executors.slurm_job", "executors.slurm_queue"),
    *("executors.slurm_submit", "executors.slurm"),
    *("executors.ray_actor", "executors.ray_cluster", "executors.ray"),
    *("executors", "packing", "crew", "schedule"),
    *("progress", "stages", "cases", "wanted", "cleaning", "watching", "standing"),
    *("report.tables", "report.plan", "report.layers", "report.summary", "report.failures"),
    *("report.workers", "report.status", "report.cleaning", "sweep"),
)
"""The way of the data, from the design: config, plan, worker, store, collate."""


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


@pytest.mark.parametrize("place", range(len(FLOW)), ids=FLOW)
def test_data_flows_one_way(place: int) -> None:
    downstream = {f"pipeline.{name}" for name in FLOW[place + 1 :]}
    assert not imports_of_the_package(f"pipeline.{FLOW[place]}") & downstream


def test_collation_knows_no_model_and_no_worker() -> None:
    forbidden = {"models", "layers", "bench", "worker", "survey", "sweep", "schedule"}
    for module in MODULES:
        if module.startswith("pipeline.collate"):
            names = {name.removeprefix("pipeline.") for name in imports_of_the_package(module)}
            assert not names & forbidden, module


@pytest.mark.parametrize(
    "modules",
    [
        ["plan"],
        ["collate.run", "collate.hdf5", "collate.montage", "collate.overlay", "collate.compare"],
        ["evidence", "study", "study_store", "stages"],
        ["schedule", "store", "stages"],
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
    assert knowing <= {"config", "compose", "config_source"}
