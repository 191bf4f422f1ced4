"""Make the pictures of the documentation again, each by the command that stands above it.

    python scripts/docs_images.py --photographs FOLDER [--weights FILE] [--only PATTERN]

Reads docs/figures.md and docs/objectives.md: a picture is that of the nearest command above it.
Tables have the same objective in three layers of SqueezeNet, such as `layer12`. `images/site.webp`
is a screenshot of the site of `evidence`, and needs playwright and chromium. Sweeps are kept in
`--work` and resumed, so a changed page costs what is new on it. `--weights` are those of SqueezeNet
1.1, for a machine that cannot download them; `--photographs` are natural images, for prototypes.
"""

import argparse
import io
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import torch
from demo_textures import TEXTURES, draw_class
from PIL import Image, ImageDraw, ImageFilter

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"

FIGURE_DPI = 130
SITE, SITE_CHANNEL, SITE_SIZE = "images/site.webp", "demo/conv6:16", (1200, 760)
QUALITY = 88
TEXTURES_PER_CLASS = 12

_WIDE = {"diversity": 2, "facets": 2, "interpolation": 1}
"""Channels in a row where each has several images; elsewhere four."""
_PICTURE = re.compile(r"!\[[^]]*\]\((images/\S+?)\)")
_IN_TABLE = re.compile(r"(caricature|inversion|layer)(\d+)")
_COMMAND = re.compile(r"^ {4}(\S.*=.*)$", re.MULTILINE)
_FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Picture:
    """A picture of a page and the command above it."""

    path: str
    """Below docs."""
    command: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of its sweep."""
        return Path(self.path).stem


def main() -> None:
    """Make all pictures, or those that a pattern names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photographs", type=Path, required=True, help="folder of natural images")
    parser.add_argument("--weights", type=Path, help="of SqueezeNet 1.1; default: download them")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs/docs", help="of the sweeps")
    parser.add_argument("--only", default="*", help="such as `images/figures/*`")
    given = parser.parse_args()
    studio = Studio(given.work.resolve(), given.photographs.resolve(), given.weights)
    for page, make in (("objectives", studio.montage), ("figures", studio.figure)):
        for picture in pictures(DOCS / f"{page}.md"):
            if fnmatch(picture.path, given.only):
                print(picture.path, shlex.join(picture.command), flush=True)
                make(picture)
    if fnmatch(SITE, given.only):
        studio.site()


def pictures(page: Path) -> Iterator[Picture]:
    """Yield the pictures of a page, each with the nearest command above it."""
    text = page.read_text().replace("\\\n", " ")
    commands = [(found.start(), found[1]) for found in _COMMAND.finditer(text)]
    # `atlas figure figure1.yaml` stands within a sentence.
    commands += [(found.start(), found[1]) for found in re.finditer(r"`atlas figure (\S+)`", text)]
    for found in _PICTURE.finditer(text):
        if not found[1].startswith("images/fidelity"):
            above = [shlex.split(line) for at, line in sorted(commands) if at < found.start()]
            in_table = _IN_TABLE.fullmatch(Path(found[1]).stem)
            if in_table:
                above = [words for words in above if f"objective={in_table[1]}" in words]
                above[-1][0] = f"layers=[features.{in_table[2]}]"
            yield Picture(found[1], tuple(above[-1]))


class Studio:
    """Runs the sweeps of the pages in a working folder."""

    def __init__(self, work: Path, photographs: Path, weights: Path | None) -> None:
        self.work, self.photographs = work, photographs
        self.network = "squeezenet1_1"
        if weights is not None:
            self.network = f"{{name: squeezenet1_1, weights: '{weights.resolve()}'}}"
        work.mkdir(parents=True, exist_ok=True)
        draw_scene().save(work / "scene.png")
        (work / "mymodule.py").write_text("import torch\n\n\n" + _code(DOCS / "objectives.md"))
        if not (work / "textures").exists():
            draw_textures(work / "textures")
        if not (work / "photographs").exists():
            (work / "photographs").symlink_to(photographs)
        (work / "figure1.yaml").write_text(_blocks(DOCS / "figures.md", "yaml")[0])
        self._has_sweeps = False

    def montage(self, picture: Picture) -> None:
        """Make a picture of docs/objectives.md: the montage of a sweep, or one image of it."""
        command = [
            re.sub(r"\bsqueezenet1_1\b", self.network, word) if word.startswith("models=") else word
            for word in picture.command
        ]
        if not any(word.startswith("models=") for word in command):
            command.append(f"models=[{self.network}]")
        has_own_size = {"models=[demo]", "experiment=deepdream"} & {*picture.command}
        size = [] if has_own_size else ["image_size=128"]
        columns = _WIDE.get(picture.name, 4)
        look = ("collate.site=false", f"collate.columns={columns}", "collate.gap=8")
        self._atlas("run", f"name={picture.name}", *size, *command, *look)
        folder = self.work / picture.name
        if _IN_TABLE.fullmatch(picture.name):
            (source,) = self._images(folder)
            source.save(DOCS / picture.path, quality=QUALITY, method=6)
            return
        drawn = (
            path for kind in ("animations", "montages") for path in (folder / kind).rglob("*.png")
        )
        _save(next(drawn), picture)

    def figure(self, picture: Picture) -> None:
        """Make a picture of docs/figures.md: a figure of one of the sweeps of the page."""
        self._run_sweeps_of_figures()
        file = f"figure.file={picture.name}"
        self._atlas(
            "figure", *picture.command, "figure.formats=[png]", f"figure.dpi={FIGURE_DPI}", file
        )
        (source,) = sorted(self.work.rglob(f"{picture.name}.png"))
        _save(source, picture)

    def site(self) -> None:
        """Take a screenshot of the page of a channel."""
        from playwright.sync_api import sync_playwright

        self._run_sweeps_of_figures()
        page = (self.work / "evidence/site/index.html").as_uri()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
            width, height = SITE_SIZE
            tab = browser.new_page(viewport={"width": width, "height": height})
            tab.goto(f"{page}#/{SITE_CHANNEL}")
            tab.wait_for_selector("section:has-text('Strongest inputs') .tile, canvas")
            tab.wait_for_load_state("networkidle")
            picture = Image.open(io.BytesIO(tab.screenshot()))
            browser.close()
        picture.convert("RGB").save(DOCS / SITE, quality=QUALITY, method=6)

    def _run_sweeps_of_figures(self) -> None:
        if not self._has_sweeps:
            for arguments in _sweeps(DOCS / "figures.md"):
                self._atlas(*arguments)
            self._has_sweeps = True

    def _images(self, folder: Path) -> list[Image.Image]:
        from layer_atlas import open_atlas

        with open_atlas(folder) as atlas:
            (layer,) = (atlas[title] for title in atlas)
            return [Image.fromarray(layer.lead(channel)) for channel in layer.channels]

    def _atlas(self, *arguments: str) -> None:
        argv = [sys.executable, "-P", "-m", "layer_atlas", *arguments, f"output_root={self.work}"]
        subprocess.run(argv, cwd=self.work, check=True, stdout=subprocess.DEVNULL)


def draw_textures(folder: Path) -> None:
    """Draw textures of the classes of the demo network, 12 of each, into a folder per class."""
    for name in TEXTURES:
        images, _ = draw_class(name, TEXTURES_PER_CLASS, torch.Generator().manual_seed(0))
        pixels = (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        (folder / name).mkdir(parents=True)
        for i, image in enumerate(pixels):
            Image.fromarray(image).save(folder / name / f"{i:02}.png")


def draw_scene() -> Image.Image:
    """Draw a landscape of 480 x 360 pixels: sky, sun, mountains, hills, a lake."""
    width, height = 480, 360
    rng = np.random.default_rng(3)
    fade = np.linspace(0, 1, height)[:, None, None]
    sky = (1 - fade) * np.array([52.0, 104, 190]) + fade * np.array([232.0, 226, 214])
    image = Image.fromarray(np.repeat(sky, width, axis=1).astype(np.uint8))
    drawing = ImageDraw.Draw(image)
    drawing.ellipse((330, 70, 378, 118), fill=(255, 236, 170))
    ridges = (
        (190, 44, 5, (126, 136, 158)),
        (232, 26, 4, (74, 108, 88)),
        (268, 16, 3, (48, 92, 50)),
    )
    for base, rise, waves, colour in ridges:
        x = np.arange(width)
        line = np.full(width, float(base))
        for wave in range(1, waves + 1):
            line -= rise / wave * np.sin(2 * np.pi * (wave * x / width + rng.random()))
        points = [(0, height), *zip(x.tolist(), line.tolist(), strict=True), (width, height)]
        drawing.polygon(points, fill=colour)
    drawing.ellipse((40, 300, 440, 346), fill=(98, 146, 190))
    image = image.filter(ImageFilter.GaussianBlur(1.2))
    grain = rng.normal(0, 5, (height, width, 1))
    return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))


def _save(source: Path, picture: Picture) -> None:
    with Image.open(source) as image:
        image.convert("RGB").save(DOCS / picture.path, quality=QUALITY, method=6)


def _sweeps(page: Path) -> list[list[str]]:
    """Return the arguments of the sweeps of a page: every `atlas run` of its shell blocks."""
    shell = "".join(_blocks(page, "bash")).replace("\\\n", "")
    words = [shlex.split(line, comments=True) for line in shell.splitlines()]
    return [line[1:] for line in words if line[:2] == ["atlas", "run"]]


def _blocks(page: Path, language: str) -> list[str]:
    return [found[2] for found in _FENCED.finditer(page.read_text()) if found[1] == language]


def _code(page: Path) -> str:
    return next(block for block in _blocks(page, "python") if "def score" in block)


if __name__ == "__main__":
    main()
