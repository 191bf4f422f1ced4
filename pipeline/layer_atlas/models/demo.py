"""The demo network: a small CNN inside the package, so that a first atlas needs no download.

It classifies procedurally drawn textures and shapes (`CLASSES`) and was trained from scratch by
`scripts/train_demo_model.py`. It has six convolutions with 312 channels in total and costs 25
million multiply-adds for an image of 96 px.
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


class ConvReLU(nn.Conv2d):
    """A convolution with its ReLU, so that the layer's output is the input of the next layer.

    The mean of a bare first convolution is linear in the image: its atlas would show flat colours.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Maps (B, C, H, W) -> maps (B, K, H', W'), non-negative."""
        return torch.relu(super().forward(input))


class DemoNet(nn.Module):
    """RGB images in [0, 1], normalized by `MEAN` and `STD`, (B, 3, H, W) -> logits (B, 40).

    The training script folds batch norm into the convolutions. Pooling averages: max pooling passes
    gradients to single pixels only and leaves a grid in images of gradient ascent.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ConvReLU(3, 24, 7, stride=2, padding=3)
        self.pool1 = nn.AvgPool2d(3, stride=2, padding=1)
        self.conv2 = ConvReLU(24, 40, 3, padding=1)
        self.pool2 = nn.AvgPool2d(3, stride=2, padding=1)
        self.conv3 = ConvReLU(40, 48, 3, padding=1)
        self.conv4 = ConvReLU(48, 56, 3, padding=1)
        self.conv5 = ConvReLU(56, 64, 3, padding=1)
        self.pool5 = nn.AvgPool2d(3, stride=2, padding=1)
        self.conv6 = ConvReLU(64, 80, 3, padding=1)
        self.classify = nn.Linear(80, len(CLASSES))

    def features(self, x: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> the classifier's input (B, 80): mean `conv6`."""
        x = self.pool1(self.conv1(x))
        x = self.pool2(self.conv2(x))
        x = self.conv4(self.conv3(x))
        x = self.pool5(self.conv5(x))
        return torch.mean(self.conv6(x), dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> logits (B, 40)."""
        logits: Tensor = self.classify(self.features(x))
        return logits


def demo_network() -> DemoNet:
    """Load the trained network from the package's own weights, in fp32 and eval mode."""
    with as_file(files("layer_atlas") / "data" / "demo.safetensors") as path:
        weights = load_file(path)
    network = DemoNet()
    # The file stores fp16 to keep the package small.
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return network.eval()
