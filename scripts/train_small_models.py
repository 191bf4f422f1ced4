"""Train small networks of other kinds on the drawings of the demo network, to judge recipes on.

    python scripts/train_small_models.py --network vit --seed 1 --out vit.safetensors
    python scripts/train_small_models.py --network cifar --seed 2 --out cifar.safetensors
    python scripts/train_small_models.py --drawings drawings/

`vit` is a small vision transformer of timm for images of 96 px, `cifar` a residual network for
images of 32 px, as networks for CIFAR are. Both are trained without adversarial examples, unlike
the demo network: nothing about them is made for feature visualization. `--drawings` writes
held-out drawings and `classes.json`, for `--photos` and `--classes` of `judge_recipes.py`, whose
`--model` is then `{name: vit, target: train_small_models.vit, mean: [0.5, 0.5, 0.5],
std: [0.25, 0.25, 0.25], input_size: 96}` (`cifar`: 32) with `--weights vit.safetensors`.

Everything follows from the seed. Training takes minutes on one core, and drawing half of another.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from demo_textures import SIZE, draw
from PIL import Image
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from train_demo_model import BLOCK, HELD_OUT, Drawings, Settings, normalise

from layer_atlas.models.demo import CLASSES
from layer_atlas.models.pixels import to_bytes

WARM_UP = 0.1
"""Fraction of the updates in which the learning rate rises."""


# --- networks ------------------------------------------------------------------------------------


MEAN_OF_TOKENS: dict[str, Any] = {"class_token": False, "global_pool": "avg"}


class Stem(nn.Sequential):
    """Four convolutions instead of one of the size of a patch, as Xiao et al. 2021: learns faster.

    Arguments are those of the patch embedding of timm.
    """

    def __init__(
        self, img_size: int, patch_size: int, in_chans: int, embed_dim: int, **_: Any
    ) -> None:
        widths = [in_chans, embed_dim // 8, embed_dim // 4, embed_dim // 2, embed_dim]
        convs: list[nn.Module] = []
        for inner, outer in pairwise(widths):
            conv = nn.Conv2d(inner, outer, 3, stride=2, padding=1, bias=False)
            convs += [conv, nn.BatchNorm2d(outer), nn.ReLU()]
        super().__init__(*convs, nn.Flatten(2))
        self.num_patches = (img_size // patch_size) ** 2

    def forward(self, input: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> tokens (B, T, D)."""
        return super().forward(input).transpose(1, 2)


def vit() -> nn.Module:
    """A transformer of four blocks on the mean of 36 tokens, each of 16 px."""
    return VisionTransformer(
        img_size=SIZE,
        patch_size=16,
        embed_dim=128,
        depth=4,
        num_heads=4,
        num_classes=len(CLASSES),
        **MEAN_OF_TOKENS,
        embed_layer=Stem,
    )


class Residual(nn.Module):
    """Two convolutions with batch norm, and a path around both."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.around: nn.Module = nn.Identity()
        if stride != 1:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.around = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) -> maps (B, K, H', W'), non-negative."""
        inner = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(inner + self.around(x))


def cifar() -> nn.Module:
    """A residual network of four blocks, with full resolution in the first."""
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(
        stem,
        *(Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 64, 2), Residual(64, 64, 1)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, len(CLASSES)),
    )


@dataclass(frozen=True)
class Kind:
    """A network that can be trained, and its input."""

    build: Callable[[], nn.Module]
    size: int
    blocks: int
    """Default number of blocks of drawings."""
    epochs: int
    batch: int
    learning_rate: float


KINDS = {"vit": Kind(vit, SIZE, 8, 5, 32, 1e-3), "cifar": Kind(cifar, 32, 8, 6, 32, 5e-3)}


# --- training ------------------------------------------------------------------------------------


def inputs(images: Tensor, size: int) -> Tensor:
    """Images in [0, 1] of the drawings' size -> images of the network's."""
    return F.avg_pool2d(images, SIZE // size)


def drawings(kind: Kind, seed: int, blocks: int) -> tuple[Tensor, Tensor]:
    """Draw images (N, 3, S, S) in uint8, and their classes (N,)."""
    drawn = Drawings(seed, blocks)
    pairs = [(inputs(b.images, kind.size), b.labels) for b in (drawn[k] for k in range(blocks))]
    images, labels = zip(*pairs, strict=True)
    return torch.cat([(part * 255).round().byte() for part in images]), torch.cat(labels)


def shifted(images: Tensor) -> Tensor:
    """Move all images alike by up to an eighth of their side, and repeat what is at the edge."""
    side = images.shape[-1]
    most = side // 8
    top, left = torch.randint(0, 2 * most + 1, (2,)).tolist()
    return F.pad(images, (most,) * 4, mode="replicate")[..., top : top + side, left : left + side]


def train(kind: Kind, settings: Settings) -> nn.Module:
    """Train on the same drawings again and again, by AdamW."""
    torch.manual_seed(settings.seed)
    network = kind.build().train()
    images, labels = drawings(kind, settings.seed, settings.blocks)
    epochs = settings.replays
    steps = epochs * (len(labels) // settings.batch)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=steps + 1, pct_start=WARM_UP
    )
    for epoch in range(epochs):
        started, right, count = time.perf_counter(), 0, steps // epochs
        for rows in torch.randperm(len(labels))[: count * settings.batch].split(settings.batch):
            logits = network(normalise(shifted(images[rows] / 255)))
            optimizer.zero_grad()
            F.cross_entropy(logits, labels[rows], label_smoothing=settings.smoothing).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            right += int((logits.argmax(1) == labels[rows]).sum())
        spent = time.perf_counter() - started
        named = right / (count * settings.batch)
        print(f"epoch {epoch + 1} of {epochs}  {spent:5.0f} s  {named:6.1%}", flush=True)
    return network.eval()


@torch.inference_mode()
def accuracy(network: nn.Module, kind: Kind, seed: int, blocks: int) -> float:
    """Fraction of fresh drawings named rightly."""
    images, labels = drawings(kind, seed, blocks)
    pieces = zip(images.split(64), labels.split(64), strict=True)
    right = sum(int((network(normalise(x / 255)).argmax(1) == y).sum()) for x, y in pieces)
    return right / len(labels)


# --- drawings ------------------------------------------------------------------------------------


def write_drawings(folder: Path, per_class: int, seed: int) -> None:
    """Write drawings in random order, and the class index of each by its file name."""
    batch = draw(per_class, torch.Generator().manual_seed(seed))
    folder.mkdir(parents=True, exist_ok=True)
    classes = {}
    for number, (pixels, label) in enumerate(
        zip(to_bytes(batch.images), batch.labels.tolist(), strict=True)
    ):
        name = f"{number:04}_{CLASSES[label]}.png"
        Image.fromarray(pixels.numpy()).save(folder / name)
        classes[name] = label
    (folder / "classes.json").write_text(json.dumps(classes, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--network", choices=KINDS, help="what to train")
    add("--out", type=Path, help="weights file of the network")
    add("--drawings", type=Path, help="folder for held-out drawings")
    add("--per-class", type=int, default=12, help="drawings of each class (%(default)s)")
    add("--seed", type=int, default=1, help="of weights and drawings (%(default)s)")
    add("--blocks", type=int, help=f"blocks of {BLOCK * len(CLASSES)} drawings to learn")
    args = parser.parse_args()
    if (args.network is None) != (args.out is None) or not (args.out or args.drawings):
        parser.error("give --network with --out, or --drawings")
    return args


def main() -> None:
    args = arguments()
    if args.drawings:
        write_drawings(args.drawings, args.per_class, HELD_OUT)
    if args.network:
        kind = KINDS[args.network]
        settings = Settings(
            seed=args.seed,
            blocks=args.blocks or kind.blocks,
            batch=kind.batch,
            replays=kind.epochs,
            learning_rate=kind.learning_rate,
            weight_decay=0.05,
        )
        started = time.perf_counter()
        network = train(kind, settings)
        seconds = time.perf_counter() - started
        named = accuracy(network, kind, args.seed + HELD_OUT, 2)
        print(f"{named:.1%} of held-out drawings named rightly; {seconds:.0f} s of training")
        args.out.parent.mkdir(parents=True, exist_ok=True)
        facts = {"accuracy": f"{named:.4f}", "seed": str(args.seed), "torch": torch.__version__}
        save_file(network.state_dict(), args.out, facts)


if __name__ == "__main__":
    main()
