"""The export: every number and pixel is that of the atlas, in every format, and nothing is lost."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from atlases import add_photographs, made_up
from PIL import Image

from layer_atlas.atlas.reader import open_atlas
from layer_atlas.cli.commands import main
from layer_atlas.config.outputs import ExportSettings
from layer_atlas.errors import UserError
from layer_atlas.plan.jobs import STATUS
from layer_atlas.presentation.export import check_export, export_atlas, has_export
from layer_atlas.store.folder import safe_name

EVIL = "../evil: <layer>"


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds; one layer has a hostile name; channel 3 is dead, from 70 on all are missing."""
    root = tmp_path_factory.mktemp("export")
    fates = {3: "dead", 70: "missing"}
    path = made_up(root / "made", {"block.a": 75, EVIL: 4}, (0, 7), fates, shard_size=35)
    add_photographs(path, 2)
    with h5py.File(path, "a") as file:
        for group in file["toy"].values():
            count = len(group["channel"])
            paths = np.asarray([[f"a/{k}.jpg", "b/ü.jpg"] for k in range(count)], object)
            group["dataset"].create_dataset("top_path", data=paths, dtype=h5py.string_dtype())
            group["dataset"]["top_score"] = np.linspace(0, 1, 2 * count).reshape(count, 2)
        del file["toy"][safe_name(EVIL)]["selectivity"]
    return path


def exported(
    atlas: Path, target: Path, names: dict[str, str] | None = None, **settings: Any
) -> list[dict[str, Any]]:
    """Export, and the rows of the table as plain values."""
    chosen = ExportSettings(**settings)
    check_export(target, chosen, may_replace=False)
    export_atlas(atlas, target, chosen, names)
    table = target / f"metadata.{chosen.format}"
    if chosen.format == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        return list(parquet.read_table(table).to_pylist())
    if chosen.format == "csv":
        with open(table, newline="", encoding="utf-8") as file:
            return [_parsed(row) for row in csv.DictReader(file)]
    return [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()]


def _parsed(row: dict[str, str]) -> dict[str, Any]:
    """Values of a row of CSV; numbers and lists are JSON."""
    texts = ("file_name", "model", "layer", "label", "given_label", "variant", "status")
    values = {k: v if k in texts else json.loads(v) for k, v in row.items() if v}
    return {**dict.fromkeys(row), **values}


def close(value: Any, expected: Any) -> bool:
    missing = not math.isfinite(expected)
    return value is None if missing else value == expected


@pytest.fixture(params=["jsonl", "csv", "parquet"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "parquet":
        pytest.importorskip("pyarrow")
    return str(request.param)


def test_every_row_has_the_numbers_of_the_atlas(atlas: Path, tmp_path: Path, kind: str) -> None:
    rows = exported(atlas, tmp_path / "out", format=kind, images="none")
    assert len(rows) == 2 * (75 + 4)
    assert [row["channel"] for row in rows[:4]] == [0, 0, 1, 1]
    with open_atlas(atlas) as opened:
        values = {
            name: {n: layer[n] for n in layer.names if "jpeg" not in n}
            for name, layer in opened.items()
        }
        for row in rows:
            layer = opened[f"{row['model']}/{row['layer']}"]
            own = values[layer.title]
            k, s = layer.row(row["channel"]), layer.seeds.index(row["seed"])
            assert row["status"] == layer.fate(row["channel"], row["seed"])
            for name in layer.statistics:
                at = own[name][(k, s)[: own[name].ndim]]
                assert close(row[name.replace("/", "_")], at), name
            assert row["dataset_top_path"] == [f"a/{k}.jpg", "b/ü.jpg"]
            assert row["dataset_top_score"] == own["dataset/top_score"][k].tolist()
            assert row["file_name"] is None
            assert ("selectivity" in layer) == (row["layer"] == "block.a")
        assert all(row["selectivity"] is None for row in rows if row["layer"] == EVIL)


def test_labels_of_a_users_own_are_a_column_of_their_own(
    atlas: Path, tmp_path: Path, kind: str
) -> None:
    names = {"block.a": "stem", "block.a:5": "curves, left", "toy/block.a:7": "dogs"}
    plain = exported(atlas, tmp_path / "plain", format=kind, images="none")
    assert {row["given_label"] for row in plain} == {None}
    rows = exported(atlas, tmp_path / "out", names, format=kind, images="none")
    given = {(row["layer"], row["channel"]): row["given_label"] or "" for row in rows}
    assert {k: v for k, v in given.items() if v} == {
        ("block.a", 5): "curves, left",
        ("block.a", 7): "dogs",
    }
    assert [{**row, "given_label": None} for row in rows] == plain


@pytest.mark.parametrize("images", ["png", "webp"])
def test_images_are_those_of_the_atlas_pixel_by_pixel(
    atlas: Path, tmp_path: Path, images: str
) -> None:
    rows = exported(atlas, tmp_path / "out", format="jsonl", images=images)
    files = [row["file_name"] for row in rows if row["file_name"]]
    assert len(set(files)) == len(files) == 2 * (70 + 4)
    written = {p.relative_to(tmp_path / "out").as_posix() for p in tmp_path.rglob(f"*.{images}")}
    assert written == set(files), "all lie in the folder, whatever a layer is called"
    with open_atlas(atlas) as opened:
        for row in rows:
            layer = opened[f"toy/{row['layer']}"]
            assert (row["file_name"] is None) == (row["status"] == "missing")
            if row["file_name"] is not None:
                picture = np.asarray(Image.open(tmp_path / "out" / row["file_name"]))
                assert np.array_equal(picture, layer.pixels(row["channel"], row["seed"]))


def test_the_record_says_what_the_columns_are(atlas: Path, tmp_path: Path) -> None:
    rows = exported(atlas, tmp_path, format="jsonl", images="none")
    record = json.loads((tmp_path / "export.json").read_text())
    assert (record["schema"], record["complete"]) == ("layer-atlas-export/1", True)
    assert (record["rows"], record["images"], record["table"]) == (158, 0, "metadata.jsonl")
    assert list(record["columns"]) == list(rows[0])
    assert record["columns"]["activation"]["kind"] == "number"
    with open_atlas(atlas) as opened:
        for name, description in opened["block.a"].statistics.items():
            assert record["columns"][name.replace("/", "_")]["description"] == description
    assert record["models"]["toy"]["source"]
    words = record["columns"]["status"]["description"].replace(",", "").split()
    assert set(words) == {*STATUS, "or"}


def test_an_export_is_replaced_only_if_asked_and_other_files_never(
    atlas: Path, tmp_path: Path
) -> None:
    exported(atlas, tmp_path / "out", format="csv")
    lines = ExportSettings(format="jsonl", images="none")
    with pytest.raises(UserError, match="atlas export yes"):
        check_export(tmp_path / "out", lines, may_replace=False)
    check_export(tmp_path / "out", lines, may_replace=True)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    export_atlas(atlas, tmp_path / "out", lines)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"export.json", "metadata.jsonl", "notes.txt"}
    own = tmp_path / "own"
    own.mkdir()
    (own / "metadata.csv").write_text("mine")
    with pytest.raises(UserError, match="holds what no export wrote"):
        check_export(own, lines, may_replace=True)


def test_what_an_interrupted_export_leaves_may_be_replaced(
    atlas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **how: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space"):
        export_atlas(atlas, tmp_path, ExportSettings(format="jsonl"))
    assert has_export(tmp_path)
    assert json.loads((tmp_path / "export.json").read_text())["complete"] is False


def test_parquet_without_pyarrow_is_refused_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"layer-atlas\[export\].*jsonl"):
        check_export(tmp_path, ExportSettings(), may_replace=False)


def test_columns_of_parquet_carry_their_descriptions(atlas: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    exported(atlas, tmp_path, images="none")
    schema = parquet.read_schema(tmp_path / "metadata.parquet")
    assert b"objective" in schema.field("activation").metadata[b"description"]
    assert str(schema.field("dataset_top_score").type).startswith("list<")


@pytest.mark.slow
def test_the_command_asks_before_it_replaces(
    atlas: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = [f"output_root={atlas.parent.parent}", f"name={atlas.parent.name}"]
    settings = ["export.format=csv", f"export.folder={tmp_path / 'out'}"]
    assert main(["export", *run, *settings]) == 0
    assert (
        f"158 rows, 148 image files: {tmp_path / 'out' / 'metadata.csv'}" in capsys.readouterr().out
    )
    assert main(["export", *run, *settings]) == 2
    assert "`atlas export yes ...` replaces it" in capsys.readouterr().err
    assert main(["export", "yes", *run, *settings, "export.images=none"]) == 0
    assert not (tmp_path / "out" / "images").exists()
