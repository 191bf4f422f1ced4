"""Objectives as sweeps: planned, made, stored, resumed and verified like channels."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from runs import atlas_here, run_here, shards
from torch import nn
from toys import composed, make_recipe

from layer_atlas.errors import EXIT_OK, UserError

BASE = ("image_size=32", "optimizer.steps=4", "optimizer.leaky_steps=1", "shard_size=4")
CONV5 = (*BASE, "layers=[conv5]")
TWO_MODELS = (
    *BASE,
    "models=[demo,{name: demo, label: other, weights: none}]",
    "objective=joint",
    "objective.terms=[{model: demo, layer: conv5},{model: other, layer: conv3, weight: -0.5}]",
)


def layer(root: Path, name: str, group: str = "demo/conv5") -> dict[str, np.ndarray]:
    with h5py.File(root / name / "atlas.h5") as file:
        items = file[group].items()
        return {key: item[()] for key, item in items if isinstance(item, h5py.Dataset)}


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photographs") / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((60, 40), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.mark.slow
def test_an_image_for_channels_of_two_networks(tmp_path: Path) -> None:
    pairs = "channels=[[3,7],[5,9]]"
    assert run_here(tmp_path, *TWO_MODELS, pairs, "name=joint") == EXIT_OK
    found = layer(tmp_path, "joint")
    assert found["part_channel"].tolist() == [[3, 7], [5, 9]]
    assert found["channel"].tolist() == [3 * 48 + 7, 5 * 48 + 9]
    parts = found["part_activation"]
    assert np.allclose(found["activation"], parts[..., 0] - 0.5 * parts[..., 1], rtol=1e-5)
    made = shards(tmp_path / "joint")

    wider = "channels={zip: [[3,5,8], [7,9,1]]}"
    assert run_here(tmp_path, *TWO_MODELS, wider, "name=joint") == EXIT_OK
    assert made.items() < shards(tmp_path / "joint").items()
    code, said = atlas_here("verify", tmp_path, *TWO_MODELS, wider, "name=joint")
    assert (code, "0 problems" in said, "3 activations measured again" in said) == (0, True, True)


@pytest.mark.slow
def test_the_rows_of_a_matrix_are_swept_as_channels(tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)
    np.save(tmp_path / "basis.npy", matrix)
    sweep = (*CONV5, "objective=direction", f"objective.vectors={tmp_path / 'basis.npy'}")
    assert run_here(tmp_path, *sweep, "name=a") == EXIT_OK
    found = layer(tmp_path, "a")
    assert found["channel"].tolist() == list(range(6))
    unit = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    # A mean of products is the product with the mean.
    expected = (found["response"][:, 0] * unit).sum(axis=1)
    assert np.allclose(found["activation"][:, 0], expected, atol=1e-4)

    (tmp_path / "basis.npy").rename(tmp_path / "moved.npy")
    code, said = atlas_here("verify", tmp_path, *sweep, "name=a")
    assert (code, "0 problems" in said) == (0, True), said
    moved = [o.replace("basis.npy", "moved.npy") for o in sweep]
    made = shards(tmp_path / "a")
    assert run_here(tmp_path, *moved, "name=a") == EXIT_OK
    assert shards(tmp_path / "a") == made


@pytest.mark.slow
def test_variants_have_an_axis_of_their_own(tmp_path: Path) -> None:
    both = (*CONV5, "channels=[2,9]", "objective.sign=both", "snapshots=2", "seeds=[0,1]")
    assert run_here(tmp_path, *both, "name=both") == EXIT_OK
    found = layer(tmp_path, "both")
    assert found["image"].shape == (2, 2, 2, 32, 32, 3)
    assert found["snapshot"].shape == (2, 2, 2, 3, 32, 32, 3)
    assert np.array_equal(found["snapshot"][:, :, :, -1], found["image"])
    means = np.take_along_axis(
        found["response"], found["channel"][:, None, None, None], axis=3
    ).squeeze(3)
    assert np.allclose(found["activation"], means * [1.0, -1.0], rtol=1e-5)
    assert (means[..., 0] > means[..., 1]).all()
    assert atlas_here("verify", tmp_path, *both, "name=both")[0] == EXIT_OK


@pytest.mark.slow
def test_images_for_one_channel_differ_more_with_diversity(tmp_path: Path) -> None:
    likeness = []
    for weight in (0.0, 5.0):
        name = f"name=w{weight:.0f}"
        sweep = (*CONV5, "channels=[2,9,30]", "objective=diversity", "objective.images=3", name)
        assert run_here(tmp_path, *sweep, f"objective.weight={weight}", "optimizer.steps=12") == 0
        images = layer(tmp_path, f"w{weight:.0f}")["response"][:, 0]
        unit = images / np.linalg.norm(images, axis=2, keepdims=True)
        likeness.append((unit @ unit.transpose(0, 2, 1)).mean())
    assert likeness[1] < likeness[0]


@pytest.mark.slow
def test_octaves_make_rectangles_with_pictures_on_the_way(tmp_path: Path) -> None:
    sweep = (*CONV5, "image_size=[48,80]", "objective=layer", "octaves=four", "snapshots=4")
    assert run_here(tmp_path, *sweep, "name=dream") == EXIT_OK
    found = layer(tmp_path, "dream")
    assert found["image"].shape == (1, 1, 48, 80, 3)
    assert found["snapshot"].shape == (1, 1, 5, 48, 80, 3)
    assert found["trace_step"].tolist() == list(range(16))
    assert found["step"].tolist() == [0, 4, 8, 12, 16]


def test_a_dream_is_as_large_as_its_photograph_and_begins_with_it(
    photograph: Path, tmp_path: Path
) -> None:
    few = ("layers=[conv5]", "optimizer.steps=2", "snapshots=2", "octaves.count=2")
    dream = ("experiment=deepdream", f"init.photograph={photograph}", "collate.animations=both")
    assert run_here(tmp_path, *dream, *few) == EXIT_OK
    found = layer(tmp_path, "deepdream")
    assert found["image"].shape == (1, 1, 40, 60, 3)
    first = found["snapshot"][0, 0, 0].astype(float)
    small = Image.open(photograph).resize((43, 29), Image.Resampling.BILINEAR).resize((60, 40))
    assert np.abs(first - np.asarray(small)).mean() < 4
    animations = tmp_path / "deepdream" / "animations" / "demo" / "conv5"
    assert sorted(path.suffix for path in animations.iterdir()) == [".png", ".webp"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["caricature", "inversion", "accentuation"])
def test_objectives_about_a_photograph_keep_a_copy(
    name: str, photograph: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.png"
    copy.write_bytes(photograph.read_bytes())
    channels = "channels=[3]" if name == "accentuation" else "channels=all"
    sweep = (*CONV5, channels, f"objective={name}", f"objective.photograph={copy}", "name=p")
    assert run_here(tmp_path, *sweep) == EXIT_OK
    (kept,) = (tmp_path / "p" / "inputs").iterdir()
    assert kept.read_bytes() == photograph.read_bytes()


MISTAKES: dict[str, tuple[tuple[str, ...], list[str]]] = {
    "position": (("objective=neuron", "objective.position=[9,0]"), ["[9, 0] is outside", "rows 0"]),
    "no photograph": (
        ("objective=inversion", "objective.photograph=nowhere.png"),
        ["'nowhere.png' does not exist", "relative to"],
    ),
    "all pairs": (
        ("objective=interpolation",),
        ["the channels of each combination", "{zip: [...]}"],
    ),
    "all random": (("objective=direction",), ["channels='0:64'", "objective.vectors"]),
    "layer of a term": (
        ("layers=null", "objective=joint", "objective.terms=[{layer: conv9},{layer: conv5}]"),
        ["'conv9'", "choose from: conv"],
    ),
    "layers of a term": (
        ("layers=null", "objective=joint", "objective.terms=[{layer: 'conv*'},{layer: conv5}]"),
        ["needs one layer", "'conv*'"],
    ),
    "model of a term": (
        (
            "layers=null",
            "models=[demo,{name: demo, label: other}]",
            "objective=joint",
            "objective.terms=[{model: demo, layer: conv5},{model: oter, layer: conv5}]",
        ),
        ["model 'oter'", "models has: other"],
    ),
    "idle model": (
        (
            "layers=null",
            "models=[demo,{name: demo, label: other}]",
            "objective=joint",
            "objective.terms=[{model: demo, layer: conv5},{model: demo, layer: conv4}]",
        ),
        ["no term", "'other'"],
    ),
    "octaves": (("objective=neuron", "octaves=four"), ["several sizes", "octaves=none"]),
    "photographs": (
        ("objective.sign=negative", "dataset=folder"),
        ["objective=channel as it is set", "dataset=none"],
    ),
    "rectangle": (("image_size=[32,40]", "dataset=folder"), ["squares", "dataset=none"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_before_anything_is_computed(mistake: str, tmp_path: Path) -> None:
    overrides, words = MISTAKES[mistake]
    with pytest.raises(UserError) as caught:
        run_here(tmp_path, *CONV5, *overrides)
    for word in words:
        assert word in str(caught.value)
    assert not [*tmp_path.rglob("store"), *tmp_path.rglob("*.h5")]


# --- classes and colours -------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["logit", "probability"])
def test_classes_are_swept_by_name(objective: str, tmp_path: Path) -> None:
    classes = (*BASE, f"objective={objective}", "channels=[hearts,stars]", "name=c")
    assert run_here(tmp_path, *classes) == EXIT_OK
    found = layer(tmp_path, "c", "demo/output")
    assert [name.decode() for name in found["channel_name"]] == ["stars", "hearts"]
    scores = found["response"][np.arange(2), 0, found["channel"]]
    if objective == "probability":
        logits = found["response"][:, 0]
        scores = np.exp(scores) / np.exp(logits).sum(axis=1)
    assert np.allclose(found["activation"][:, 0], scores, rtol=1e-4)


def test_a_class_that_is_not_there_is_told_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"class .heart. .* the nearest are: hearts"):
        run_here(tmp_path, *BASE, "objective=logit", "channels=[heart]")


def coloured(colours: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(colours, 8, 5, stride=2), nn.ReLU(), nn.Conv2d(8, 6, 3))


@pytest.mark.parametrize("colours", [1, 2, 5])
@pytest.mark.parametrize("parameterization", ["fourier", "pixel"])
def test_images_have_as_many_colours_as_the_network_takes(
    colours: int, parameterization: str, tmp_path: Path
) -> None:
    numbers = ",".join(["0.4"] * colours)
    model = f"{{name: own, target: test_objectives_run.coloured, args: {{colours: {colours}}}"
    sweep = (f"models=[{model}, mean: [{numbers}], std: [{numbers}]}}]", "layers=['2']", *BASE)
    assert run_here(tmp_path, *sweep, f"parameterization={parameterization}", "name=n") == EXIT_OK
    found = layer(tmp_path, "n", "own/2")
    assert found["image"].shape == (6, 1, 32, 32, colours)
    assert (found["image"].std(axis=(1, 2, 3)) > 5).all()
    assert found["status"].max() == 0


@pytest.mark.slow
def test_photographs_are_grey_for_a_network_that_sees_grey(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(12):
        pixels = noise.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((40, 40)).save(tmp_path / "photos" / f"{i}.png")
    target = "target: test_objectives_run.coloured, args: {colours: 1}, mean: [0.5], std: [0.25]"
    sweep = (*BASE, f"models=[{{name: own, {target}}}]", "layers=['2']", "name=g")
    dataset_images = (
        *("dataset=folder", f"dataset.path={tmp_path / 'photos'}", "dataset.top=3"),
        *("saliency=vanilla", "init=dataset", "optimizer.starts=1"),
    )
    assert run_here(tmp_path, *sweep, *dataset_images) == EXIT_OK
    found = layer(tmp_path, "g", "own/2")
    assert found["image"].shape == (6, 1, 32, 32, 1)
    assert np.isfinite(found["agreement"]).all()


@pytest.mark.slow
def test_an_objective_with_arguments_of_its_own_is_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "def score(activations, power):\n    return activations.amax(dim=(1, 2)) ** power\n"
    (tmp_path / "powers.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    sweep = (*CONV5, "objective=custom", "objective.function=powers.score", "name=custom")
    sweep += ("objective.args={power: 2}",)
    assert run_here(tmp_path, *sweep) == EXIT_OK
    code, said = atlas_here("verify", tmp_path, *sweep)
    assert (code, "1 activations measured again" in said) == (0, True), said


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    folder.mkdir()
    for number in range(24):
        draw = np.random.default_rng(number)
        squares = Image.fromarray(draw.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        squares.resize((40, 40), Image.Resampling.BICUBIC).save(folder / f"{number:02}.png")
    return folder


def _tensors(shard: bytes) -> bytes:
    """The tensors of a safetensors file, without its header, which holds times."""
    return shard[8 + int.from_bytes(shard[:8], "little") :]


@pytest.mark.slow
def test_prototypes_are_of_their_photographs_and_measured_like_channels(
    tmp_path: Path, album: Path
) -> None:
    base = (*CONV5, "channels=[2,9,17,30,41]", f"dataset.path={album}", "dataset=folder")
    sweep = (*base, "objective=prototype", "objective.top=3", "name=prototypes")
    assert run_here(tmp_path, *sweep) == EXIT_OK
    found = layer(tmp_path, "prototypes")
    mean = found["response"][np.arange(5), 0, found["channel"]]
    assert np.allclose(found["activation"][:, 0], mean, atol=1e-5)
    code, said = atlas_here("verify", tmp_path, *sweep)
    assert (code, "0 problems" in said, "5 activations measured again" in said) == (0, True, True)

    with h5py.File(tmp_path / "prototypes" / "atlas.h5") as file:
        meaning = file["demo/conv5/agreement"].attrs["description"]
        assert meaning.endswith("images were made from the 3 strongest")

    # A lost shard is made again with the same bits, from the same photographs.
    made = sorted((tmp_path / "prototypes" / "store").glob("demo/conv5/*.safetensors"))
    lost, kept = made[0].read_bytes(), shards(tmp_path / "prototypes")
    made[0].unlink()
    assert run_here(tmp_path, *sweep) == EXIT_OK
    assert set(shards(tmp_path / "prototypes")) == set(kept)
    again = layer(tmp_path, "prototypes")
    assert all(np.array_equal(again[name], found[name], equal_nan=True) for name in DECIDED)
    assert _tensors(made[0].read_bytes()) == _tensors(lost)

    # Another picture makes another dataset, and other images.
    Image.new("RGB", (40, 40), (255, 0, 0)).save(album / "new.png")
    assert run_here(tmp_path, *sweep) == EXIT_OK
    fresh = set(shards(tmp_path / "prototypes"))
    assert len([name for name in fresh - set(kept) if name.count("/") == 3]) == len(made)


DECIDED = ("image", "activation", "trace", "response", "status")


@pytest.mark.slow
def test_facets_are_variants_that_know_their_photographs(tmp_path: Path, album: Path) -> None:
    settings = ("objective.top=6", "objective.facets=2", "dataset.examples=2", "seeds=[0,1]")
    sweep = (
        *(*CONV5, "channels=[2,9,17,30,41]", "name=facets", "objective=facets", *settings),
        *("dataset=folder", f"dataset.path={album}", "montage=evidence"),
    )
    assert run_here(tmp_path, *sweep) == EXIT_OK
    found = layer(tmp_path, "facets")
    assert found["image"].shape[:3] == (5, 2, 2)
    assert found["variant"].tolist() == [b"facet 1", b"facet 2"]
    mean = found["response"][np.arange(5), :, :, found["channel"]]
    assert np.allclose(found["activation"], mean, atol=1e-5)
    # Clusters are of photographs: no seed decides them, and the first is the larger one.
    assert found["facet"].shape == (5, 2, 6)
    assert (found["facet"][:, 0] == found["facet"][:, 1]).all()
    sizes = [(found["facet"] == number).sum(axis=2) for number in (1, 2)]
    assert (sizes[0] >= sizes[1]).all()
    assert (sizes[1] > 0).all()
    with h5py.File(tmp_path / "facets" / "atlas.h5") as file:
        assert [len(jpeg) > 0 for jpeg in file["demo/conv5/dataset/top_jpeg"][0]] == [True] * 6
        assert "agreement" not in file["demo/conv5"]  # it is of one image per job
    assert list((tmp_path / "facets" / "montages").rglob("*.png"))
    code, said = atlas_here("verify", tmp_path, *sweep)
    assert (code, "0 problems" in said) == (0, True), said

    # A lost shard is made again with the same bits, whatever its size.
    kept = shards(tmp_path / "facets")
    lost = sorted((tmp_path / "facets" / "store").glob("demo/conv5/*.safetensors"))[0]
    before = lost.read_bytes()
    lost.unlink()
    assert run_here(tmp_path, *sweep) == EXIT_OK
    assert set(shards(tmp_path / "facets")) == set(kept)
    assert _tensors(lost.read_bytes()) == _tensors(before)
    assert run_here(tmp_path, *sweep, "shard_size=2", "batch_size=1", "name=other") == EXIT_OK
    other = layer(tmp_path, "other")
    assert all(np.array_equal(other[n], found[n], equal_nan=True) for n in (*DECIDED, "facet"))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["dataset=folder"], "set dataset.top=36"),
        (["dataset=folder", "objective.top=3"], "objective.top=3 photographs cannot make 4"),
        (["dataset=folder", "dataset.top=36", "judge={name: demo, layers: [conv5]}"], "judge=null"),
    ],
)
def test_facets_that_cannot_be_are_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        composed("objective=facets", *overrides)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["objective.top=10", "dataset=folder"], "set dataset.top=10"),
        (["objective.layers=[conv9]", "dataset=folder"], "conv9"),
        (["objective.top=65", "dataset=folder"], "top must be 1 to 64"),
    ],
)
def test_a_prototype_that_cannot_be_is_refused(
    tmp_path: Path, album: Path, overrides: list[str], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        run_here(
            tmp_path, *CONV5, "objective=prototype", *overrides, f"dataset.path={album}", "name=no"
        )


def test_the_recipe_of_a_prototype_says_what_it_shows() -> None:
    config = composed("objective=prototype", "dataset=folder", "objective.layers=[conv2]")
    assert config.objective.from_images == "like photographs"
    recipe = replace(make_recipe(), objective=config.objective)
    assert "9 photographs per channel" in recipe.describe()
    assert "in conv2" in recipe.describe()
    assert "prototype like photographs" in recipe.summary()
