"""Progress: a line every few seconds where there is no terminal, a bar where there is one."""

import os
import re
import subprocess
import sys

import pytest

from layer_atlas.sweep import progress
from layer_atlas.sweep.progress import Bar

LINE = re.compile(
    r"(\d+)/312 channels, ([\d.]+)/s, (.+) elapsed, (.+) left, devices busy (\d+) %\n"
)


def test_a_log_gets_plain_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with Bar(312, 0, "channels", ["cpu", "cpu"]) as bar:
        now = 101.0
        bar(3.0, 0.5)  # too early for a line
        now = 121.0
        bar(42.0, 21.0)
    (line,) = capsys.readouterr().err.splitlines(keepends=True)
    told = LINE.fullmatch(line)
    assert told is not None, line
    assert told.groups()[0] == "42"
    assert told.groups()[-1] == "50"


def test_workers_of_an_earlier_run_are_busy_all_the_time_at_most() -> None:
    with Bar(312, 0, "channels", ["cpu"]) as bar:
        assert bar._share(1e9) == "busy 100 %"


def test_what_is_done_already_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar(12, 300, "channels", ["cpu"]), Bar(0, 312, "channels", ["cpu"]):
        pass
    assert capsys.readouterr().err == "300 of 312 channels are done already\n"


SHOW = """
import os, time
from layer_atlas.sweep.progress import Bar
os.system("stty rows 40 cols 110")
with Bar(10, 0, "channels", ["cpu", "cpu"]) as bar:
    for i in range(1, 6):
        time.sleep(0.2)
        bar(2 * i, 0.4 * i)
"""


def test_a_terminal_gets_a_bar() -> None:
    import pty

    main, terminal = pty.openpty()
    shown = subprocess.Popen(
        [sys.executable, "-c", SHOW], stdin=terminal, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    text = b""
    while True:
        try:
            text += os.read(main, 4096)
        except OSError:  # how Linux tells that nobody writes any more
            break
    assert shown.wait() == 0
    last = text.decode().split("\r")[-2]
    assert re.search(r"2 x cpu, busy .*█.* 10/10 \[.*channels/s\]", last), last
