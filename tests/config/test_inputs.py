"""Inputs: references in the place of files, copies that are kept, mistakes told."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from toys import composed, make_recipe

from layer_atlas.config.inputs import Inputs, checkpoints_in
from layer_atlas.config.objectives import InversionObjective
from layer_atlas.errors import UserError
from layer_atlas.store.folder import OutputFolder, keep_inputs

RECIPE = make_recipe()


def with_photograph(path: Path) -> object:
    return replace(RECIPE, objective=InversionObjective(photograph=str(path)))


def test_files_become_references_wherever_they_lie(tmp_path: Path) -> None:
    for name in ("a.PNG", "b.png"):
        (tmp_path / name).write_bytes(b"pixels")
    inputs = Inputs()
    recipes = [inputs.resolved(with_photograph(tmp_path / name)) for name in ("a.PNG", "b.png")]
    reference = hashlib.sha256(b"pixels").hexdigest() + ".png"
    assert recipes[0] == recipes[1]
    assert recipes[0].objective.photograph == reference  # type: ignore[attr-defined]
    assert inputs.find(reference) == tmp_path / "a.PNG"
    assert inputs.resolved(RECIPE) == RECIPE


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the picture file"):
        Inputs().resolved(with_photograph(tmp_path / "none.png"))


def test_copies_are_kept_and_are_what_they_were_when_planned(tmp_path: Path) -> None:
    folder, source = OutputFolder(tmp_path / "out"), tmp_path / "a.png"
    source.write_bytes(b"pixels")
    inputs = Inputs()
    inputs.resolved(with_photograph(source))
    sources = {reference: str(path) for reference, path in inputs.sources.items()}
    keep_inputs(folder, sources)
    (reference,) = sources
    assert folder.input(reference).read_bytes() == b"pixels"
    source.unlink()
    keep_inputs(folder, sources)  # what is kept needs no source
    folder.input(reference).unlink()
    with pytest.raises(UserError, match="cannot be read"):
        keep_inputs(folder, sources)
    source.write_bytes(b"other pixels")
    with pytest.raises(UserError, match="changed during planning"):
        keep_inputs(folder, sources)


# --- checkpoints of a training run ---------------------------------------------------------------


def training_run(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def test_checkpoints_are_in_the_natural_order_of_their_names(tmp_path: Path) -> None:
    names = ("step_100.pth", "step_20.ckpt", "last.pth.tar", "log.txt", "config.json")
    run = training_run(tmp_path / "run", *names, "checkpoint-3/model.safetensors", "tb/events")
    found = checkpoints_in(str(run))
    assert list(found) == ["checkpoint-3", "last", "step_20", "step_100"]
    assert found["step_20"] == str(run / "step_20.ckpt")
    assert found["checkpoint-3"] == str(run / "checkpoint-3")


def test_a_training_run_is_a_model_for_each_checkpoint(tmp_path: Path) -> None:
    run = training_run(tmp_path / "run", "epoch_10.pt", "epoch_9.pt")
    entry = "models=[{name: resnet18, layers: [layer1.0.conv1]}]"
    config = composed(f"checkpoints={run}", entry, "image_size=32")
    assert [model.label for model in config.models] == ["epoch_9", "epoch_10"]
    assert [model.weights for model in config.models] == [
        str(run / "epoch_9.pt"),
        str(run / "epoch_10.pt"),
    ]
    assert {model.layers for model in config.models} == {("layer1.0.conv1",)}


@pytest.mark.parametrize(
    ("names", "models", "message"),
    [
        (
            ("log.txt",),
            "[resnet18]",
            "there is no checkpoint in .*no file that ends in",
        ),
        (("a.pt", "a.ckpt"), "[resnet18]", "two checkpoints in .* are called 'a': rename one"),
        (("a.pt",), "[resnet18,vgg11]", "are of one network: give models one entry"),
        (("a.pt",), "[{name: resnet18, weights: b.pt}]", "without weights of its own"),
    ],
)
def test_a_training_run_that_is_none_is_refused(
    tmp_path: Path, names: tuple[str, ...], models: str, message: str
) -> None:
    run = training_run(tmp_path / "run", *names)
    with pytest.raises(UserError, match=message):
        composed(f"checkpoints={run}", f"models={models}")
    with pytest.raises(UserError, match="'nowhere' is no folder; name the folder with the weights"):
        composed("checkpoints=nowhere")
