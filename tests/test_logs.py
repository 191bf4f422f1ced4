"""Logs: what a terminal shows at which level, and the files that runs and workers leave."""

import logging
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from runs import TINY, atlas, atlas_here

from layer_atlas import logs
from layer_atlas.cli.commands import main
from layer_atlas.logs import (
    KEPT_RUNS,
    KEPT_WORKERS,
    VARIABLE,
    latest_logs,
    remove_old_logs,
    run_log,
    show_debug,
    step,
    terminal_logging,
    without_routine,
)

LINE = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (DEBUG|INFO|WARNING|ERROR) [\w.]+: "
logger = logging.getLogger("layer_atlas.somewhere")
foreign = logging.getLogger("somebody.else")


def log_at_every_level() -> None:
    for one in (logger, foreign):
        one.debug("a detail")
        one.info("model: demo")
        one.warning("weights are random")
        one.error("it failed")


# --- the library and the terminal ----------------------------------------------------------------


def test_a_program_that_imports_the_package_hears_nothing() -> None:
    code = (
        "import logging, layer_atlas\n"
        "from layer_atlas.sweep import run\n"
        "assert not logging.getLogger().handlers\n"
        "logging.getLogger('layer_atlas.sweep').error('nobody asked')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("info", "model: demo\nwarning: weights are random\nerror: it failed\n"),
        ("warning", "warning: weights are random\nerror: it failed\n"),
        ("error", "error: it failed\n"),
    ],
)
def test_a_terminal_shows_plain_messages(
    level: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with terminal_logging(level):
        log_at_every_level()
    foreign_shown = shown.removeprefix("model: demo\n")  # of others only what is amiss
    assert capsys.readouterr().err == shown + foreign_shown
    log_at_every_level()
    assert capsys.readouterr().err == "", "the command is over"


def test_a_step_is_named_once_it_takes_longer_than_silence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logs, "_SILENT_SECONDS", 0.05)
    monkeypatch.setattr(logs, "_LINE_SECONDS", 0.05)
    threads = threading.active_count()
    with terminal_logging("info"):
        with step("a short step"):
            pass
        with step("loading resnet50"):
            time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2
    assert all(re.fullmatch(r"loading resnet50, \d s so far", line) for line in lines)
    with pytest.raises(KeyError), step("a step that fails"):
        raise KeyError
    assert threading.active_count() == threads


def test_at_debug_records_have_time_level_and_logger(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal_logging("debug"):
        log_at_every_level()
    lines = capsys.readouterr().err.splitlines()
    assert [bool(re.match(LINE, line)) for line in lines] == [True] * 4 + [False] * 2
    assert lines[0].endswith(" DEBUG layer_atlas.somewhere: a detail")


@pytest.mark.parametrize(
    ("names", "details"), [(("somebody",), 1), (("",), 2), (("layer_atlas.other",), 0)]
)
def test_debug_records_of_some_loggers_are_shown(
    names: tuple[str, ...], details: int, capsys: pytest.CaptureFixture[str]
) -> None:
    levels = {name: logging.getLogger(name).level for name in names}
    with terminal_logging("info"):
        show_debug(*names)
        log_at_every_level()
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    assert capsys.readouterr().err.count("a detail") == details


def test_a_message_cannot_forge_a_line_or_drive_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with terminal_logging("info"), run_log(tmp_path):
        logger.warning("%s", "a\n2026-01-01 00:00:00 INFO forged\x1b[2J")
    (path,) = tmp_path.iterdir()
    for text in (capsys.readouterr().err, path.read_text()):
        assert text.endswith("a\\n2026-01-01 00:00:00 INFO forged\\x1b[2J\n")
        assert text.count("\n") == 1


# --- flags ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["-v", "--verbose", "hydra.verbose=true", "variable"])
def test_every_way_to_ask_for_details_gives_them(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if flag == "variable":
        monkeypatch.setenv(VARIABLE, "debug")
    arguments = [flag] if flag != "variable" else []
    _, said = atlas_here("run", tmp_path, *TINY, "channels=[0]", "layers=[conv1]", *arguments)
    assert re.search(rf"^{LINE}stage ", said, re.MULTILINE)
    quiet = atlas_here("run", tmp_path, *TINY, "channels=[0]", "layers=[conv1]", "-q")[1]
    if flag != "variable":
        assert quiet.startswith("1 image: 1 ok"), "the result is shown, and nothing else"


@pytest.mark.parametrize(
    ("argv", "message"), [(["plan", "-v", "-q"], "-v asks for more"), (["plan"], "LAYER_ATLAS_LOG")]
)
def test_a_level_that_is_none_is_refused(
    argv: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(VARIABLE, "info" if len(argv) > 1 else "loud")
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said


@pytest.mark.parametrize("argv", [["--version"], ["run", "--version"]])
def test_the_version_is_that_of_the_package(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 0
    assert re.fullmatch(r"layer-atlas \d+\.\d+\.\d+\n", capsys.readouterr().out)


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_that_succeeds_leaves_its_log_and_those_of_its_workers(tmp_path: Path) -> None:
    code, said = atlas("run", tmp_path, *TINY)
    assert code == 0, said
    assert not re.search(LINE, said), "the terminal shows times"
    folder = tmp_path / "demo" / "logs"
    (log,) = folder.glob("run-*.log")
    workers = list(folder.glob("worker-*.log"))
    assert len(workers) >= 2
    for path in (log, *workers):
        assert all(re.match(LINE, line) for line in path.read_text().splitlines()), path
    assert "model: demo" in log.read_text()
    assert all(worker.stem in log.read_text() for worker in workers)
    assert all(" making demo/conv" in worker.read_text() for worker in workers)
    assert "nothing to remove" in atlas_here("clean", tmp_path)[1]
    os.utime(workers[0], (0, 0))  # as old as an earlier run
    assert "logs and files of workers" in atlas_here("clean", tmp_path, "yes")[1]
    assert not workers[0].exists()
    assert workers[1].exists()


def test_how_a_run_was_broken_off_stands_in_its_log(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), run_log(tmp_path):
        raise KeyboardInterrupt
    (path,) = tmp_path.iterdir()
    assert re.match(rf"{LINE}the run ended by KeyboardInterrupt", path.read_text())
    assert "in test_how_a_run" in path.read_text()


def test_the_logs_of_a_thousand_runs_are_bounded(tmp_path: Path) -> None:
    for number in range(1000):
        for name in (f"run-20260101-{number:06}.log", f"worker-{number:08}.log"):
            (tmp_path / name).write_text("said")
            os.utime(tmp_path / name, (number, number))
    remove_old_logs(tmp_path, needed={"worker-00000003.log"})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names[:KEPT_RUNS] == [f"run-20260101-{n:06}.log" for n in range(1000 - KEPT_RUNS, 1000)]
    assert names[KEPT_RUNS] == "worker-00000003.log"
    assert len(names) == KEPT_RUNS + 1 + KEPT_WORKERS


def test_one_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "RUN_LOG_BYTES", 2000)
    with run_log(tmp_path):
        for number in range(1000):
            logger.warning("corrupt file %d", number)
    paths = list(tmp_path.iterdir())
    assert len(paths) == 2
    assert sum(path.stat().st_size for path in paths) <= 2 * 2000
    assert any("corrupt file 999" in path.read_text() for path in paths)
    assert set(latest_logs(tmp_path)) == set(paths)


def test_a_full_disk_behind_the_log_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logs.time, "strftime", lambda *_: "full")
    (tmp_path / "full").symlink_to("/dev/full")
    with run_log(tmp_path):
        logger.warning("corrupt file")
    assert capsys.readouterr().err == ""


def test_what_went_wrong_is_the_end_of_a_log_without_its_routine() -> None:
    text = (
        "2026-01-01 00:00:00 DEBUG layer_atlas.sweep.worker: making a\n"
        "Killed\n"
        "2026-01-01 00:00:01 INFO layer_atlas.sweep.worker: made a\n"
    )
    assert without_routine(text) == "Killed"
