"""Progress: a line every few seconds where there is no terminal, a bar where there is one."""

import logging
import os
import re
import subprocess
import sys

import pytest

from layer_atlas.sweep import monitor
from layer_atlas.sweep.monitor import Bar

LINE = re.compile(
    r"images: (\d+)/312 channels, ([\d.]+)/s, (.+) elapsed, (.+) left, devices busy (\d+) %"
)


def test_a_log_gets_plain_lines(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    now = 100.0
    monkeypatch.setattr(monitor.time, "monotonic", lambda: now)
    with Bar("images", 312, 0, "channels", ["cpu", "cpu"]) as bar:
        now = 101.0
        bar(3.0, 0.5)  # too early for a line
        now = 121.0
        bar(42.0, 21.0)
    (line,) = caplog.messages
    told = LINE.fullmatch(line)
    assert told is not None, line
    assert told.groups()[0] == "42"
    assert told.groups()[-1] == "50"


def test_the_time_left_is_the_estimate_until_something_is_finished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(monitor.time, "monotonic", lambda: now)
    with Bar("images", 10, 0, "channels", ["cpu"], expected=60.0) as bar:
        now = 120.0
        assert bar._left(0.0) == 60.0
        assert bar._left(5.0) == (20.0 + 30.0) / 2  # half by the rate, half by the estimate
        assert bar._left(10.0) == 0.0
        now = 180.0
        assert bar._left(0.0) == 80.0, "the estimate was too short"


def test_the_first_unit_does_not_decide_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(monitor.time, "monotonic", lambda: now)
    with Bar("images", 432, 0, "channels", ["cpu"], expected=42.0) as bar:
        now = 112.0  # of which the worker took 11 to start
        assert 30.0 < bar._left(2.0) < 60.0


def test_without_an_estimate_the_rate_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(monitor.time, "monotonic", lambda: now)
    with Bar("images", 10, 0, "channels", ["cpu"]) as bar:
        now = 120.0
        assert bar._left(0.0) == float("inf")
        assert bar._left(5.0) == 20.0


def test_workers_of_an_earlier_run_are_busy_all_the_time_at_most() -> None:
    with Bar("images", 312, 0, "channels", ["cpu"]) as bar:
        assert bar._share(1e9) == "busy 100 %"


def test_what_is_done_already_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Bar("images", 12, 300, "channels", ["cpu"]), Bar("images", 0, 312, "channels", ["cpu"]):
        pass
    assert caplog.messages == ["300 of 312 channels are done already"]


SHOW = """
import logging, os, sys, time
from layer_atlas.logs import terminal_logging
from layer_atlas.sweep.monitor import Bar
os.system("stty rows 40 cols 110")
with terminal_logging(sys.argv[1]), Bar("images", 10, 0, "channels", ["cpu", "cpu"]) as bar:
    for i in range(1, 6):
        time.sleep(0.2)
        logging.getLogger("layer_atlas.test").warning("shard %d is corrupt", i)
        bar(2 * i, 0.4 * i)
"""


def on_a_terminal(level: str) -> str:
    """What a terminal receives of a sweep with a warning per step."""
    import pty

    main, terminal = pty.openpty()
    shown = subprocess.Popen(
        [sys.executable, "-c", SHOW, level], stdin=terminal, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    text = b""
    while True:
        try:
            text += os.read(main, 4096)
        except OSError:  # how Linux tells that nobody writes any more
            break
    assert shown.wait() == 0
    return text.decode()


BAR = r"images on 2 x cpu .*█.* 10/10 channels \[.*, 0 s left, busy \d+ %\]"


@pytest.mark.slow
def test_a_terminal_gets_a_bar() -> None:
    last = on_a_terminal("info").split("\r")[-2]
    assert re.search(BAR, last), last


@pytest.mark.slow
def test_bar_and_log_lines_do_not_tear_each_other() -> None:
    # Everything from a line's beginning to its end is either the bar or a record.
    rows = [row for line in on_a_terminal("info").split("\n") for row in line.split("\r") if row]
    records = [row for row in rows if "corrupt" in row]
    assert records == [f"warning: shard {i} is corrupt" for i in range(1, 6)]


@pytest.mark.slow
def test_a_quiet_terminal_gets_warnings_and_no_bar() -> None:
    rows = on_a_terminal("warning").splitlines()
    assert rows == [f"warning: shard {i} is corrupt" for i in range(1, 6)]
