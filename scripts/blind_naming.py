"""Blind naming: can a viewer who sees nothing else name the class of each image?

    python scripts/blind_naming.py make judged/images/standard/output --names names.txt --out blind/
    python scripts/blind_naming.py score blind/key.json answers.txt

`make` takes a folder of images or the output folder of a sweep. It writes `sheet.png`, whose tiles
are numbered in a shuffled order and not labelled; `names.txt`, the names in another shuffled order;
and `key.json`. The viewer gets the sheet and the names, and writes a line `NUMBER NAME` per tile.
`score` counts the right ones, with the 95 % interval of a binomial fraction.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The script also runs where the package is not installed.
sys.path.insert(0, str(ROOT / "pipeline"))

import numpy as np  # noqa: E402
from judges.naming import count_right, read_answers, shuffled, wilson_interval  # noqa: E402
from judges.sheets import numbered_tiles  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from PIL import Image  # noqa: E402

from layer_atlas.atlas.reader import open_atlas  # noqa: E402
from layer_atlas.datasets.sources import SUFFIXES  # noqa: E402
from layer_atlas.errors import EXIT_OK, EXIT_USER_ERROR, UserError  # noqa: E402

Named = dict[str, NDArray[np.uint8]]
"""Images (H, W, 3) by the names of their classes."""


def main(argv: Sequence[str] | None = None) -> int:
    args = _arguments(argv)
    try:
        _make(args) if args.command == "make" else _score(args.key, args.answers)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return EXIT_OK


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="write the sheet, the names and the key")
    add = make.add_argument
    add("source", type=Path, help="folder of images, output folder of a sweep, or atlas.h5")
    add("--layer", help="layer of the atlas, as model/layer; default: the only one")
    add("--names", type=Path, help="text file with a class name per line, for numbered images")
    add("--seed", type=int, default=0)
    add("--tile", type=int, default=160, help="side of a tile in pixels")
    add("--columns", type=int, default=4)
    add("--out", type=Path, required=True)
    score = commands.add_parser("score", help="count the right answers")
    score.add_argument("key", type=Path)
    score.add_argument("answers", type=Path)
    return parser.parse_args(argv)


# --- make ----------------------------------------------------------------------------------------


def _make(args: argparse.Namespace) -> None:
    names = _lines(args.names) if args.names else None
    is_atlas = args.source.suffix == ".h5" or (args.source / "atlas.h5").is_file()
    named = _of_atlas(args, names) if is_atlas else _of_folder(args.source, names)
    if len(named) < 2:
        raise UserError(f"{str(args.source)!r} has {len(named)} named images; two are the least.")
    order, listed = shuffled(list(named), args.seed)
    tiles = [list(named)[number] for number in order]
    sheet = numbered_tiles([named[name] for name in tiles], args.tile, args.columns)
    args.out.mkdir(parents=True, exist_ok=True)
    sheet.save(args.out / "sheet.png")
    (args.out / "names.txt").write_text("\n".join(listed) + "\n", "utf-8")
    key = {"seed": args.seed, "tiles": {number + 1: name for number, name in enumerate(tiles)}}
    (args.out / "key.json").write_text(json.dumps(key, indent=1) + "\n", "utf-8")
    print(f"wrote sheet.png, names.txt and key.json of {len(tiles)} tiles to {args.out}")


def _of_folder(folder: Path, names: list[str] | None) -> Named:
    """Read the images of a folder, whose file names are class names or class indices."""
    if not folder.is_dir():
        raise UserError(f"{str(folder)!r} is no folder of images, and no atlas.")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    images = {}
    for path in paths:
        with Image.open(path) as image:
            images[path.stem] = np.array(image.convert("RGB"))
    return _renamed(images, names)


def _of_atlas(args: argparse.Namespace, names: list[str] | None) -> Named:
    with open_atlas(args.source) as atlas:
        if args.layer is None and len(atlas) > 1:
            raise UserError(f"--layer is missing; choose from: {', '.join(atlas)}.")
        layer = atlas[args.layer or next(iter(atlas))]
        numbered = {str(channel): layer.pixels(channel) for channel in layer.channels}
        own = dict(zip(numbered, layer.channel_names, strict=False))
        if names is None and own:
            return _unique((own[number], image) for number, image in numbered.items())
        return _renamed(numbered, names)


def _renamed(images: Named, names: list[str] | None) -> Named:
    """Name images whose names are class indices; raises UserError where that is impossible."""
    if names is None:
        if any(name.isdecimal() for name in images):
            raise UserError("the images have numbers for names; give their classes: --names FILE.")
        return images
    wrong = [name for name in images if not (name.isdecimal() and int(name) < len(names))]
    if wrong:
        raise UserError(f"image {wrong[0]!r} is no class index below {len(names)}, as --names has.")
    return _unique((names[int(number)], image) for number, image in images.items())


def _unique(pairs: Iterable[tuple[str, NDArray[np.uint8]]]) -> Named:
    named: Named = {}
    for name, image in pairs:
        # ImageNet has two classes called "crane", which no viewer can tell apart by name.
        if name in named:
            raise UserError(f"two images are of classes called {name!r}; exclude one of them.")
        named[name] = image
    return named


def _lines(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"{str(file)!r} cannot be read ({error}); give a text file.") from error


# --- score ---------------------------------------------------------------------------------------


def _score(key_file: Path, answers_file: Path) -> None:
    try:
        tiles = json.loads(key_file.read_text("utf-8"))["tiles"]
        key = {int(number): str(name) for number, name in tiles.items()}
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise UserError(f"{str(key_file)!r} is no key that `make` wrote ({error}).") from error
    answers = read_answers("\n".join(_lines(answers_file)), list(key.values()))
    right = count_right(key, answers)
    low, high = wilson_interval(right, len(key))
    print(f"{right} of {len(key)} right: {right / len(key):.2f} (95 %: {low:.2f} to {high:.2f})")


if __name__ == "__main__":
    sys.exit(main())
