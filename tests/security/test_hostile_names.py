"""Names that are paths, markup, commands to a terminal or too long: they stay names."""

import re
from dataclasses import replace
from pathlib import Path

import h5py
import pytest
from PIL import Image
from runs import atlas_here
from toys import composed, fill_store, layer_info, make_plan, make_recipe

from layer_atlas.cli.commands import print_result
from layer_atlas.cli.status import status_table
from layer_atlas.cli.tables import plan_table, summary
from layer_atlas.config.config import CollateSettings
from layer_atlas.config.objectives import LogitObjective
from layer_atlas.config.records import plain
from layer_atlas.plan.jobs import STATUS
from layer_atlas.plan.plan import Plan
from layer_atlas.plan.targets import TargetSpace
from layer_atlas.presentation.collate import collate_here, read_summary
from layer_atlas.store.files import write_json
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.manifest import write_manifest

NAMES = (
    "../../../outside",
    "/tmp/outside",
    "..",
    "nul\0byte",
    "two\nlines",
    "quo\"te's `touch x` $(touch x)",
    "<script>alert(1)</script>",
    "\x1b[31mred\x1b]0;title\x07",
    "\x9b31m",
    "\u202egnp.exe",
    "lone \ud800 surrogate",
    "x" * 100_000,
    "-rf",
)


def hostile_plan() -> Plan:
    """A model per name, whose layer and classes are called so too."""
    recipe = replace(make_recipe(image_size=16), objective=LogitObjective(), snapshots=6)
    (model,) = make_plan(recipe=recipe).models
    return replace(
        make_plan(recipe=recipe),
        models=tuple(
            replace(
                model,
                label=name,
                network=replace(model.network, source=name),
                layers=tuple(
                    replace(layer, info=layer_info(name, 2, module_type=name), targets=(0, 1))
                    for layer in (replace(model.layers[0], space=None, targets=()),)
                ),
            )
            for name in NAMES
        ),
    )


def with_classes(plan: Plan) -> Plan:
    models = (
        replace(
            model,
            layers=tuple(
                replace(layer, space=TargetSpace((2,), (model.label, f"{model.label}!")))
                for layer in model.layers
            ),
        )
        for model in plan.models
    )
    return replace(plan, models=tuple(models))


@pytest.fixture(scope="module")
def collated(tmp_path_factory: pytest.TempPathFactory) -> OutputFolder:
    root = tmp_path_factory.mktemp("names")
    folder = OutputFolder(root / "inside" / "atlas")
    plan = with_classes(hostile_plan())
    fill_store(folder, plan)
    write_manifest(folder, composed(), plan, ["cpu"])
    collate_here(folder, CollateSettings(animations="strip"))
    return folder


@pytest.mark.slow
def test_nothing_is_written_outside_the_output_folder(collated: OutputFolder) -> None:
    outside = collated.root.parent.parent
    made = [path for path in outside.rglob("*") if path.is_file()]
    assert all(collated.root in path.parents for path in made)
    assert len(list(collated.store.rglob("*.safetensors"))) == len(NAMES) * 1
    for path in made:
        assert re.fullmatch(r"[\w.+@=~-]+", path.name, re.ASCII), path


@pytest.mark.slow
def test_every_picture_is_drawn(collated: OutputFolder) -> None:
    assert len(list(collated.montages.rglob("*.png"))) == len(NAMES)
    animations = [*collated.root.rglob("animations/*/*/*.png")]
    assert len(animations) == len(NAMES) * 2
    for path in collated.montages.rglob("*.png"):
        with Image.open(path) as picture:
            picture.load()


def test_the_atlas_has_a_group_for_every_name(collated: OutputFolder) -> None:
    with h5py.File(collated.atlas) as atlas:
        groups = [group for group in atlas.values() if isinstance(group, h5py.Group)]
        assert len(groups) == len(NAMES)
        for group in groups:
            (layer,) = group.values()
            assert (layer["status"][()] == STATUS["ok"]).all()
            assert len(layer["channel_name"][()]) == 2


def test_what_is_printed_does_nothing_to_a_terminal(
    collated: OutputFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = with_classes(hostile_plan())
    for text in (status_table(collated), plan_table(collated, plan, ["cpu"]), summary(collated)):
        print_result(text)
    said = capsys.readouterr().out
    assert "\\x1b[31mred" in said
    assert said.replace("\n", "").isprintable()
    rows = [line for line in said.splitlines() if line.startswith("two")]
    assert rows
    assert all("\\nlines" in row for row in rows)


def test_photographs_that_cannot_be_read_are_named_and_nothing_more(
    collated: OutputFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    known = read_summary(collated)
    assert known is not None
    told = replace(known, unreadable=3, unreadable_paths=("\x1b[2Ja.png", "b\nc.png", "\udcff.png"))
    write_json(collated.summary, plain(told))
    print_result(summary(collated))
    write_json(collated.summary, plain(known))
    said = capsys.readouterr().out
    assert "3 images could not be read: \\x1b[2Ja.png, b\\nc.png, \\udcff.png ..." in said
    assert said.replace("\n", "").isprintable()


STRANGE = """
from torch import nn

def build():
    network = nn.Sequential()
    for i, name in enumerate({names!r}):
        network.add_module(name, nn.Conv2d(3, 3, 1))
    return network
"""


@pytest.mark.slow
def test_layers_of_a_users_module_may_be_called_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # PyTorch takes all but dots.
    names = (*(n for n in NAMES if "." not in n and len(n) < 1000), "x" * 300, " ")[-6:]
    (tmp_path / "cwd").mkdir()
    (tmp_path / "cwd" / "strange_names.py").write_text(STRANGE.format(names=names))
    monkeypatch.chdir(tmp_path / "cwd")
    model = "models=[{name: ../../m, target: strange_names.build, input_size: 16}]"
    tiny = ("optimizer.steps=2", "optimizer.leaky_steps=0", "executor.devices=[cpu]")
    code, said = atlas_here("run", tmp_path / "out", model, *tiny, "channels='0:1'", "seeds=[0]")
    assert code == 0, said
    assert f"{len(names)} images: " in said
    assert said.replace("\n", "").isprintable()
    assert {path.name for path in tmp_path.iterdir()} == {"cwd", "out"}
    code, said = atlas_here("verify", tmp_path / "out", model)
    assert code == 0, said


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", ".", "..", "", " ", "x" * 300, "a\nb"])
def test_names_of_runs_are_told(tmp_path: Path, name: str) -> None:
    quoted = "'" + name.replace("'", "\\'") + "'"
    code, said = atlas_here("status", tmp_path / "out", f"name={quoted}")
    assert code == 2
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()
