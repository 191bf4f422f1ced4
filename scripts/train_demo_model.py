"""Train the demo network from nothing on drawn textures and write the weights of the package.

    python scripts/train_demo_model.py --preview textures.png

Everything follows from the seed: the drawings, the first weights, the order of the batches. It
takes about a quarter of an hour on two CPU cores; no file is read and nothing is downloaded.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from demo_textures import SIZE, TEXTURES, Batch, draw, draw_class
from PIL import Image, ImageDraw
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

ROOT = Path(__file__).resolve().parents[1]
# The script also runs where the package is not installed.
sys.path.insert(0, str(ROOT / "pipeline"))

from layer_atlas.models.demo import CLASSES, MEAN, STD, DemoNet  # noqa: E402

# Lightness, red against blue, green against magenta: the axes of natural colours, most of which is
# lightness. Training sees all three alike, or else every channel would go for black and white.
COLOUR_AXES = torch.tensor([[1.0, 1.0, 1.0], [2.5, 0.0, -2.5], [-2.8, 5.6, -2.8]])
COLOUR_AXES /= torch.tensor([3.0, 2.0, 3.0]).sqrt().view(3, 1)
BLOCK = 16  # samples of each class in a block of drawings
HELD_OUT = 2**20  # added to the seed for samples that training never saw


@dataclass(frozen=True)
class Settings:
    """How the network is trained."""

    seed: int = 0
    blocks: int = 240
    "blocks of drawings, each with `BLOCK` samples of every class"
    batch: int = 64
    replays: int = 2
    "updates per batch; all but the first on samples that are pushed up the loss"
    push: float = 1.25
    "L2 length of one such push, in units of an image in [0, 1]; 1.25 moves a value by 0.008 (rms)"
    learning_rate: float = 0.08
    weight_decay: float = 1e-3
    smoothing: float = 0.05
    colour_weight: float = 5.0
    "weight of an auxiliary task: tell the mean colours of paper and ink"


class Drawings(Dataset[Batch]):
    """Blocks of fresh samples; block k depends on the seed and on k, whichever process draws it."""

    def __init__(self, seed: int, blocks: int) -> None:
        self.seed, self.blocks = seed, blocks

    def __len__(self) -> int:
        return self.blocks

    def __getitem__(self, k: int) -> Batch:
        return draw(BLOCK, torch.Generator().manual_seed(self.seed * 2**24 + k))


class Trainee(DemoNet):
    """The network as it is trained: with batch norm after each convolution, and a colour head."""

    def __init__(self) -> None:
        super().__init__()
        for name, conv in convolutions(self):
            layer = nn.Sequential(bare(conv), nn.BatchNorm2d(conv.out_channels), nn.ReLU())
            setattr(self, name, layer)
        self.dropout = nn.Dropout(0.1)
        self.colour = nn.Linear(self.classify.in_features, 4)
        smooth_(self.first_kernels())
        centre_(self.first_kernels())

    def first_kernels(self) -> nn.Parameter:
        """The kernels of `conv1`, (24,3,7,7)."""
        return next(self.conv1.parameters())

    def both(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images in [0, 1] -> logits (B,40) and opponent colours (B,4)."""
        seen = torch.einsum("ij,bjhw->bihw", COLOUR_AXES, normalise(images))
        found = self.dropout(self.features(seen.contiguous(memory_format=torch.channels_last)))
        return self.classify(found), self.colour(found)

    def folded(self) -> DemoNet:
        """The same function of the images, in eval mode, with convolutions alone."""
        plain = DemoNet()
        plain.classify = self.classify
        for name, _ in convolutions(plain):
            conv, norm, _ = getattr(self, name)
            fused = nn.utils.fuse_conv_bn_eval(conv.eval(), norm.eval())
            getattr(plain, name).load_state_dict(fused.state_dict())
        kernels = plain.conv1.weight.data
        plain.conv1.weight.data = torch.einsum("oihw,ij->ojhw", kernels, COLOUR_AXES)
        return plain.eval()


def convolutions(network: nn.Module) -> list[tuple[str, nn.Conv2d]]:
    return [(name, m) for name, m in network.named_children() if isinstance(m, nn.Conv2d)]


def bare(conv: nn.Conv2d) -> nn.Conv2d:
    """The same convolution without the ReLU that it holds in `DemoNet`."""
    plain = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding
    )
    plain.load_state_dict(conv.state_dict())
    return plain


@torch.no_grad()
def smooth_(kernels: Tensor) -> None:
    """Blur random kernels (O,I,7,7) in place, lest pixel noise outlive the training."""
    blurred = F.avg_pool2d(F.avg_pool2d(kernels, 3, 1, 1), 3, 1, 1)
    kernels.copy_(blurred * (kernels.std() / blurred.std()))


@torch.no_grad()
def centre_(kernels: Tensor) -> None:
    """Make the lightness part of each kernel (O,3,H,W) sum to zero, in place.

    The brightness of plain areas then counts for nothing, in any layer, and ascending a channel
    never ends in plain white or black.
    """
    kernels[:, 0] -= kernels[:, 0].mean((1, 2), keepdim=True)


def opponent(colours: Tensor) -> Tensor:
    """RGB of paper and ink (B,6) -> for each, red against green and yellow against blue, (B,4)."""
    red, green, blue = colours.view(-1, 2, 3).unbind(2)
    return torch.cat((red - green, (red + green) / 2 - blue), 1)


def normalise(images: Tensor) -> Tensor:
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    normalized: Tensor = (images - mean) / std
    return normalized.contiguous(memory_format=torch.channels_last)


def minibatches(settings: Settings) -> Iterator[Batch]:
    """The drawn blocks cut into batches; one process draws while another trains."""
    drawings = Drawings(settings.seed, settings.blocks)
    for block in DataLoader(drawings, batch_size=None, num_workers=1, prefetch_factor=4):
        pieces = (part.split(settings.batch) for part in block)
        yield from (Batch(*piece) for piece in zip(*pieces, strict=True))


def pushed(images: Tensor, length: float) -> Tensor:
    """The images moved by `length` (L2, each sample) along their gradient, within [0, 1]."""
    assert images.grad is not None
    across = torch.linalg.inv(COLOUR_AXES)
    optimized = torch.einsum("ij,bjhw->bihw", across @ across.T, images.grad)
    norm = torch.linalg.vector_norm(optimized, dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)
    return torch.clamp(images.detach() + length * optimized / norm, 0, 1)


def optimization(
    network: nn.Module, settings: Settings, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Descent with momentum; its rate rises for 15 % of the steps, then falls to nothing."""
    # Decay for kernels alone: a decayed scale of a batch norm would silence channels.
    kernels = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim == 1]
    groups: list[dict[str, Any]] = [
        {"params": kernels, "weight_decay": settings.weight_decay},
        {"params": others},
    ]
    optimizer = torch.optim.SGD(groups, 0.0, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        settings.learning_rate,
        total_steps=steps + 1,
        pct_start=0.15,
        cycle_momentum=False,
    )
    return optimizer, schedule


def train(settings: Settings) -> Trainee:
    """Train with "free" adversarial examples: every batch serves for several updates, each harder.

    The gradient that updates the weights also pushes the images up the loss for the next update.
    Networks trained this way rest on shapes rather than on fine noise, so that their feature
    visualizations are clean.
    """
    torch.manual_seed(settings.seed)
    network = Trainee().to(memory_format=torch.channels_last).train()
    steps = settings.blocks * (BLOCK * len(CLASSES) // settings.batch) * settings.replays
    optimizer, schedule = optimization(network, settings, steps)
    started, right = time.perf_counter(), 0.0
    for count, batch in enumerate(minibatches(settings), start=1):
        images = batch.images
        push = settings.push * min(1.0, 2 * (count - 1) * settings.replays / steps)
        for replay in range(settings.replays):
            images = images.detach().requires_grad_()
            logits, colours = network.both(images)
            naming = F.cross_entropy(logits, batch.labels, label_smoothing=settings.smoothing)
            colouring = F.mse_loss(colours, opponent(batch.colours))
            optimizer.zero_grad()
            torch.autograd.backward(naming + settings.colour_weight * colouring)
            optimizer.step()
            centre_(network.first_kernels())
            schedule.step()
            if replay == 0:
                right += 0.02 * ((logits.argmax(1) == batch.labels).float().mean().item() - right)
            images = pushed(images, push)
        if count % 200 == 0:
            done, spent = count * settings.replays, time.perf_counter() - started
            print(f"{done:6d} of {steps} steps  {spent:5.0f} s  {right:6.1%}", flush=True)
    return network


@torch.inference_mode()
def accuracy(network: DemoNet, seed: int, blocks: int) -> Tensor:
    """Fraction of fresh samples named rightly, one number per class, (40,)."""
    right = torch.zeros(len(CLASSES))
    for block in DataLoader(Drawings(seed, blocks), batch_size=None, num_workers=1):
        hits = network(normalise(block.images)).argmax(1) == block.labels
        right += torch.bincount(block.labels[hits], minlength=len(CLASSES))
    return right / (BLOCK * blocks)


@torch.inference_mode()
def silent_channels(network: DemoNet, seed: int) -> list[str]:
    """Channels that no place of any fresh sample excites: there should be none."""
    peaks: dict[str, Tensor] = {}

    def note(name: str, output: Tensor) -> None:
        peaks[name] = output.amax((0, 2, 3))

    hooks = [
        conv.register_forward_hook(lambda _m, _i, output, name=name: note(name, output))
        for name, conv in convolutions(network)
    ]
    try:
        network(normalise(Drawings(seed, 1)[0].images))
    finally:
        for hook in hooks:
            hook.remove()
    return [f"{name}:{int(c)}" for name, peak in peaks.items() for c in (peak <= 0).nonzero()]


def contact_sheet(seed: int, columns: int = 12) -> Image.Image:
    """A row of samples for every class, in two blocks side by side, each row under its name."""
    generator = torch.Generator().manual_seed(seed)
    rows, height, width = -(-len(CLASSES) // 2), SIZE + 18, columns * (SIZE + 2) + 14
    sheet = Image.new("RGB", (2 * width, rows * height), "white")
    pen = ImageDraw.Draw(sheet)
    for k, name in enumerate(TEXTURES):
        left, top = k // rows * width, k % rows * height
        pen.text((left + 2, top + 2), name, fill="black")
        images, _ = draw_class(name, columns, generator)
        for j, pixels in enumerate((images * 255).round().byte().permute(0, 2, 3, 1).numpy()):
            sheet.paste(Image.fromarray(pixels), (left + j * (SIZE + 2), top + 16))
    return sheet


def save(network: DemoNet, path: Path, facts: dict[str, str]) -> None:
    """Weights in half precision, with the facts beside them in the file's own metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.half().contiguous() for name, tensor in network.state_dict().items()}
    path.write_bytes(to_bytes(weights, metadata=facts))


def rounded(network: DemoNet) -> DemoNet:
    """The network with its weights as they will be read back from half precision."""
    network.load_state_dict({k: t.half().float() for k, t in network.state_dict().items()})
    return network


def report(scores: Tensor, silent: list[str]) -> None:
    """Print accuracy per class, worst first, then over all."""
    for name, score in sorted(zip(CLASSES, scores.tolist(), strict=True), key=lambda row: row[1]):
        print(f"{score:7.1%}  {name}")
    print(f"{scores.mean():7.1%}  all; silent channels: {', '.join(silent) or 'none'}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    weights = ROOT / "pipeline" / "layer_atlas" / "data" / "demo.safetensors"
    add("--out", type=Path, default=weights, help="weights file (default: the package's own)")
    add("--seed", type=int, default=Settings.seed, help="default: %(default)s")
    per_block = f"blocks of {BLOCK * len(CLASSES)} samples"
    add("--blocks", type=int, default=Settings.blocks, help=f"{per_block} to learn (%(default)s)")
    add("--held-out", type=int, default=10, help=f"{per_block} to evaluate on (%(default)s)")
    add("--threads", type=int, default=2, help="CPU threads (%(default)s)")
    add("--preview", type=Path, metavar="PNG", help="also draw samples of every class, here")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if tuple(TEXTURES) != CLASSES:
        raise SystemExit("demo_textures.TEXTURES and layer_atlas.models.demo.CLASSES differ")
    torch.set_num_threads(args.threads)
    if args.preview:
        contact_sheet(args.seed).save(args.preview)
    started = time.perf_counter()
    network = rounded(train(Settings(seed=args.seed, blocks=args.blocks)).folded())
    seconds = time.perf_counter() - started
    scores = accuracy(network, args.seed + HELD_OUT, args.held_out)
    report(scores, silent_channels(network, args.seed + HELD_OUT))
    per_block = BLOCK * len(CLASSES)
    facts = {
        "accuracy": f"{scores.mean():.4f}",
        "held_out_samples": str(args.held_out * per_block),
        "training_samples": str(args.blocks * per_block),
        "training_seconds": f"{seconds:.0f}",
        "seed": str(args.seed),
        "classes": ",".join(CLASSES),
        "torch": torch.__version__,
    }
    save(network, args.out, facts)


if __name__ == "__main__":
    main()
