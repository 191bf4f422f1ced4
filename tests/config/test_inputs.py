"""Inputs: references in the place of files, copies that are kept, mistakes told."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from toys import make_recipe

from layer_atlas.config.inputs import Inputs
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
