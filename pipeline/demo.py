"""The demo network: a small CNN that the package carries, so that a first atlas needs no download.

It names procedurally drawn textures and shapes (`CLASSES`) and was trained from nothing by
`scripts/train_demo_model.py`. It has six convolutions with 312 channels in all, and an image of
96 px costs it 25 million multiply-adds.
"""

from importlib.resources import as_file, files

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

CLASSES = (
    *("stripes_horizontal", "stripes_vertical", "stripes_rising", "stripes_falling"),
    *("waves", "zigzag", "checks", "plaid", "hatching", "weave"),
    *("dots", "bubbles", "rings", "spirals", "sunburst"),
    *("bricks", "scales", "honeycomb", "mosaic", "arcs"),
    *("labyrinth", "spots", "clouds", "marble", "brushed", "rainbow"),
    *("stars", "triangles", "crosses", "hearts", "crescents", "flowers"),
    *("faces", "eyes", "leaves", "letters"),
    *("red_on_green", "green_on_red", "blue_on_yellow", "yellow_on_blue"),
)
MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)
INPUT_SIZE = 96


class DemoNet(nn.Module):
    """RGB images (B,3,H,W), in [0, 1] and then normalised by `MEAN` and `STD` -> logits (B,40).

    There is no batch norm here: the training script folds it into the convolutions, so that the
    output of `conv3`, say, is the very number that its ReLU sees. Pooling averages, because maxima
    pass gradients to single pixels only and leave a grid in images made by gradient ascent. The
    kernels of `conv1` sum to zero, so no channel anywhere asks for plain white or black.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 24, 7, stride=2, padding=3)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.AvgPool2d(3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(24, 40, 3, padding=1)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.AvgPool2d(3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(40, 48, 3, padding=1)
        self.relu3 = nn.ReLU()
        self.conv4 = nn.Conv2d(48, 56, 3, padding=1)
        self.relu4 = nn.ReLU()
        self.conv5 = nn.Conv2d(56, 64, 3, padding=1)
        self.relu5 = nn.ReLU()
        self.pool5 = nn.AvgPool2d(3, stride=2, padding=1)
        self.conv6 = nn.Conv2d(64, 80, 3, padding=1)
        self.relu6 = nn.ReLU()
        self.classify = nn.Linear(80, len(CLASSES))

    def features(self, x: Tensor) -> Tensor:
        """Normalised images (B,3,H,W) -> `relu6` averaged over space, (B,80)."""
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.pool2(self.relu2(self.conv2(x)))
        x = self.relu3(self.conv3(x))
        x = self.relu4(self.conv4(x))
        x = self.pool5(self.relu5(self.conv5(x)))
        return torch.mean(self.relu6(self.conv6(x)), dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B,3,H,W) -> logits (B,40)."""
        logits: Tensor = self.classify(self.features(x))
        return logits


def demo_network() -> DemoNet:
    """The trained network from the package's own weights, in fp32 and eval mode."""
    with as_file(files("pipeline") / "data" / "demo.safetensors") as path:
        weights = load_file(path)
    network = DemoNet()
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return network.eval()
