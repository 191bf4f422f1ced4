"""Files of figures: what publishers ask for is in them, and each says how it is made again."""

import base64
import io
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from atlases import add_photographs, made_up
from fontTools.ttLib import TTFont
from PIL import Image
from runs import atlas_here, run_here
from toys import composed

from layer_atlas.config.outputs import (
    AgainFigure,
    FigureSettings,
    Group,
    ImagesFigure,
    ResponsesFigure,
)
from layer_atlas.errors import UserError
from layer_atlas.presentation.figures.make import (
    command_of,
    hydra_value,
    make_figure,
    read_provenance,
)
from layer_atlas.store.folder import OutputFolder

FORMATS = ("pdf", "svg", "png", "tiff")
SETTINGS = ImagesFigure(
    formats=FORMATS,
    channels={"top": 8, "by": "activation"},
    width="column",
    dpi=150,
    title="It's (a) \\ 50 %",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> OutputFolder:
    root = tmp_path_factory.mktemp("runs") / "toy"
    add_photographs(made_up(root, {"conv": 20, "fc_1": 6}, (0, 3), {2: "dead"}))
    made = OutputFolder(root)
    make_figure(made, SETTINGS)
    return made


def read(folder: OutputFolder, name: str) -> bytes:
    return (folder.figures / name).read_bytes()


def test_a_pdf_holds_its_fonts_as_truetype_and_its_images_at_their_resolution(
    folder: OutputFolder,
) -> None:
    pdf = read(folder, "images.pdf")
    assert b"/FontFile2" in pdf
    assert b"/CIDFontType2" in pdf
    assert b"/Type3" not in pdf
    assert b"/CreationDate" not in pdf
    page = [float(side) for side in re.search(rb"/MediaBox \[ ([^]]*)\]", pdf)[1].split()]
    assert page[2] == pytest.approx(3.3 * 72)
    assert pdf.count(b"/Subtype /Image") == 14 * 4  # each with three photographs


def test_an_svg_holds_words_as_words(folder: OutputFolder) -> None:
    svg = read(folder, "images.svg").decode()
    assert re.search(r"<text[^>]*>It's \(a\) \\ 50 %</text>", svg)
    assert "fc_1" in svg
    assert "<dc:date>" not in svg


def test_an_svg_brings_the_letters_along_that_it_uses(folder: OutputFolder) -> None:
    ElementTree.fromstring(read(folder, "images.svg"))
    svg = read(folder, "images.svg").decode()
    faces = re.findall(r"font-weight: (\w+); src: url\(data:font/ttf;base64,([^)]*)\)", svg)
    fonts = {weight: TTFont(io.BytesIO(base64.b64decode(data))) for weight, data in faces}
    for weight, words in (("bold", "It's (a)"), ("normal", "fc_10123†")):
        assert {ord(letter) for letter in words} <= set(fonts[weight].getBestCmap()), weight
        assert ord("Z") not in fonts[weight].getBestCmap()


@pytest.mark.parametrize("name", ["images.png", "images.tiff"])
def test_pixels_have_their_size_on_paper(folder: OutputFolder, name: str) -> None:
    with Image.open(folder.figures / name) as picture:
        assert picture.mode == "RGB"
        assert picture.info["dpi"] == pytest.approx((150, 150), abs=0.05)
        assert picture.width == round(3.3 * 150)


@pytest.mark.parametrize(
    "name", [*(f"images.{ending}" for ending in FORMATS), "images.provenance.json"]
)
def test_every_file_says_how_it_is_made_again(folder: OutputFolder, name: str) -> None:
    found = read_provenance(AgainFigure(path=str(folder.figures / name)))
    assert found.figure == SETTINGS
    assert found.name == "toy"
    assert found.atlas["content"] == "digest"
    assert found.layers["toy/conv"]["weights_sha256"].startswith("c0ffee")
    assert len(found.layers["toy/conv"]["channels"]) == 8
    assert "matplotlib" in found.versions


@pytest.mark.slow
def test_a_figure_made_again_is_the_same_byte_for_byte(folder: OutputFolder) -> None:
    names = [path.name for path in folder.figures.iterdir() if path.name.startswith("images")]
    before = {name: read(folder, name) for name in names}
    make_figure(folder, AgainFigure(path=str(folder.figures / "images.tiff")))
    assert {name: read(folder, name) for name in names} == before


GROUPS = (
    Group(name="z curves & \\lines #1", channels=[3, 17]),
    Group(name="a colour: 50 % größer", channels="6:10"),
    Group(name="m {strongest}", channels={"bottom": 1, "by": "activation"}),
)


@pytest.mark.parametrize("source", ["grouped.pdf", "grouped.svg", "grouped.provenance.json"])
def test_groups_are_made_again_in_their_order_byte_for_byte(
    folder: OutputFolder, source: str
) -> None:
    how = {"layers": ("conv",), "formats": FORMATS, "dpi": 72, "dataset_images": 0}
    make_figure(folder, ImagesFigure(file="grouped", groups=GROUPS, order="index", **how))
    names = [path.name for path in folder.figures.glob("grouped*")]
    before = {name: read(folder, name) for name in names}
    assert len(before) == 9
    make_figure(folder, AgainFigure(path=str(folder.figures / source)))
    assert {name: read(folder, name) for name in names} == before
    (layer,) = json.loads(before["grouped.provenance.json"])["layers"].values()
    assert layer["channels"][:6] == [3, 17, 6, 7, 8, 9]
    assert layer["groups"][GROUPS[1].name] == [6, 7, 8, 9]


def test_names_of_groups_are_escaped_in_latex_and_told_in_the_methods(
    folder: OutputFolder,
) -> None:
    make_figure(folder, ImagesFigure(file="told", layers=("conv",), groups=GROUPS))
    _, caption = read(folder, "told.caption.tex").decode().splitlines()
    shown = "7 channels in groups from all 20 channels of layer conv of toy"
    assert f"Feature visualizations of {shown}. Activations of" in caption
    for told in (
        r"z curves \& \textbackslash{}lines \#1 (3, 17)",
        r"a colour: 50 \% größer (6–9)",
        r"m \{strongest\} (those with the smallest activation)",
    ):
        assert told in caption
    methods = read(folder, "told.methods.md").decode()
    assert "Brackets mark z curves & \\lines #1 (3, 17); a" in methods


@pytest.mark.slow
def test_a_changed_atlas_is_told(folder: OutputFolder, tmp_path: Path) -> None:
    text = read(folder, "images.provenance.json").decode().replace('"digest"', '"other"')
    (tmp_path / "p.json").write_text(text)
    told = make_figure(folder, AgainFigure(path=str(tmp_path / "p.json")))
    assert "the atlas has changed since" in told[-1]


@pytest.mark.parametrize(
    "data", [b"", b"%PDF-1.4 no", b"{}", b"\xff\xfe", b"\x89PNG\r\n\x1a\n", b"II*\0", b"[1]"]
)
def test_files_that_do_not_say_it_are_told(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "figure").write_bytes(data)
    with pytest.raises(UserError, match="has no record of how it was made"):
        read_provenance(AgainFigure(path=str(tmp_path / "figure")))
    with pytest.raises(UserError, match="does not exist"):
        read_provenance(AgainFigure(path=str(tmp_path / "nothing")))


@pytest.mark.parametrize(
    "settings",
    [
        ImagesFigure(),
        SETTINGS,
        ImagesFigure(title='a "quoted" \\" ${name} \\', layers=("a.b*@Conv2d", "1.0", "null")),
        ImagesFigure(channels=["Siberian husky", 3, "it's"], width=4.5, steps=(0, 6), tile=0.5),
        ImagesFigure(channels=[[3, 17], [5, 9]], columns="seeds", dpi=600, labels=False),
        ImagesFigure(groups=GROUPS, order="index"),
        ResponsesFigure(groups=(Group(name="${a} \\", channels=["it's", 3]),)),
        ResponsesFigure(channels="0:64:2", clusters=4, dendrogram=False, caption="auto"),
    ],
)
def test_the_command_asks_for_the_same_figure(settings: FigureSettings) -> None:
    program, command, *overrides = shlex.split(command_of("toy", settings))
    assert (program, command) == ("atlas", "figure")
    config = composed(*overrides)
    assert config.figure == settings
    assert config.name == "toy"


def test_values_are_as_plain_as_they_may_be() -> None:
    assert hydra_value(["features.12", "*.conv"]) == "[features.12, *.conv]"
    assert hydra_value({"top": 3, "by": "activation"}) == "{by: activation, top: 3}"
    assert hydra_value("true") == '"true"'


@pytest.mark.slow
def test_several_pages_are_one_pdf_and_numbered_pictures(folder: OutputFolder) -> None:
    many: dict[str, Any] = {"file": "many", "formats": ("pdf", "png"), "dpi": 72, "width": 2.0}
    make_figure(folder, ImagesFigure(**many, height=2.5))
    names = sorted(path.name for path in folder.figures.glob("many*.p[dn]*"))
    assert names[0] == "many-1.png"
    assert len(names) == 3
    assert names[-1] == "many.pdf"
    make_figure(folder, ImagesFigure(**many, channels=[1]))
    # Pages that are no more are not left lying about.
    assert sorted(path.name for path in folder.figures.glob("many*.p[dn]*")) == [
        "many.pdf",
        "many.png",
    ]


def test_the_caption_is_latex_and_names_what_made_the_images(folder: OutputFolder) -> None:
    text = read(folder, "images.caption.tex").decode()
    first, caption = text.splitlines()
    assert first.startswith("% atlas figure name=toy figure=images")
    shown = r"14 channels of toy (8 of layer conv, 6 of layer fc\_1)"
    assert caption.startswith(rf"\caption{{Feature visualizations of {shown}")
    assert "those with the largest activation" in caption
    assert "SHA-256 of the weights c0ffeec0ffee" in caption
    assert "torch 2" in caption


def test_the_methods_tell_all_there_is_to_tell(folder: OutputFolder) -> None:
    text = read(folder, "images.methods.md").decode()
    for told in (
        "conv (Conv2d) and fc_1 (Conv2d) of toy (SHA-256 of the weights c0ffeec0ffee)",
        "16 x 16 pixels",
        "by Adam (Kingma & Ba 2015) with 12 steps",
        "random seeds were 0, 3",
        "1 is dead",
        "500 dataset images",
        "those with the largest activation",
        "torch 2",
        "- Olah et al. 2017. Feature visualization. Distill",
    ):
        assert told in text, told


def test_no_path_of_the_machine_is_published(folder: OutputFolder) -> None:
    for path in folder.figures.iterdir():
        assert str(folder.root.parent).encode() not in path.read_bytes(), path


@pytest.mark.slow
def test_from_a_run_to_a_figure_by_the_command_line(tmp_path: Path) -> None:
    small = ("optimizer.steps=2", "image_size=16", "layers=[conv1]", "channels='0:6'")
    small += ("collate.tile=64",)  # how montages look has nothing to do with figures
    assert run_here(tmp_path, *small) == 0
    folder = OutputFolder(tmp_path / "demo")
    folder.atlas.unlink()
    code, said = atlas_here("figure", tmp_path, "figure.channels={top: 3}")
    assert code == 0, said
    assert said.splitlines()[0].startswith(str(folder.figures / "images.pdf"))
    made = folder.atlas.stat().st_mtime_ns
    code, said = atlas_here(
        "figure", tmp_path, "figure=again", f"figure.path={folder.figures}/images.pdf"
    )
    assert code == 0, said
    assert folder.atlas.stat().st_mtime_ns == made  # collated only where that is needed
    assert json.loads(read(folder, "images.provenance.json"))["figure"]["channels"] == {"top": 3}
    code, said = atlas_here("figure", tmp_path, "name=nothing")
    assert code == 2
    assert "there is no run in" in said


@pytest.mark.slow
def test_an_atlas_from_elsewhere_is_enough(tmp_path: Path) -> None:
    made_up(tmp_path / "given", {"conv": 3})
    code, said = atlas_here("figure", tmp_path, "name=given", "figure.font=Nonesuch")
    assert code == 2
    assert "unknown figure.font" in said
    code, said = atlas_here("figure", tmp_path, "name=given", "figure=profile")
    assert code == 0, said
    assert (tmp_path / "given/figures/profile.pdf").exists()


def test_figures_stay_in_their_folder(folder: OutputFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be the name of a file"):
        make_figure(folder, ImagesFigure(file="../elsewhere"))
    text = read(folder, "images.provenance.json").decode()
    (tmp_path / "p.json").write_text(text.replace('"file": null', '"file": "/tmp/x"'))
    with pytest.raises(UserError, match="cannot be the name of a file"):
        make_figure(folder, AgainFigure(path=str(tmp_path / "p.json")))


def test_what_has_to_be_installed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [
        name for name in sys.modules if name.startswith("layer_atlas.presentation.figures")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy.cluster.hierarchy", None)
    code, said = atlas_here("figure", tmp_path)
    assert code == 2
    assert "pip install 'layer-atlas[figures]'" in said
