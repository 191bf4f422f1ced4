"""The command that judges recipes, run on the demo network."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import judge_recipes
import numpy as np
import pytest
import torch
from PIL import Image

from layer_atlas.datasets.evidence import agreement, make_reference

pytestmark = pytest.mark.slow


COUNT = 40
TARGETS = {"conv4": [0, 4, 8], "output": [0, 1]}
COLUMNS = ["strongest photograph", "nine photographs", "short", "start"]
SHORT = "optimizer.steps=2 optimizer.leaky_steps=1"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    draw = np.random.default_rng(0)
    for number in range(COUNT):
        coarse = draw.integers(0, 256, (2 + number % 9, 2 + number % 7, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((32, 32)).save(folder / f"{number:02}.png")
    classes = {f"{number:02}.png": number % 8 for number in range(COUNT)}
    (folder / "classes.json").write_text(json.dumps(classes))
    return folder


def command(photographs: Path, out: Path, *options: str) -> list[str]:
    photos = ("--photos", str(photographs), "--image-size", "32", "--out", str(out))
    return ["--layers", "conv4,output", "--channels", "0:12:4;0:2", *photos, *options]


@pytest.fixture(scope="module")
def judged(
    photographs: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("judged")
    options = ("--classes", str(photographs / "classes.json"), "--judge", "demo", "--seeds", "0,1")
    observer = ("--observer", "{name: demo, layers: [conv5]}")
    random = ("--random-weights", "{name: demo, label: untrained, weights: none}")
    recipes = (f"short={SHORT}", f"start={SHORT} optimizer.learning_rate=0.01")
    asked = command(photographs, out, *options, *observer, *random, *recipes)
    assert judge_recipes.main(asked) == 0
    return json.loads((out / "judged.json").read_text())["judged"], out


def test_every_layer_and_its_control_has_a_column_for_photographs_and_recipes(
    judged: tuple[dict[str, Any], Path],
) -> None:
    result, out = judged
    controls = [f"{layer}, random weights" for layer in TARGETS]
    assert list(result) == [*TARGETS, *controls]
    for title, layer in result.items():
        assert layer["targets"] == TARGETS[title.partition(",")[0]]
        assert list(layer["columns"]) == COLUMNS
        assert (out / f"{title.replace(', ', '_').replace(' ', '_')}.png").is_file()


def test_summaries_are_those_of_the_images(judged: tuple[dict[str, Any], Path]) -> None:
    for title, layer in judged[0].items():
        ceiling = layer["columns"]["strongest photograph"]["summary"]
        nine = layer["columns"]["nine photographs"]["summary"]
        for name in ("short", "start"):
            summary, each = (layer["columns"][name][key] for key in ("summary", "each"))
            images = 2 * len(layer["targets"])
            assert len(each["agreement"]) == images
            assert summary["agreement"] == pytest.approx(np.mean(each["agreement"]))
            assert summary["rank"] == np.median(each["rank"])
            ratio = "agreement with the next nine, over the photographs'"
            own = summary["agreement with the next nine"]
            assert summary[ratio] == pytest.approx(own / ceiling["agreement with the next nine"])
            choice = "choice by demo conv5"
            assert len(each[choice]) == len(layer["targets"])
            over = summary[f"{choice}, over the photographs'"]
            assert over == pytest.approx(summary[choice] / nine[choice])
            assert 0 < summary[f"{choice}, shuffled targets"] < 1
            assert summary["similarity of two seeds"] <= 1
            assert summary["energy at 1/8 to 1/4"] > 0
            assert (title.startswith("output")) == ("named by demo" in summary)
            assert (title.startswith("output")) == (
                "rank of the own photograph by demo conv5" in summary
            )


def test_the_trained_network_is_recognised_by_itself(
    judged: tuple[dict[str, Any], Path],
) -> None:
    trained = judged[0]["output"]["columns"]["short"]["summary"]
    untrained = judged[0]["output, random weights"]["columns"]["short"]["summary"]
    assert trained["probability by demo"] > untrained["probability by demo"]


def test_every_image_is_a_file_for_blind_naming(judged: tuple[dict[str, Any], Path]) -> None:
    folder = judged[1] / "images" / "short" / "conv4"
    assert sorted(path.stem for path in folder.iterdir()) == ["0", "4", "8"]
    with Image.open(folder / "4.png") as tile, Image.open(judged[1] / "conv4.png") as sheet:
        assert tile.size == (32, 32)
        assert sheet.width > 3 * 128


def test_the_table_has_a_row_for_every_measure() -> None:
    alone = judge_recipes.Verdict({"a": 0.5}, {})
    recipe = judge_recipes.Verdict({"a": 0.25, "b": float("nan"), "c": 12345.0}, {})
    assert judge_recipes.table({"photograph": alone, "x": recipe}).splitlines() == [
        "| | photograph | x |",
        "|---|---|---|",
        "| a | 0.5 | 0.25 |",
        "| b |  |  |",
        "| c |  | 1.23e+04 |",
    ]


def test_a_start_from_the_strongest_photograph_is_in_no_query(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from judges import verdicts

    seen: list[Any] = []
    draw: Callable[..., Any] = verdicts.draw_queries

    def spy(responses: Any, used: Any = None) -> Any:
        seen.append((responses, used))
        return draw(responses, used)

    monkeypatch.setattr(verdicts, "draw_queries", spy)
    start = f"quality=natural dataset=folder dataset.path={photographs} {SHORT}"
    asked = ["--layers", "conv4", "--channels", "0:12:4", "--photos", str(photographs)]
    asked += ["--image-size", "32", "--observer", "{name: demo, layers: [conv5]}"]
    assert judge_recipes.main([*asked, "--out", str(tmp_path), f"natural={start}"]) == 0
    (_, none), (responses, used) = seen
    assert none is None
    assert used.sum(axis=1).tolist() == [1, 1, 1]
    assert used.argmax(axis=1).tolist() == responses.argmax(axis=0).tolist()


def test_images_of_another_tool_are_judged_like_those_of_a_recipe(
    judged: tuple[dict[str, Any], Path], photographs: Path, tmp_path: Path
) -> None:
    ours, made = judged[0]["conv4"]["columns"]["short"]["each"], judged[1] / "images" / "short"
    options = ("--layers", "conv4", "--channels", "0:12:4", "--images", f"other={made}")
    asked = command(photographs, tmp_path, *options, f"short={SHORT}")
    assert judge_recipes.main(asked) == 0
    result = json.loads((tmp_path / "judged.json").read_text())["judged"]["conv4"]
    other = result["columns"]["other"]["each"]
    for name in ("agreement", "rank", "activation", "robust activation", "clipped"):
        assert other[name] == pytest.approx(ours[name][: len(TARGETS["conv4"])])
    assert other["CPU seconds"] == [None] * 3


@pytest.mark.parametrize(
    ("options", "reported"),
    [
        (("--observer", "demo", "a="), "add one to the entry"),
        (("--judge", "demoo", "a="), "demoo"),
        (("--classes", "none.csv", "a="), "--classes none.csv"),
        (("a=objective=diversity",), "images that are not each for one channel"),
        (("a=optimizer.stepz=3",), "optimizer.stepz"),
        (("--channels", "0:3", "a="), "1 selections for 2 layers"),
        (("a=", "a=quality=draft"), "the name 'a' is taken"),
        (("nine photographs=",), "the name 'nine photographs' is taken"),
        (("--images", "a=.", "a="), "the name 'a' is taken"),
        (("--images", "b=none", "a="), "none/conv4/0.png cannot be read"),
    ],
)
def test_a_mistake_is_reported_before_anything_is_made(
    photographs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    reported: str,
) -> None:
    out = tmp_path / "out"
    assert judge_recipes.main(command(photographs, out, *options)) == 2
    assert reported in capsys.readouterr().err
    assert not out.exists()


def test_agreement_is_that_of_the_package() -> None:
    draw = np.random.default_rng(0)
    responses = draw.random((30, 5)).astype(np.float32)
    images = draw.random((2, 5)).astype(np.float32)
    made = judge_recipes.LayerJudges(
        targets=np.array([1, 3]),
        pixels=torch.from_numpy(draw.integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)),
        responses=responses,
        classifiers=(),
        observers=(),
        features=(),
        classes=None,
    )
    expected, rank = agreement(make_reference(responses), images, np.array([1, 3]))
    judged = made.agreement.judge(images, np.array([1, 3]))
    assert judged["agreement"].tolist() == expected.tolist()
    assert judged["rank"].tolist() == rank.tolist()
