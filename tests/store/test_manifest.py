"""The manifest of a real run tells where its time went."""

import json
from pathlib import Path

import pytest
from runs import TINY, atlas, atlas_here


@pytest.mark.slow
def test_a_run_tells_what_share_of_it_each_device_computed(tmp_path: Path) -> None:
    code, said = atlas("run", tmp_path, *TINY, "layers=[conv1]", "channels='0:16'")
    assert code == 0, said
    timings = json.loads((tmp_path / "demo" / "manifest.json").read_text())["timings"]
    parts = timings["planning"] + timings["optimization"] + timings["collating"]
    assert 0 < parts <= timings["total"] + 0.01
    (cpu,) = timings["devices"].values()
    assert (cpu["slots"], cpu["workers"]) == (2, 2)
    assert 0 < cpu["busy"] <= cpu["alive"] <= 2 * timings["total"]
    assert cpu["busy_share"] == pytest.approx(cpu["busy"] / (2 * timings["total"]), abs=1e-3)
    assert f"devices busy {100 * cpu['busy_share']:.0f} % of it" in said
    code, said = atlas_here("run", tmp_path, *TINY, "layers=[conv1]", "channels='0:16'")
    assert "devices busy" not in said, "nothing was computed"
