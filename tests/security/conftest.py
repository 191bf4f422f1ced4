"""What hostile inputs are tested with: little memory, little time, and a file that must not be."""

import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = 512 * 2**20
"""Bytes that a hostile input may take beyond what the process has."""

SECONDS = 60


@pytest.fixture
def bounded() -> Iterator[None]:
    """What asks for much memory gets none, and what takes for ever is broken off."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    previous = signal.signal(signal.SIGALRM, _too_long)
    resource.setrlimit(resource.RLIMIT_AS, (has + MEMORY, hard))
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, previous)


def _too_long(*args: object) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """A file that code of a hostile input would make."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists(), "code from a file was executed"
