"""What tests share: an output folder of their own, a Slurm, and word of what was not tested."""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from mini_slurm import MiniSlurm, mini_slurm

from layer_atlas import logs
from layer_atlas.store.folder import OutputFolder


@pytest.fixture
def folder(tmp_path: Path) -> OutputFolder:
    return OutputFolder(tmp_path / "atlas")


@pytest.fixture(scope="session", autouse=True)
def no_cache() -> Iterator[None]:
    """No answer of one test is that of another, nor of the user's own sweeps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAYER_ATLAS_CACHE", "")
        yield


@pytest.fixture
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of inspections of the test's own; returns the folder of its files."""
    monkeypatch.setenv("LAYER_ATLAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "inspections"


@pytest.fixture(scope="session", autouse=True)
def quiet_steps() -> Iterator[None]:
    """Steps that take longer than two seconds are named; on a busy machine that may be any step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "_SILENT_SECONDS", 1e6)
        yield


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MiniSlurm]:
    """A real Slurm of one node, for all tests of this process."""
    with mini_slurm(tmp_path_factory.mktemp("slurm") / "mini") as running:
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape lone surrogates of hostile names in captured logs: xdist sends reports as UTF-8."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly what could not be tested on this machine though it should be."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = [
        str(report.longrepr[2]) for report in skipped if "NOT TESTED" in str(report.longrepr)
    ]
    if reasons:
        terminalreporter.section("NOT TESTED", red=True, bold=True)
        for reason in sorted(set(reasons)):
            terminalreporter.line(f"{reasons.count(reason)} tests: {reason}", red=True, bold=True)
