"""What pages state in words and numbers is what the atlas bears, and no more."""

import re
from typing import Any

import h5py
import numpy as np
import pytest
from atlases import FAMILIES, add_photographs, made_up
from pages import Visit, at

from layer_atlas.presentation.site.make import make_site
from layer_atlas.store.folder import OutputFolder

A, PART = "block.a", "block.a.part"
COUNT, OF = 20, 64


@pytest.fixture(scope="module")
def browsed(tmp_path_factory: pytest.TempPathFactory) -> OutputFolder:
    """Networks `toy`, `twin` of the same architecture, `broad` with more channels in `block.a`,
    and `alien` (of another one), two layers each.

    In `block.a` channel 1 is alike to none, 2 is deaf to photographs, and photographs of 3 tie.
    """
    folder = OutputFolder(tmp_path_factory.mktemp("stated") / "atlas")
    made_up(folder.root, {A: COUNT, PART: 4}, (0, 7))
    add_photographs(folder.atlas)
    with h5py.File(folder.atlas, "a") as file:
        toy, group = file["toy"], file["toy"][A]
        toy.attrs.update({"source": "nets.build", "input_size": 224})
        group.attrs.update({"n_channels": OF, "flops_share": 0.9998})
        toy[PART].attrs["flops_share"] = 0.5
        _set_cosines(group)
        _set_photographs(group["dataset"])
        group["activation"][...] = np.arange(2 * COUNT, dtype=np.float32).reshape(COUNT, 2) + 0.5
        group["activation_max"][:4] = [[3.4e38] * 2, [999.7] * 2, [1e30] * 2, [-0.00012345] * 2]
        group["best_seed"] = np.arange(COUNT) % 3
        group["clipped"][...] = np.where(np.arange(COUNT) < 3, 0.25, 0.5)[:, None]
        recipe = group.attrs["recipe"]
        toy[PART].attrs["recipe"] = recipe.replace('"name":"channel"', '"name":"direction"')
        builds = {"twin": 'nets.build({"seed":1})', "broad": 'nets.build({"width":2})'}
        for name, source in {**builds, "alien": "nets.other"}.items():
            file.copy("toy", name)
            file[name].attrs.update({"name": name, "source": source, "weights_sha256": name * 9})
        file["broad"][A].attrs["n_channels"] = 2 * OF
    make_site(folder)
    return folder


def _set_cosines(group: h5py.Group) -> None:
    """Channel 1 is a little like those of family 0, and orthogonal to the others."""
    count, width = len(group["channel"]), group["response"].shape[-1]
    axes = np.linalg.qr(np.random.default_rng(3).normal(size=(width, width)))[0].astype(np.float32)
    responses = axes[np.arange(count) % FAMILIES]
    responses[1] = 0.6 * axes[0] + 0.8 * axes[FAMILIES]
    group["response"][...] = responses[:, None]
    # One seed leads everywhere, so that any other one must not count.
    group["response"][:, 0] = 0
    group["best_seed_index"][...] = 1


def _set_photographs(dataset: h5py.Group) -> None:
    count = len(dataset["mean"])
    dataset["top_score"] = np.tile(np.asarray([3, 2, 1], np.float32), (count, 1))
    dataset["top_score"][3] = 1.5
    dataset["min"][2] = dataset["max"][2] = 0


@pytest.fixture(scope="module")
def arrays(browsed: OutputFolder) -> dict[str, Any]:
    with h5py.File(browsed.atlas) as file:
        group = file["toy"][A]
        found = {name: each[()] for name, each in group.items() if isinstance(each, h5py.Dataset)}
        names = ("mean", "std", "min", "max")
        return found | {f"photographs: {name}": group["dataset"][name][()] for name in names}


def number(text: str) -> float:
    return float(text.replace(",", "")) if text != "–" else np.nan


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", [None, 0])
def test_every_statistic_has_its_value_and_its_rank(
    visit: Visit, arrays: dict[str, Any], seed: int | None
) -> None:
    for row in (0, 1, 2, 3, COUNT - 1):
        visit.go(at(A, row, "" if seed is None else f"seed={seed}"))
        names = visit.texts("tbody th")
        shown = visit.texts("tbody td:nth-child(2)")
        assert len(names) > 10
        ranks = visit.page.eval_on_selector_all(
            "tbody td:nth-child(3)",
            "(all) => all.map((each) => each.firstChild?.ariaLabel ?? '')",
        )
        for name, text, rank in zip(names, shown, ranks, strict=True):
            values = arrays[name if ":" in name else name.replace(" ", "_")].astype(float)
            column = values if values.ndim == 1 else values[:, 0 if seed == 0 else 1]
            assert len(text) < 12, name
            plain = column[row] == 0 or 1e-4 <= abs(column[row]) < 1e5
            assert not (plain and "e" in text), (name, text)
            assert number(text) == pytest.approx(column[row], rel=0.006, nan_ok=True), name
            unranked = name in ("best seed", "start")  # numbers of seeds are names
            assert rank == "" if unranked else _is_true(rank, column, row), (name, rank)


def _is_true(rank: str, column: Any, row: int) -> bool:
    known = column[np.isfinite(column)]
    below, equal = int((known < column[row]).sum()), int((known == column[row]).sum()) - 1
    others = len(known) - 1
    if equal == others:
        return rank == ""
    numbers = [int(each) for each in re.findall(r"\d+", rank)]
    ties = [equal] if equal else []
    if below and below + equal < others:
        return numbers == [below, others, *ties] and rank.startswith("larger than ")
    end = "largest" if below else "smallest"
    return numbers == [others + 1, *ties] and rank.startswith(f"the {end} of ")


def test_ranks_are_among_the_channels_of_the_atlas(visit: Visit) -> None:
    visit.go(at(A, COUNT - 1))
    words = f"the largest of {COUNT} channels in this atlas"
    assert visit.page.locator(f"[aria-label='{words}']").count() >= 1
    assert "%" not in "".join(visit.texts("table"))


def test_the_curve_names_the_steps_that_were_recorded(visit: Visit, browsed: OutputFolder) -> None:
    with h5py.File(browsed.atlas) as file:
        steps, trace = file["toy"][A]["trace_step"][()], file["toy"][A]["trace"][4, 1]
    visit.go(at(A, 4))
    said = visit.page.get_attribute("svg.curve", "aria-label")
    first, begin, last, end = (float(each) for each in re.findall(r"-?\d[\d.e-]*", said))
    assert (begin, end) == (steps[0], steps[-1])
    assert (first, last) == pytest.approx((trace[0], trace[-1]), rel=0.006, abs=1e-4)


# --- models and layers ----------------------------------------------------------------------------


def test_the_size_of_the_input_and_of_the_images_are_both_named(visit: Visit) -> None:
    facts = visit.texts(".model > .facts")
    assert len(facts) == 4
    assert all("network input 16 × 16 px" in text for text in facts)
    assert all("images 16 × 16 px" in text for text in facts)


def test_targets_are_called_what_they_are_and_counted_of_what_is_known(visit: Visit) -> None:
    assert visit.texts(".floor .share > .quiet:first-child")[:2] == [
        f"{COUNT} of {OF} channels",
        "4 directions",
    ]
    assert f"{4 * (COUNT + 4)} targets" in visit.texts(".heading .facts")[0]
    visit.go(at(PART))
    assert visit.texts(".count") == ["4 directions"]


def test_a_layer_within_another_has_its_own_part_and_none_that_adds_up(visit: Visit) -> None:
    shares = visit.texts(".model:first-of-type .floor .share")
    assert shares[0].endswith(">99.9 % of FLOPs")
    assert shares[1].endswith("50.0 % of FLOPs")
    # Lengths side by side would claim that parts of one pass add up.
    assert visit.page.locator(".floor .gauge, .spectrum").count() == 0


def test_a_seed_leads_by_agreement_only_where_there_is_any(
    visit: Visit, browsed: OutputFolder
) -> None:
    visit.go(at(A))
    assert visit.texts("#choose-seed option")[0] == "best agreement"


# --- relations ------------------------------------------------------------------------------------


def test_channels_are_called_similar_from_a_cosine_of_one_half_on(visit: Visit) -> None:
    visit.go(at(A, 5))
    assert set(map(int, visit.texts(".alike .label"))) == {0, 10, 15}
    assert all(float(text) >= 0.5 for text in visit.texts(".alike .caption .quiet"))
    assert "seed 7" in " ".join(visit.texts(".note"))


def test_where_no_channel_is_similar_the_best_cosine_is_stated(
    visit: Visit, arrays: dict[str, Any], browsed: OutputFolder
) -> None:
    with h5py.File(browsed.atlas) as file:
        responses = file["toy"][A]["response"][:, 1].astype(float)
    spread = responses.std(axis=0)
    standard = (responses - responses.mean(axis=0)) / np.where(spread > 1e-6, spread, np.inf)
    standard /= np.linalg.norm(standard, axis=1, keepdims=True)
    best = max(np.delete(standard @ standard[1], 1))
    assert 0.25 < best < 0.5
    visit.go(at(A, 1))
    assert visit.page.locator(".alike").count() == 0
    assert f"No channel is similar (best cosine: {best:.2f})." in visit.texts(".note")


@pytest.mark.slow
def test_a_channel_is_elsewhere_only_in_networks_of_the_same_architecture(visit: Visit) -> None:
    visit.go(at(A, 5))
    assert visit.texts(".elsewhere li") == ["twin other weights"]
    visit.page.click(".elsewhere a")
    visit.until("location.hash === '#/twin/block.a:5'")
    visit.go(at(PART, 2))
    assert visit.page.locator(".elsewhere").count() == 0
    visit.go("#/alien/block.a:5")
    assert visit.page.locator(".elsewhere").count() == 0


def test_photographs_that_all_excite_alike_are_not_ranked(visit: Visit) -> None:
    visit.go(at(A, 2))
    assert visit.page.locator(".photograph").count() == 0
    assert "All photographs excite it alike (0): none stands out." in visit.texts(".note")
    visit.go(at(A, 3))
    assert visit.page.locator(".photograph").count() == 3
    assert "All of these excite it alike; others may as well." in visit.texts(".note")
    visit.go(at(A, 4))
    assert not [text for text in visit.texts(".note") if "alike" in text]
