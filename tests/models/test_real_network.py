"""The pipeline on a network of the real world: SqueezeNet 1.1 with ImageNet weights.

Skipped where the weights are not at hand; LAYER_ATLAS_SHARED names the folder that holds them.
"""

import os
from pathlib import Path

import h5py
import pytest
from runs import atlas

SHARED = Path(os.environ.get("LAYER_ATLAS_SHARED", Path(__file__).parents[3] / "shared"))
WEIGHTS = SHARED / "weights" / "squeezenet1_1_imagenet_features.safetensors"


@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS.exists(), reason=f"no weights at {WEIGHTS}")
def test_no_channel_of_a_deep_layer_stays_dead(tmp_path: Path) -> None:
    overrides = ("models=[squeezenet1_1]", f"weights={WEIGHTS}", "layers=[features.12]")
    size = ("channels='0:512:64'", "quality=draft", "image_size=96", "executor.devices=[cpu]")
    code, said = atlas("run", tmp_path, *overrides, *size, "name=sq")
    assert code == 0, said
    assert "8 images: 8 ok" in said
    with h5py.File(tmp_path / "sq" / "atlas.h5") as file:
        layer = file["squeezenet1_1/features.12"]
        assert (layer["activation_robust"][:] > 20).all()
        own = layer["response"][:][range(8), 0, layer["channel"][:]]
        assert (own > 3 * layer["response"][:].mean(axis=(1, 2))).all()
