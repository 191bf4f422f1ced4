"""The example notebook runs from its first cell to its last."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from runs import run_here

NOTEBOOK = Path(__file__).parents[1] / "docs" / "first_look.ipynb"


def test_the_example_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        run_here(
            tmp_path / "outputs",
            "image_size=16",
            "layers=[conv3]",
            "optimizer.steps=2",
            "optimizer.leaky_steps=1",
        )
        == 0
    )
    book = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in book.cells)
    NotebookClient(book, timeout=120, resources={"metadata": {"path": tmp_path}}).execute()
    shown = [
        set(out["data"]) for cell in book.cells for out in cell.get("outputs", ()) if "data" in out
    ]
    assert {"text/html", "text/plain"} in shown  # the atlas, the layer
    assert any("image/png" in kinds for kinds in shown)
