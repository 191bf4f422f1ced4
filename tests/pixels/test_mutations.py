"""The tests of pictures fail where code is wrong: a line changed at a time, as people err."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.pixels import test_animations as animations
from tests.pixels import test_evidence as evidence
from tests.pixels import test_figure_images as figures
from tests.pixels import test_montages as montages
from tests.pixels import test_plots as plots
from tests.pixels.miscoded import miscoded, source_of

Check = Callable[[Path], None]
"""A test, in a folder of its own; those of figures find a world in it."""


def of_montage(check: Callable[[montages.Made], None], world: str) -> Check:
    return lambda root: check(montages.made_in(root, montages.WORLDS[world]))


def of_sheets(check: Callable[[evidence.Sheets], None], tallest: int = 12_000) -> Check:
    def run(root: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            check(evidence.sheets_in(root, patch, tallest=tallest))

    return run


MONTAGE, FILMS = (
    "layer_atlas.presentation.montages.montage",
    "layer_atlas.presentation.montages.montage",
)
SHEET, PAGES = (
    "layer_atlas.presentation.montages.evidence_sheet",
    "layer_atlas.presentation.montages.evidence_pages",
)
GRID, PAGE, DISPLAY = (
    "layer_atlas.presentation.layout.grid",
    "layer_atlas.presentation.layout.page",
    "layer_atlas.atlas.display",
)
tiles_of, numbers_of = of_sheets(evidence.check_tiles), of_sheets(evidence.check_numbers)
images_of, words_of = (
    partial(of_montage, c) for c in (montages.check_images, montages.check_words)
)

COLLATED: dict[str, tuple[str, str, str, Check]] = {
    "seed and variant swapped": (
        MONTAGE,
        "layout.tile_box(row, jobs.seed_index, variant)",
        "layout.tile_box(row, variant, jobs.seed_index)",
        images_of("grids of variants"),
    ),
    "rows and columns swapped": (
        GRID,
        "row, column = divmod(position, self.columns)",
        "column, row = divmod(position, self.columns)",
        images_of("wide, of two bands"),
    ),
    "numbers from one": (
        MONTAGE,
        "target_label(recipe, view.layer, target, given[target]) for target in targets",
        "target_label(recipe, view.layer, target + 1) for target in targets",
        words_of("variants"),
    ),
    "places for numbers": (
        MONTAGE,
        "target_label(recipe, view.layer, target, given[target]) for target in targets",
        "target_label(recipe, view.layer, i) for i, target in enumerate(targets)",
        words_of("variants"),
    ),
    "other bands": (
        DISPLAY,
        "pixels[..., :3]",
        "pixels[..., 1:4]",
        images_of("smaller, of five bands"),
    ),
    "red and blue": (
        DISPLAY,
        "[pixels, np.zeros_like(pixels[..., :1])]",
        "[pixels[..., :1], np.zeros_like(pixels[..., :1]), pixels[..., 1:]]",
        images_of("wide, of two bands"),
    ),
    "missing images left white": (
        MONTAGE,
        "np.argwhere(np.isin(status, WITHOUT_IMAGE))",
        "np.argwhere(np.isin(status, WITHOUT_IMAGE[:1]))",
        images_of("seeds"),
    ),
    "names of seeds swapped": (
        MONTAGE,
        'f"seed {seed}" for seed in view.plan.seeds',
        'f"seed {seed}" for seed in view.plan.seeds[::-1]',
        words_of("tall and grey"),
    ),
    "fates of the first seed": (
        MONTAGE,
        "else fates[position, grid]",
        "else fates[position, 0]",
        words_of("grids of seeds"),
    ),
    "titles of grids swapped": (
        MONTAGE,
        "enumerate(view.plan.seeds)",
        "enumerate(view.plan.seeds[::-1])",
        of_montage(montages.check_titles, "grids of seeds"),
    ),
    "images stretched": (
        PAGE,
        "return (wide, tall) if tall < high else (broad, high)",
        "return wide, high",
        images_of("wide, of two bands"),
    ),
    "variants of animations swapped": (
        FILMS,
        "enumerate(images.reshape(-1, *images.shape[-4:]))",
        "enumerate(images.reshape(-1, *images.shape[-4:])[::-1])",
        animations.check_frames,
    ),
    "strips backwards": (
        FILMS,
        "layout.tile_box(position)",
        "layout.tile_box(n - 1 - position)",
        animations.check_frames,
    ),
    "animations backwards": (
        FILMS,
        "in in_colour(animation.frames))",
        "in in_colour(animation.frames)[::-1])",
        animations.check_frames,
    ),
    "steps shifted": (
        FILMS,
        'f"step {step}" for step',
        'f"step {step + 1}" for step',
        animations.check_steps,
    ),
    "pages that repeat a row": (
        SHEET,
        "range(n_targets * i // n, ",
        "range(n_targets * i // n - (i > 0), ",
        of_sheets(evidence.check_tiles, tallest=900),
    ),
    "saliency below the next photograph": (
        SHEET,
        "grid.strongest.tiles + i)",
        "grid.strongest.tiles + i + 1)",
        tiles_of,
    ),
    "strongest for weakest": (
        PAGES,
        '_dataset_images(dataset, "bottom_jpeg"',
        '_dataset_images(dataset, "top_jpeg"',
        tiles_of,
    ),
    "photographs of the row before": (
        PAGES,
        "files = dataset[name][row]",
        "files = dataset[name][row - 1]",
        tiles_of,
    ),
    "maps over other photographs": (
        PAGES,
        "zip(strongest, maps, strict=False)",
        "zip(strongest[::-1], maps, strict=False)",
        tiles_of,
    ),
    "frames of the row before": (
        PAGES,
        'dataset["top_view_box"][row',
        'dataset["top_view_box"][row - 1',
        tiles_of,
    ),
    "overlays not faded": (
        PAGES,
        "faded = FADED * grey + (1.0 - FADED) * _WHITE",
        "faded = (1.0 - FADED) * grey + FADED * _WHITE",
        tiles_of,
    ),
    "numbers of the row before": (
        PAGES,
        'int(group["channel"][row])',
        'int(group["channel"][row - 1])',
        numbers_of,
    ),
    "facts of the first seed": (
        PAGES,
        "v[(row, seed, facet)[: v.ndim]]",
        "v[(row, 0, facet)[: v.ndim]]",
        numbers_of,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("mutation", COLLATED.values(), ids=COLLATED)
def test_wrong_code_of_montages_films_and_sheets_is_noticed(
    mutation: tuple[str, str, str, Check], tmp_path: Path
) -> None:
    module, old, new, check = mutation
    with miscoded(module, old, new), pytest.raises(AssertionError):
        check(tmp_path)


FIGURES, FIGURE_PAGE = (
    "layer_atlas.presentation.figures",
    "layer_atlas.presentation.layout.figure",
)
SEEDS_DOWN = partial(figures.check_axes, axes=figures.AXES["seeds down"])
STEPS = partial(figures.check_axes, axes=figures.AXES["steps of seeds"])
VARIANTS = partial(figures.check_axes, axes=figures.AXES["seeds of variants"])
BY_CLIPPED = partial(figures.check_order, statistic="clipped")

OF_IMAGES: dict[str, tuple[str, str, str, Callable[[figures.World], None], str]] = {
    "always the first seed": (
        f"{FIGURES}.image_content",
        "seed = data.seed_of(channel) if at.seed is None else at.seed",
        "seed = data.layer.seeds[0] if at.seed is None else at.seed",
        figures.check_wrapped,
        "squares",
    ),
    "photographs that excite least": (
        f"{FIGURES}.image_content",
        "images = layer.dataset_images(channel)",
        "images = layer.dataset_images(channel)[::-1]",
        figures.check_wrapped,
        "squares",
    ),
    "marks of the dead left out": (
        f"{FIGURES}.image_content",
        'names[-1] += MARKS.get(image.fate, "")',
        'names[-1] += ""',
        figures.check_wrapped,
        "squares",
    ),
    "seeds misnamed": (
        f"{FIGURES}.image_content",
        'f"seed {image.seed}"',
        'f"seed {5 - image.seed}"',
        SEEDS_DOWN,
        "tall",
    ),
    "the finished image for all steps": (
        f"{FIGURES}.image_content",
        "self.variant, self.step)",
        "self.variant, None)",
        STEPS,
        "tall",
    ),
    "the first of all variants": (
        f"{FIGURES}.image_content",
        "self.seed, self.variant, self.step)",
        "self.seed, None, self.step)",
        VARIANTS,
        "tall",
    ),
    "images that were not made are black": (
        f"{FIGURES}.image_content",
        'if self.fate in ("failed", "missing"):',
        'if self.fate in ("failed",):',
        SEEDS_DOWN,
        "tall",
    ),
    "pages that repeat a row": (
        "layer_atlas.presentation.layout.strips",
        "rows.append(Row(section, first, count, start, y, above))",
        "rows.append(Row(section, first - bool(pages), count, start, y, above))",
        figures.check_pages,
        "squares",
    ),
    "largest for smallest": (
        f"{FIGURES}.selection",
        "(1 if lowest else -1)",
        "(-1 if lowest else 1)",
        BY_CLIPPED,
        "squares",
    ),
    "orders by the first seed": (
        f"{FIGURES}.selection",
        "chosen = array[self._rows, self._seed_indices]",
        "chosen = array[:, 0]",
        BY_CLIPPED,
        "squares",
    ),
    "told of the first seed": (
        f"{FIGURES}.image_content",
        "layer.place(image.channel, image.seed, image.variant)",
        "layer.place(image.channel, None, image.variant)",
        BY_CLIPPED,
        "squares",
    ),
    "brackets over the first alone": (
        f"{FIGURES}.image_figure",
        "right = grid.strip_left(positions[-1]) + grid.strip_width",
        "right = grid.strip_left(positions[0]) + grid.strip_width",
        figures.check_groups,
        "squares",
    ),
    "upside down": (
        FIGURE_PAGE,
        'origin="upper"',
        'origin="lower"',
        SEEDS_DOWN,
        "tall",
    ),
}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, figures.World]:
    root = tmp_path_factory.mktemp("worlds")
    return {
        "squares": figures.world_in(root / "squares", (40, 40), 3),
        "tall": figures.world_in(root / "tall", (48, 32), 5, "both"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("mutation", OF_IMAGES.values(), ids=OF_IMAGES)
def test_wrong_code_of_figures_of_images_is_noticed(
    mutation: tuple[str, str, str, Callable[[figures.World], None], str],
    worlds: dict[str, figures.World],
) -> None:
    module, old, new, check, world = mutation
    with miscoded(module, old, new), pytest.raises(AssertionError):
        check(worlds[world])


MATRIX = partial(plots.check_matrix, order="agreement")
RAW = partial(plots.check_curves, scale="raw")
RELATIVE = partial(plots.check_curves, scale="relative")

OF_PLOTS: dict[str, tuple[str, str, str, Callable[[plots.World], None]]] = {
    "curves of the first seed": (
        f"{FIGURES}.plots",
        "selection.data.seed_of(channel))[:2]",
        "None)[:2]",
        RAW,
    ),
    "mean for median": (f"{FIGURES}.plots", "np.median(curves, axis=0)", "curves.mean(0)", RAW),
    "shares of the largest of all": (
        f"{FIGURES}.plots",
        "np.abs(curves).max(axis=1, keepdims=True, initial=0)",
        "np.abs(curves).max(keepdims=True, initial=0)",
        RELATIVE,
    ),
    "quartiles swapped": (
        f"{FIGURES}.profile",
        "(low, lower, middle, upper, high) = look, values.T",
        "(lower, low, middle, high, upper) = look, values.T",
        plots.check_profiles,
    ),
    "dead without the silent and dead": (
        f"{FIGURES}.profile",
        'np.isin(data.status, (STATUS["dead"], STATUS["silent"]))',
        'np.isin(data.status, (STATUS["silent"],))',
        plots.check_profiles,
    ),
    "counts for shares": (
        f"{FIGURES}.plots",
        "/ max(len(values), 1)",
        "/ 1",
        plots.check_histograms,
    ),
    "deviations not centred": (
        f"{FIGURES}.plots",
        "(values.T - mean) / np.where",
        "values.T / np.where",
        plots.check_histograms,
    ),
    "quantiles shifted": (
        f"{FIGURES}.plots",
        "np.diff(np.mean(below, axis=0))",
        "np.roll(np.diff(np.mean(below, axis=0)), 1)",
        plots.check_histograms,
    ),
    "columns by place": (
        f"{FIGURES}.response_matrix",
        "[:, list(selection.channels)]",
        "[:, rows]",
        MATRIX,
    ),
    "rows for columns": (
        f"{FIGURES}.response_matrix",
        "matrix[made] = standardised_columns(responses[made])",
        "matrix[made] = standardised_columns(responses[made].T).T[:, ::-1]",
        MATRIX,
    ),
    "stronger colours": (f"{FIGURES}.response_matrix", "/ (2 * limit)", "/ limit", MATRIX),
    "another end of the bar": (
        f"{FIGURES}.response_matrix",
        "((0.0, limit), (0.5, 0.0), (1.0, -limit))",
        "((0.0, 2 * limit), (0.5, 0.0), (1.0, -limit))",
        MATRIX,
    ),
    "images of other rows": (
        f"{FIGURES}.response_matrix",
        "self._image(canvas, self.selection.channels[position], middle)",
        "self._image(canvas, self.selection.channels[position - 1], middle)",
        MATRIX,
    ),
    "black for images that were not made": (
        f"{FIGURES}.response_matrix",
        'made = layer.fate(channel, seed) not in ("failed", "missing")',
        "made = True",
        MATRIX,
    ),
    "images of rows stretched": (
        PAGE,
        "return (wide, tall) if tall < high else (broad, high)",
        "return wide, high",
        MATRIX,
    ),
}


@pytest.fixture(scope="module")
def plotted(tmp_path_factory: pytest.TempPathFactory) -> plots.World:
    return plots.World(tmp_path_factory.mktemp("plotted"))


@pytest.mark.slow
@pytest.mark.parametrize("mutation", OF_PLOTS.values(), ids=OF_PLOTS)
def test_wrong_code_of_plots_is_noticed(
    mutation: tuple[str, str, str, Callable[[plots.World], None]], plotted: plots.World
) -> None:
    module, old, new, check = mutation
    with miscoded(module, old, new), pytest.raises(AssertionError):
        check(plotted)


def test_every_wrong_line_replaces_one_that_is_there() -> None:
    # Quick, so that the slow tests above keep up with the code.
    for module, old, *_ in (*COLLATED.values(), *OF_IMAGES.values(), *OF_PLOTS.values()):
        assert source_of(module).count(old) == 1, f"{old!r} is not one place of {module}"
