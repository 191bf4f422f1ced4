"""Measure the mean spectrum of photographs that the package carries.

    python scripts/measure_spectrum.py FOLDER pipeline/layer_atlas/data/spectrum.safetensors

Each photograph is cut to its middle square, not resized, brought to decorrelated colours before the
sigmoid, scaled to a root mean square of 1 and seen through a Hann window, because the jump from
one border to the opposite one would pass for high frequencies. Means are of logarithms: what the
typical photograph has, not what the strongest have.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from layer_atlas.models.pixels import fixed_contrast, from_colours
from layer_atlas.visualization.spectrum import polar_mean

SIDE = 224
FINE = 896
"""The window is padded to this size, so that the spectrum is known between its own frequencies."""


def main() -> None:
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    measured = [spectrum(read(path)) for path in paths]
    log_magnitude = sum(m[0] for m in measured) / len(measured)
    mean = (sum(m[1] for m in measured) / len(measured)).exp()
    grid = polar_mean(log_magnitude)
    save_file({"log_magnitude": grid.float().contiguous(), "mean": mean.float()}, out)
    print(f"{len(paths)} photographs, {out.stat().st_size} bytes")


def read(path: Path) -> Tensor:
    """The middle square of a photograph: (1, 3, SIDE, SIDE) in [0, 1]."""
    with Image.open(path) as image:
        left, top = (image.width - SIDE) // 2, (image.height - SIDE) // 2
        square = image.convert("RGB").crop((left, top, left + SIDE, top + SIDE))
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)[None].float() / 255.0


def spectrum(photograph: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of the magnitudes (3, FINE, FINE // 2 + 1) and of the sizes of the means (3,)."""
    (values,) = fixed_contrast(from_colours(photograph), 1.0).double()
    mean = values.mean((1, 2), keepdim=True)
    window = torch.hann_window(SIDE, dtype=torch.float64)
    window = window[:, None] * window
    seen = (values - mean) * window / window.square().sum().sqrt()
    magnitude = torch.fft.rfft2(seen, s=(FINE, FINE)).abs()
    return magnitude.clamp_min(1e-6).log(), mean.flatten().abs().clamp_min(1e-6).log()


if __name__ == "__main__":
    main()
