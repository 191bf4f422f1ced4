"""Plots as they lie on disk: numbers are read off the drawing, and computed anew from the atlas."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from layer_atlas.config.outputs import (
    FigureSettings,
    HistogramsFigure,
    ProfileFigure,
    ResponsesFigure,
    TracesFigure,
)
from layer_atlas.presentation.figures.make import make_figure
from layer_atlas.store.folder import OutputFolder
from tests.pixels.drawings import Axes, Figure, Picture
from tests.pixels.noisy import add_photographs, fill, plan_of, recipe_of
from tests.pixels.reading import most_like

CHANNELS = {"conv": (3, 4, 9, 17, 38, 39), "last": (0, 8, 30)}
FATES = {(4, 7): "dead", (4, 0): "dead", (9, 0): "missing", (9, 7): "missing", (38, 7): "failed"}
SEEDS = (7, 0)
BLUE, ORANGE = "#0072b2", "#d55e00"


class World:
    """A sweep of two layers, of each channel the image that a figure shows."""

    def __init__(self, root: Path, sign: str = "positive") -> None:
        self.folder, recipe = OutputFolder(root), recipe_of((24, 36), sign)
        fill(self.folder, plan_of(CHANNELS, seeds=SEEDS, recipe=recipe), FATES)
        if sign == "positive":
            add_photographs(self.folder.atlas)

    def draw(self, settings: FigureSettings) -> list[Figure]:
        """The pages of a figure."""
        make_figure(self.folder, settings)
        paths = sorted(self.folder.figures.glob(f"{settings.name}*.svg"))
        return [Figure(path.read_bytes()) for path in paths]

    def shown(self, layer: str, name: str) -> np.ndarray:
        """What a dataset says of each channel's shown image: of the seed that agrees most."""
        with h5py.File(self.folder.atlas) as file:
            group = file[f"toy/{layer}"]
            values = group[name][:]
            if "best_seed_index" not in group:
                return np.asarray(values[:, 0], float)
            best = group["best_seed_index"][:].clip(0)
            return np.asarray(values[np.arange(len(best)), best], float)

    def stored(self, name: str) -> np.ndarray:
        with h5py.File(self.folder.atlas) as file:
            return np.asarray(file[f"toy/{name}"][:])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def titled(page: Figure, names: Any) -> dict[str, Axes]:
    """The plots under the titles that stand above them."""
    order = sorted((w for w in page.words if w.text in names), key=lambda w: (w.y, w.x))
    return {word.text: plot for word, plot in zip(order, page.plots, strict=True)}


# --- traces --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["raw", "relative"])
def test_curves_are_the_traces_of_the_atlas(scale: Any, world: World) -> None:
    check_curves(world, scale)


def check_curves(world: World, scale: Any) -> None:
    (page,) = world.draw(TracesFigure(formats=("svg",), scale=scale))
    for layer, plot in titled(page, CHANNELS).items():
        steps = world.stored(f"{layer}/trace_step")
        traces = world.shown(layer, "trace")
        traces = traces[np.isfinite(traces).all(axis=1)]
        if scale == "relative":
            traces = traces / np.abs(traces).max(axis=1, keepdims=True)
        thin, thick = lines_of(plot, BLUE, 0.35, len(steps)), lines_of(plot, BLUE, 1.3, len(steps))
        assert len(thin) == len(traces)
        assert len(thick) == 1
        for drawn, curve in zip([*thin, *thick], [*traces, np.median(traces, 0)], strict=True):
            np.testing.assert_allclose(plot.numbers("x", drawn[:, 0]), steps, atol=0.05)
            np.testing.assert_allclose(plot.numbers("y", drawn[:, 1]), curve, atol=0.01)


def lines_of(plot: Axes, colour: str, width: float, points: int) -> list[np.ndarray]:
    """What is drawn of a colour and a width in so many points."""
    found = [path for path in plot.paths if path.stroke == colour and len(path.points) == points]
    return [path.points for path in found if abs(path.width - width) < 0.01]


def test_curves_of_variants_have_the_colour_of_their_names(tmp_path: Path) -> None:
    check_variants(World(tmp_path, "both"))


def check_variants(world: World) -> None:
    (page,) = world.draw(TracesFigure(formats=("svg",), scale="raw", layers=("conv",)))
    (plot,) = page.plots
    names = world.stored("conv/variant").astype(str).tolist()
    legend = {w.text: w.colour for w in plot.words if w.text in names}
    traces = world.shown("conv", "trace")
    for variant, name in enumerate(names):
        curves = traces[:, variant][np.isfinite(traces[:, variant]).all(axis=1)]
        drawn = lines_of(plot, legend[name], 0.35, curves.shape[1])
        assert len(drawn) == len(curves)
        for line, curve in zip(drawn, curves, strict=True):
            np.testing.assert_allclose(plot.numbers("y", line[:, 1]), curve, atol=0.02)


# --- profile -------------------------------------------------------------------------------------

STATISTICS = ("agreement", "high_frequency", "activation", "dead")


def test_profiles_are_percentiles_of_the_atlas(world: World) -> None:
    check_profiles(world)


def check_profiles(world: World) -> None:
    (page,) = world.draw(ProfileFigure(formats=("svg",), statistics=STATISTICS))
    names = {name.replace("_", " "): name for name in STATISTICS}
    plots = titled(page, names)
    assert [names[title] for title in plots] == list(STATISTICS)
    for title, plot in plots.items():
        assert list(plot.ticks["x"]) == list(CHANNELS)
        for place, layer in zip(plot.ticks["x"].values(), CHANNELS, strict=True):
            expected = percentiles(world, layer, names[title])
            (dot,) = [y for x, y in plot.dots if abs(x - place) < 0.5]
            bars = [p for p in plot.paths if np.abs(p.points[:, 0] - place).max() < 0.5]
            thin, thick = sorted(bars, key=lambda path: path.width)
            drawn = [*thin.points[:, 1], *thick.points[:, 1], dot]
            low, high, lower, upper, middle = plot.numbers("y", drawn)
            spread = max(expected[-1] - expected[0], 0.1)
            np.testing.assert_allclose(
                sorted((low, high)) + sorted((lower, upper)) + [middle],
                expected[[0, 4, 1, 3, 2]],
                atol=0.01 * spread,
            )


def percentiles(world: World, layer: str, name: str) -> np.ndarray:
    if name == "dead":
        return np.full(5, np.mean(world.shown(layer, "status") == 1))
    values = world.shown(layer, name)
    return np.percentile(values[np.isfinite(values)], [5, 25, 50, 75, 95])


# --- histograms ----------------------------------------------------------------------------------


def test_histograms_are_shares_of_the_numbers_in_the_atlas(world: World) -> None:
    check_histograms(world)


def check_histograms(world: World) -> None:
    (page,) = world.draw(HistogramsFigure(formats=("svg",)))
    legend = {w.text: w.colour for w in page.plots[0].words if w.text.isalpha()}
    assert legend["strongest"] == ORANGE
    assert legend["visualizations"] == BLUE
    for layer, plot in titled(page, CHANNELS).items():
        mean, std, least, most, inner = (
            world.stored(f"{layer}/dataset/{n}") for n in ("mean", "std", "min", "max", "quantile")
        )
        images = (world.shown(layer, "activation") - mean) / std
        for colour, values in ((BLUE, images), (ORANGE, (most - mean) / std)):
            values = values[np.isfinite(values)]
            (stairs,) = [p.points for p in plot.paths if p.stroke == colour and len(p.points) > 50]
            edges, shares = shares_of(plot, stairs)
            counted = np.histogram(np.arcsinh(values), edges)[0] / len(values)
            np.testing.assert_allclose(shares, counted, atol=0.01)
        (grey,) = [p.points for p in plot.paths if "fill: #c9c9cf" in p.style]
        edges, shares = shares_of(plot, grey)
        levels = [0, *world.stored(f"{layer}/dataset/level"), 1]
        lines = (np.column_stack([least, inner, most]) - mean[:, None]) / std[:, None]
        below = np.mean([np.interp(np.sinh(edges), line, levels) for line in lines], axis=0)
        np.testing.assert_allclose(shares, np.diff(below), atol=0.01)


def shares_of(plot: Axes, stairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The edges of the bins of stairs, straight, and their heights."""
    x = plot.numbers("x", stairs[:, 0], straight=np.arcsinh)
    y = plot.numbers("y", stairs[:, 1])
    level = np.flatnonzero((np.diff(x) > 1e-3) & (np.abs(np.diff(y)) < 1e-9))
    return np.append(x[level], x[level[-1] + 1]), y[level]


# --- responses -----------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["index", "similarity", "agreement"])
def test_matrices_are_the_responses_of_the_atlas(order: str, world: World) -> None:
    check_matrix(world, order)


def check_matrix(world: World, order: str) -> None:
    """Colours, read by their bar, of rows by their labels; beside each row the channel's image."""
    (page, _) = world.draw(ResponsesFigure(formats=("svg",), order=order, dendrogram=False))
    pictures = sorted(page.pictures, key=lambda p: p.right - p.left)
    matrix, bar = pictures[-1], min(page.pictures, key=lambda p: p.right - p.left)
    rows = {
        (w.y - 2 - matrix.top) // ((matrix.bottom - matrix.top) / 6): int(w.text)
        for w in page.words
        if w.text.isdigit() and w.x < matrix.left
    }
    channels = [rows[row] for row in range(6)]
    places = [CHANNELS["conv"].index(channel) for channel in channels]
    made = world.shown("conv", "response")[places][:, channels]
    there = np.isfinite(made).all(axis=1)
    made[there] = (made[there] - made[there].mean(0)) / made[there].std(0)
    limit = next(float(w.text) for w in page.words if w.x > bar.right and w.text[0].isdigit())
    scale = np.linspace(limit, -limit, len(bar.pixels))
    step = len(matrix.pixels) // 6
    for row, column in np.ndindex(6, 6):
        colour = matrix.pixels[row * step + step // 2, column * step + step // 2].astype(int)
        if not there[row]:
            assert len(set(colour.tolist())) == 1
            continue
        nearest = np.abs(bar.pixels[:, 0].astype(int) - colour).sum(axis=1)
        value = scale[nearest.argmin()]
        assert value == pytest.approx(made[row, column].clip(-limit, limit), abs=0.04 * limit)
    check_rows(world, page, channels, matrix)


def check_rows(world: World, page: Figure, channels: list[int], matrix: Picture) -> None:
    """Beside each row its image stands in its shape, or a crossed out square."""
    images = {
        channel: np.asarray(image, np.uint8)
        for channel, image in zip(CHANNELS["conv"], world.shown("conv", "image"), strict=True)
    }
    small = sorted((p for p in page.pictures if p.right < matrix.left), key=lambda p: p.top)
    row = (matrix.bottom - matrix.top) / len(channels)
    beside = [channels[int(((p.top + p.bottom) / 2 - matrix.top) / row)] for p in small]
    status = dict(zip(CHANNELS["conv"], world.shown("conv", "status"), strict=True))
    made = [channel for channel in channels if status[channel] < 3]
    assert [most_like(p.pixels, images) for p in small] == beside == made
    for picture in small:
        width, height = picture.right - picture.left, picture.bottom - picture.top
        assert width / height == pytest.approx(36 / 24, rel=0.05)
    crossed = [p for p in page.lines if "fill: #e9e9ee" in p.style]
    assert len(crossed) == len(channels) - len(made)
