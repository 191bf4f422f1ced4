"""The command for blind naming: what the viewer gets shows nothing, and the score is right."""

import json
from pathlib import Path

import blind_naming
import numpy as np
import pytest
from atlases import made_up
from PIL import Image

from layer_atlas.atlas.reader import open_atlas

NAMES = ["red", "green", "blue", "white", "black", "yellow"]
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (255, 255, 0)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, colour in enumerate(COLOURS):
        Image.new("RGB", (8, 8), colour).save(folder / f"{number}.png")
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    return folder


def make(source: Path, *options: str) -> Path:
    out = source.parent / "blind"
    names = ("--names", str(source.parent / "names.txt"))
    asked = ["make", str(source), *names, "--out", str(out), "--tile", "16", *options]
    assert blind_naming.main(asked) == 0
    return out


def test_the_key_names_what_each_tile_shows(source: Path) -> None:
    out = make(source, "--columns", "3")
    tiles = json.loads((out / "key.json").read_text())["tiles"]
    sheet = np.asarray(Image.open(out / "sheet.png"))
    for number, name in tiles.items():
        row, column = divmod(int(number) - 1, 3)
        # Tiles are 16 px, with a gap of 6 and a line of 18 for the number.
        pixel = sheet[row * 40 + 18 + 8, column * 22 + 8]
        assert tuple(pixel) == COLOURS[NAMES.index(name)]
    assert list(tiles.values()) != NAMES
    listed = (out / "names.txt").read_text().splitlines()
    assert sorted(listed) == sorted(NAMES)
    assert listed != list(tiles.values())


def test_answers_are_scored(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = make(source)
    tiles = json.loads((out / "key.json").read_text())["tiles"]
    answers = [f"{number} {name}" for number, name in tiles.items()]
    first, second = list(tiles.values())[:2]
    answers[:2] = [f"1 {second}", f"2 {first}"]
    (out / "answers.txt").write_text("\n".join(answers))
    assert blind_naming.main(["score", str(out / "key.json"), str(out / "answers.txt")]) == 0
    assert "4 of 6 right: 0.67 (95 %: 0.30 to 0.90)" in capsys.readouterr().out


def test_images_may_have_names_of_their_own(source: Path) -> None:
    for number, name in enumerate(NAMES):
        (source / f"{number}.png").rename(source / f"{name}.png")
    out = source.parent / "blind"
    assert blind_naming.main(["make", str(source), "--out", str(out)]) == 0
    assert sorted((out / "names.txt").read_text().split()) == sorted(NAMES)


@pytest.mark.parametrize(
    ("asked", "reported"),
    [
        (("make", "{images}", "--out", "x"), "give their classes: --names FILE"),
        (("make", "{images}/none", "--out", "x"), "is no folder of images, and no atlas"),
        (("make", "{images}", "--names", "{images}/../few.txt", "--out", "x"), "below 1"),
        (("make", "{images}", "--names", "{images}/../same.txt", "--out", "x"), "called 'crane'"),
        (("score", "{images}/0.png", "{images}/../few.txt"), "is no key that `make` wrote"),
    ],
)
def test_a_mistake_is_reported(
    source: Path, capsys: pytest.CaptureFixture[str], asked: tuple[str, ...], reported: str
) -> None:
    (source.parent / "few.txt").write_text("one\n")
    (source.parent / "same.txt").write_text("crane\n" * 6)
    assert blind_naming.main([word.format(images=source) for word in asked]) == 2
    assert reported in capsys.readouterr().err


def test_an_atlas_gives_its_images(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    atlas = made_up(tmp_path / "sweep", {"fc": 6, "conv": 2})
    names, out = ("--names", str(tmp_path / "names.txt")), ("--out", str(tmp_path / "blind"))
    assert blind_naming.main(["make", str(atlas), *names, *out]) == 2
    assert "--layer is missing; choose from: " in capsys.readouterr().err
    with open_atlas(atlas) as opened:
        title = next(title for title in opened if title.endswith("fc"))
        pictures = {NAMES[k]: opened[title].pixels(k) for k in opened[title].channels}
    asked = ["make", str(atlas.parent), "--layer", title, *names, *out, "--tile", "16"]
    assert blind_naming.main(asked) == 0
    tiles = json.loads((tmp_path / "blind" / "key.json").read_text())["tiles"]
    sheet = np.asarray(Image.open(tmp_path / "blind" / "sheet.png"))
    assert sorted(tiles.values()) == sorted(pictures)
    for number, name in tiles.items():
        row, column = divmod(int(number) - 1, 4)
        tile = sheet[row * 40 + 18 : row * 40 + 34, column * 22 : column * 22 + 16]
        assert np.array_equal(tile, pictures[name])
