"""The cache of inspections: right answers or none, whoever writes to it at the same time."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from layer_atlas.models import inspections

QUESTION = {"of": "conv1", "size": [32, 32]}


@dataclass(frozen=True)
class Answer:
    """An answer of a few kinds of values."""

    number: float = 0.1
    names: tuple[str, ...] = ("a", "b")


@dataclass(frozen=True)
class Measured:
    """An answer of one number."""

    value: float


def only_file(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


def test_an_answer_comes_back_as_it_was(cache_folder: Path) -> None:
    assert inspections.recall(QUESTION, Answer) is None
    answer = Answer(1 / 3, ("ä", "\ud800"))
    inspections.keep(QUESTION, answer)
    assert inspections.recall(QUESTION, Answer) == answer
    assert inspections.recall({**QUESTION, "size": [32, 33]}, Answer) is None


def test_without_a_folder_nothing_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(inspections.CACHE_VARIABLE, "")
    monkeypatch.setenv("HOME", str(tmp_path))
    inspections.keep(QUESTION, Answer())
    assert inspections.recall(QUESTION, Answer) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({inspections.CACHE_VARIABLE: "/somewhere"}, "/somewhere"),
        ({inspections.CACHE_VARIABLE: "~/here"}, "/home/me/here"),
        ({inspections.CACHE_VARIABLE: " "}, None),
        ({"XDG_CACHE_HOME": "/fast"}, "/fast/layer-atlas"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/me/.cache/layer-atlas"),
        ({}, "/home/me/.cache/layer-atlas"),
    ],
    ids=["chosen", "at home", "none", "of the user", "relative", "default"],
)
def test_the_folder_is_the_users(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], folder: str | None
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("HOME", "/home/me")
    for name in (inspections.CACHE_VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert inspections.cache_folder() == (folder and Path(folder))


def test_other_platforms_have_other_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(inspections.CACHE_VARIABLE)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert inspections.cache_folder() == Path("/home/me/Library/Caches/layer-atlas")
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    assert inspections.cache_folder() == Path("/local/layer-atlas")


def changed(**values: object) -> str:
    return json.dumps({"schema": inspections.SCHEMA, "sha256": "0" * 64, "answer": {}, **values})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"schema": "layer-atlas-insp',
        b"\xff\xfe\x00",
        b"[]",
        b"{}",
        b"[" * 100_000,
        changed(question="0" * 64).encode(),
        changed(schema="layer-atlas-inspection/0").encode(),
    ],
    ids=["empty", "half", "bytes", "list", "nothing", "nested", "of another", "other schema"],
)
def test_a_file_that_is_no_answer_is_ignored_and_replaced(
    cache_folder: Path, content: bytes
) -> None:
    inspections.keep(QUESTION, Answer())
    only_file(cache_folder).write_bytes(content)
    assert inspections.recall(QUESTION, Answer) is None
    inspections.keep(QUESTION, Answer())
    assert inspections.recall(QUESTION, Answer) == Answer()


@pytest.mark.parametrize(
    ("key", "value"),
    [("answer", {"number": 0.2, "names": ["a", "b"]}), ("question", "1" * 64), ("sha256", 3)],
)
def test_a_changed_answer_is_ignored(cache_folder: Path, key: str, value: object) -> None:
    inspections.keep(QUESTION, Answer())
    file = only_file(cache_folder)
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    assert inspections.recall(QUESTION, Answer) is None


def test_the_answer_to_another_question_does_not_pass_for_it(cache_folder: Path) -> None:
    inspections.keep(QUESTION, Answer(1.0))
    first = only_file(cache_folder)
    inspections.keep({"other": 1}, Answer(2.0))
    (second,) = set(cache_folder.iterdir()) - {first}
    second.replace(first)
    assert inspections.recall(QUESTION, Answer) is None


def test_an_answer_of_another_kind_is_ignored(cache_folder: Path) -> None:
    inspections.keep(QUESTION, Measured(1.0))
    assert inspections.recall(QUESTION, Answer) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_what_would_not_come_back_is_not_kept(cache_folder: Path, value: float) -> None:
    inspections.keep(QUESTION, Measured(value))
    assert not cache_folder.exists()


def test_a_folder_that_cannot_be_written_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv(inspections.CACHE_VARIABLE, str(tmp_path / "file"))
    inspections.keep(QUESTION, Answer())
    assert inspections.recall(QUESTION, Answer) is None


def test_the_oldest_answers_make_way(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspections, "_MOST_FILES", 3)
    for number in range(5):
        inspections.keep({"number": number}, Answer())
        for file in cache_folder.iterdir():  # one second older each
            then = file.stat().st_mtime - 1
            os.utime(file, (then, then))
    there = [inspections.recall({"number": number}, Answer) is not None for number in range(5)]
    assert there == [False, False, True, True, True]


PROCESS = """
import sys
from layer_atlas.models import inspections
from layer_atlas.config.records import plain
from test_inspections_cache import Answer

for turn in range(100):
    for number in range(3):
        answer = Answer(float(number), ("x" * 20_000,))
        found = inspections.recall({"number": number}, Answer)
        assert found in (None, answer), "half an answer"
        assert found == answer or turn == 0, "an answer is gone"
        inspections.keep({"number": number}, answer)
"""


def test_processes_that_write_at_once_read_whole_answers(cache_folder: Path) -> None:
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths}
    processes = [
        subprocess.Popen([sys.executable, "-c", PROCESS], env=environment, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    while any(process.poll() is None for process in processes):
        # Nor does somebody who reads, or looks through the folder, meet anything but answers.
        assert inspections.recall({"number": 1}, Answer) in (None, Answer(1.0, ("x" * 20_000,)))
        time.sleep(0.01)
    assert [(process.returncode, process.communicate()[1]) for process in processes] == 3 * [
        (0, b"")
    ]
    assert len(list(cache_folder.iterdir())) == 3
