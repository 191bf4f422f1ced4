"""Labels of a file: wherever channels are named, and nothing of them that fits no channel."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from atlases import made_up
from runs import atlas_here
from toys import composed, fill_store, layer_info, make_plan

from layer_atlas.atlas.gather import layer_views
from layer_atlas.atlas.reader import open_atlas
from layer_atlas.atlas.words import LayerWords, propose, write_csv
from layer_atlas.config.config import CollateSettings
from layer_atlas.config.outputs import TracesFigure
from layer_atlas.errors import UserError
from layer_atlas.plan.plan import Plan
from layer_atlas.plan.targets import TargetSpace
from layer_atlas.presentation.collate import make_atlas, read_summary
from layer_atlas.presentation.figures.make import make_figure
from layer_atlas.presentation.montages.montage import draw_montage
from layer_atlas.presentation.names import with_labels
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.manifest import write_manifest


@pytest.fixture
def plan() -> Plan:
    return make_plan(layer_info("conv", 6), layer_info("fc", 3))


def labels(tmp_path: Path, *lines: str, head: str = "layer,channel,label") -> CollateSettings:
    path = tmp_path / "labels.csv"
    path.write_text("\n".join([head, *lines]))
    return CollateSettings(labels=str(path))


def test_labels_become_names_of_channels(tmp_path: Path, plan: Plan) -> None:
    lines = ("conv,3,curves", 'conv, 5 ,"dogs, left"', "fc,0,any")
    found = with_labels(labels(tmp_path, *lines), plan)
    names = {"conv:3": "curves", "conv:5": "dogs, left", "fc:0": "any"}
    assert found == CollateSettings(names=names)
    # A name in the config goes first, and the columns may stand in any order.
    head = "Score,Label,Channel,Layer,Model"
    settings = labels(tmp_path, "1,of one,3,conv,toy", head=head)
    settings = replace(settings, names={"conv": "stem"})
    assert with_labels(settings, plan).names == {"conv": "stem", "toy/conv:3": "of one"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("cnov,1,x", r"unknown layer of line 2 of collate\.labels.* 'cnov'; choose from: conv, fc"),
        ("conv,6,x", r"names channel '6' of conv, which has 0 to 5"),
        ("conv,-1,x", r"names channel '-1' of conv"),
        ("conv,3,", r"line 2 .* has no label"),
        ('conv,3,"a\nb"', r"on one line"),
        ("conv,3,a\nconv,3,b", r"line 3 .* labels conv:3 'b', which line 2 labels 'a'"),
    ],
)
def test_a_label_that_fits_nothing_is_refused(
    tmp_path: Path, plan: Plan, line: str, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        with_labels(labels(tmp_path, line), plan)


def test_a_file_that_is_no_table_of_labels_is_refused(tmp_path: Path, plan: Plan) -> None:
    with pytest.raises(UserError, match="lacks the column 'label'"):
        with_labels(labels(tmp_path, head="layer,channel"), plan)
    with pytest.raises(UserError, match="unknown model in line 2"):
        with_labels(labels(tmp_path, "conv,1,x,tyo", head="layer,channel,label,model"), plan)
    (tmp_path / "labels.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="no readable CSV"):
        with_labels(CollateSettings(labels=str(tmp_path / "labels.csv")), plan)


def test_montages_have_labels_as_they_have_names_of_classes(tmp_path: Path) -> None:
    pictures = []
    space = TargetSpace((3,), names=("curves", "dogs", "any"))
    given = {"conv:0": "curves", "toy/conv:1": "dogs", "conv:2": "any"}
    for settings, names in ((CollateSettings(names=given), None), (CollateSettings(), space)):
        plan = make_plan(layer_info("conv", 3))
        folder = OutputFolder(tmp_path / str(len(pictures)))
        fill_store(folder, plan)
        (view,) = layer_views(folder, plan)
        view = replace(view, layer=replace(view.layer, space=names))
        pictures.append(np.asarray(draw_montage(view, settings).picture))
    assert np.array_equal(*pictures)


def test_an_atlas_is_read_and_drawn_with_labels(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path / "atlas")
    made_up(folder.root, {"conv": 4})
    with open_atlas(folder.atlas) as atlas:
        layer = atlas["conv"].called({"conv:2": "curves", "other:1": "x"})
        assert layer.labels == ["0", "1", "2 curves", "3"]
        assert layer.has_names
        assert not atlas["conv"].has_names
        assert layer.target_space.has("3")
        assert not layer.target_space.has("4")


@pytest.mark.slow
def test_a_collation_takes_labels_and_hands_them_to_figures(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path / "run")
    plan = make_plan(layer_info("conv", 6))
    fill_store(folder, plan)
    write_manifest(folder, composed(), plan, ["cpu"])
    settings = replace(labels(tmp_path, "conv,3,curves", "conv,4,dogs"), site=False)
    make_atlas(folder, settings)
    Path(str(settings.labels)).unlink()
    summary = read_summary(folder)
    assert summary is not None
    assert summary.settings.names == {"conv:3": "curves", "conv:4": "dogs"}
    make_figure(folder, TracesFigure(channels=[3]))
    provenance = (folder.figures / "traces.provenance.json").read_text()
    assert '"conv:3":"curves"' in provenance.replace(" ", "")
    assert "dogs" not in provenance  # of a million labels, those shown are enough


def test_what_was_proposed_is_a_file_of_labels(tmp_path: Path) -> None:
    pairs = {"targets": TargetSpace((6, 6)), "channels": (8, 23)}
    plan = make_plan(layer_info("conv", 6), **pairs)
    (view,) = layer_views(OutputFolder(tmp_path / "run"), plan)
    directions = np.eye(3, dtype=np.float32)
    proposals = {"optimized": propose(directions[[2, 0]], directions, 1)}
    found = LayerWords({}, np.asarray([8, 23]), ("a dog", 'dots, "large"', "curve"), proposals)
    assert write_csv(tmp_path / "labels.csv", [(view, found)]) == 2
    settings = with_labels(CollateSettings(labels=str(tmp_path / "labels.csv")), plan)
    assert settings.names == {"toy/conv:1+2": "curve", "toy/conv:3+5": "a dog"}


def test_a_run_refuses_a_label_before_it_computes(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("layer,channel,label\nconv2,9999,x\n")
    overrides = ("layers=[conv2]", f"collate.labels={path}", "name=x")
    code, said = atlas_here("plan", tmp_path, *overrides)
    assert code == 2
    assert "names channel '9999' of conv2" in said
