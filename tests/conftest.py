"""What all tests share: an output folder of their own."""

from pathlib import Path

import pytest

from pipeline.store import OutputFolder


@pytest.fixture
def folder(tmp_path: Path) -> OutputFolder:
    return OutputFolder(tmp_path / "atlas")
