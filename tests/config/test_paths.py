"""Paths of users: what they mean, and what is told of those that mean nothing."""

import os
from pathlib import Path

import pytest

from layer_atlas.config.inputs import user_file, user_path
from layer_atlas.errors import UserError


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "weights.pth").write_bytes(b"w")
    (tmp_path / "other.pth").write_bytes(b"o")
    (tmp_path / "folder.pth").mkdir()


def test_a_path_is_as_it_was_given_but_for_the_home_folder(tmp_path: Path) -> None:
    assert user_path("some/where", "path") == Path("some/where")
    assert user_path("~/some/where", "path") == tmp_path / "home" / "some" / "where"
    assert user_path("weights.pth/inside", "path") == Path("weights.pth/inside")
    assert user_file("weights.pth", "weights file") == Path("weights.pth")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x\0y", "embedded null byte"),
        ("a" * 300, "File name too long"),
        ("a/" * 5000, "File name too long"),
        ("~nobody-of-this-name/x", "home directory"),
        ("\ud800", "surrogates not allowed"),
        ("loop", "symbolic links"),
    ],
    ids=ascii,
)
def test_a_path_that_nothing_can_have_is_told(text: str, why: str) -> None:
    Path("loop").symlink_to("loop")
    for path_of in (user_path, user_file):
        with pytest.raises(UserError, match=why) as caught:
            path_of(text, "dataset.path")
        assert str(caught.value).startswith("dataset.path '")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("wieghts.pth", ["does not exist", "relative to", "Beside it: weights.pth, other.pth."]),
        ("gone/weights.pth", ["does not exist"]),
        ("weights.pth/inside", ["does not exist"]),
        ("folder.pth", ["is a folder; name a file in it"]),
        ("", ["is a folder"]),
        ("/dev/null", ["no file but a device or pipe"]),
        ("pipe", ["no file but a device or pipe"]),
    ],
)
def test_what_is_no_file_is_told(text: str, words: list[str]) -> None:
    os.mkfifo("pipe")
    with pytest.raises(UserError) as caught:
        user_file(text, "weights file")
    assert str(caught.value).startswith(f"weights file {text!r} ")
    for word in words:
        assert word in str(caught.value)
