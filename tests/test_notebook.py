"""The example notebooks run from their first cell to their last."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from runs import run_here

DOCS = Path(__file__).parents[1] / "docs"


def executed(name: str, folder: Path) -> nbformat.NotebookNode:
    """A notebook of the documentation, run in a folder; it is stored without outputs."""
    book = nbformat.read(DOCS / name, as_version=4)
    assert all(not cell.get("outputs") for cell in book.cells)
    NotebookClient(book, timeout=300, resources={"metadata": {"path": folder}}).execute()
    return book


def outputs(book: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [out for cell in book.cells for out in cell.get("outputs", ())]


@pytest.mark.slow
def test_the_first_notebook_visualizes_a_network_in_five_lines(tmp_path: Path) -> None:
    book = executed("own_network.ipynb", tmp_path)
    _, first, *_ = (cell for cell in book.cells if cell.cell_type == "code")
    assert len(first.source.replace("\n\n", "\n").splitlines()) <= 5
    (sheet,) = (out.data["text/html"] for out in first.outputs if "data" in out)
    assert sheet.count("data:image/png;base64,") == 16
    said = "".join(out.text for out in first.outputs if out.get("name") == "stderr")
    assert said.startswith("checking: Sequential")
    assert "16/16 channels [" in said  # a bar
    assert any("image/png" in out.get("data", ()) for out in outputs(book))
    assert (tmp_path / "outputs" / "mine" / "site" / "index.html").exists()


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
    shown = [
        set(out["data"]) for out in outputs(executed("first_look.ipynb", tmp_path)) if "data" in out
    ]
    assert {"text/html", "text/plain"} in shown  # the atlas, the layer
    assert any("image/png" in kinds for kinds in shown)
