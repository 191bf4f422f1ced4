"""Words for channels: what an encoder of colours and colour words must find."""

import csv
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from runs import atlas_here, run_here
from torch import Tensor

from layer_atlas.atlas import words
from layer_atlas.atlas.reader import open_atlas
from layer_atlas.config.outputs import LabelSettings
from layer_atlas.errors import EXIT_OK, UserError
from layer_atlas.presentation.names import named

COLOURS = {
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
    "yellow": (1.0, 1.0, 0.0),
    "white": (1.0, 1.0, 1.0),
    "black": (0.0, 0.0, 0.0),
}

HERE = "tests.atlas.test_words"


class ColourEncoder:
    """Embeds images by their mean colour, and words that name colours by these."""

    def __init__(self, scale: float = 2.0) -> None:
        self.scale = scale

    def encode_images(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.float32
        assert images.shape[1] == 3
        assert 0.0 <= images.min() <= images.max() <= 1.0
        return self.scale * (images.mean(dim=(2, 3)) - 0.5)

    def encode_texts(self, texts: list[str]) -> np.ndarray:
        named = [
            next((c for n, c in COLOURS.items() if n in text), (0.5, 0.5, 0.6)) for text in texts
        ]
        return np.asarray(named, np.float32) - 0.5


encoder = ColourEncoder()


class WrongShape(ColourEncoder):
    def encode_images(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:1]


class NotFinite(ColourEncoder):
    def encode_texts(self, texts: list[str]) -> np.ndarray:
        return np.full((len(texts), 3), np.nan)


# --- scores --------------------------------------------------------------------------------------


def unit(rows: list[list[float]]) -> np.ndarray:
    values = np.asarray(rows, np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_words_are_ranked_by_their_cosine_with_a_margin_to_the_next() -> None:
    texts = unit([[1, 0], [0, 1], [1, 1]])
    channels = np.vstack([unit([[1, 0.1], [0.1, 1]]), [[np.nan, np.nan]]]).astype(np.float32)
    found = words.propose(channels, texts, 2)
    assert found.label.tolist() == [[0, 2], [1, 2], [-1, -1]]
    expected = channels[:2] @ texts.T
    assert np.allclose(
        found.score[:2], [[expected[0, 0], expected[0, 2]], [expected[1, 1], expected[1, 2]]]
    )
    assert np.allclose(found.margin[:2], found.score[:2, 0] - found.score[:2, 1])
    assert np.isnan(found.score[2]).all()
    assert np.isnan(found.margin[2])
    assert found.channel.tolist() == [[0, 1], [1, 0], [0, 1]]
    assert np.allclose(found.channel_score[1], [expected[1, 1], expected[0, 1]])


def test_images_and_texts_are_embedded_at_length_one_in_batches() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 3), np.uint8)
    found = words.embed_images(encoder, pictures, batch=3)
    mean = pictures.mean(axis=(1, 2)) / 255.0 - 0.5
    assert np.allclose(found, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-5)
    assert np.allclose(np.linalg.norm(words.embed_texts(encoder, ["red", "blue"]), axis=1), 1.0)


@pytest.mark.parametrize(
    ("made", "said"),
    [(WrongShape(), r"the shape \[1, 48\] for 2 items"), (NotFinite(), "not finite")],
)
def test_what_is_no_embedding_is_refused(made: ColourEncoder, said: str) -> None:
    def embed() -> None:
        words.embed_images(made, np.zeros((2, 4, 4, 3), np.uint8), 8)
        words.embed_texts(made, ["red"])

    with pytest.raises(UserError, match=said):
        embed()


# --- encoders and vocabularies -------------------------------------------------------------------


def test_an_encoder_is_an_object_or_what_a_callable_returns() -> None:
    assert words.load_encoder(LabelSettings(f"{HERE}.encoder")) is encoder
    made = words.load_encoder(LabelSettings(f"{HERE}.ColourEncoder", args={"scale": 3.0}))
    assert isinstance(made, ColourEncoder)
    assert made.scale == 3.0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "names no encoder"),
        ("nowhere.clip", "cannot be imported"),
        (f"{HERE}.COLOURS", "is no callable"),
        (f"{HERE}.unit", "cannot be called"),
        ("builtins.dict", "returns dict"),
    ],
)
def test_what_is_no_encoder_is_refused(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        words.load_encoder(LabelSettings(name))


def test_a_vocabulary_has_a_label_on_each_line(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("\ufeffred\n\n  dog fur \nred\n", "utf-8")
    assert words.read_vocabulary(str(file)) == ("red", "dog fur")
    file.write_text("red\n")
    with pytest.raises(UserError, match="has 1 different label"):
        words.read_vocabulary(str(file))
    file.write_text("red\n" + "x" * 101)
    with pytest.raises(UserError, match="more than 100 letters"):
        words.read_vocabulary(str(file))
    with pytest.raises(ValueError, match="needs one"):
        LabelSettings("x", prompt="a photo")


# --- a run ---------------------------------------------------------------------------------------

RUN = ("name=colours", "image_size=32", "optimizer.steps=2", "layers=[conv5]", "channels=0:5")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run on pictures of plain colours, with the output of the command."""
    root = tmp_path_factory.mktemp("words")
    (root / "album").mkdir()
    for number, (name, colour) in enumerate(COLOURS.items()):
        for shade in range(3):
            values = tuple(int(255 * max(0.0, c - 0.1 * shade)) for c in colour)
            Image.new("RGB", (40, 40), values).save(root / "album" / f"{number}{name}{shade}.png")
    (root / "words.txt").write_text("\n".join(COLOURS))
    dataset = ("dataset=folder", f"dataset.path={root / 'album'}")
    assert run_here(root, *RUN, *dataset, "collate.site=true") == EXIT_OK
    label = ("name=colours", f"labels.encoder={HERE}.encoder", "labels.image_size=16")
    vocabulary = f"labels.vocabulary={root / 'words.txt'}"
    code, said = atlas_here("label", root, *label, vocabulary, "labels.search=[something blue]")
    assert code == EXIT_OK, said
    return root, said


@pytest.mark.slow
def test_proposed_labels_are_those_of_the_images_that_they_are_by(
    labelled: tuple[Path, str],
) -> None:
    root, said = labelled
    with open_atlas(root / "colours") as atlas:
        layer = atlas["conv5"]
        assert layer.label_facts["encoder"] == f"{HERE}.encoder"
        for channel in layer.channels:
            names = [Path(p.decode()).stem[1:-1] for p in layer["dataset/top_path"][channel][:4]]
            labels = dict(layer.proposed_labels(channel)["dataset"])
            # Plain images have one colour, whatever the receptive field.
            if len(set(names)) == 1:
                assert next(iter(labels)) == names[0]
            mean = layer.pixels(channel).mean(axis=(0, 1)) / 255.0 - 0.5
            cosines = {
                name: float(mean @ (np.asarray(c) - 0.5))
                / float(np.linalg.norm(mean) * np.linalg.norm(np.asarray(c) - 0.5))
                for name, c in COLOURS.items()
            }
            by_optimized = dict(layer.proposed_labels(channel)["optimized"])
            assert next(iter(by_optimized)) == max(cosines, key=cosines.__getitem__)
            for word, score in by_optimized.items():
                assert score == pytest.approx(cosines[word], abs=0.03)
        frame = atlas.to_frame()
        assert frame["words_dataset_label"].tolist() == [
            layer.proposed_labels(c)["dataset"][0][0] for c in layer.channels
        ]
        assert (frame["words_dataset_margin"] >= 0).all()
        found = atlas.search("blue sky", encoder, most=3)
        blue = layer["words/dataset_embedding"] @ words.embed_texts(encoder, ["blue"])[0]
        assert [match.channel for match in found] == np.argsort(-blue, kind="stable")[:3].tolist()
        assert [match.score for match in found] == pytest.approx(np.sort(blue)[::-1][:3].tolist())
    assert "'something blue', by the strongest dataset images:" in said
    assert f"  {found[0].score:6.3f}  demo/conv5:{found[0].channel}" in said


@pytest.mark.slow
def test_the_table_has_the_best_label_of_each_channel(labelled: tuple[Path, str]) -> None:
    root, _ = labelled
    with open(root / "colours" / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["channel"] for row in rows] == list("01234")
    assert {row["by"] for row in rows} == {"strongest dataset images"}
    with open_atlas(root / "colours") as atlas:
        best = [atlas["conv5"].proposed_labels(c)["dataset"][0] for c in range(5)]
    assert [row["label"] for row in rows] == [word for word, _ in best]
    assert [float(row["score"]) for row in rows] == pytest.approx([s for _, s in best], abs=1e-4)
    # As it is, or corrected, it is a file of labels for a collation.
    with open_atlas(root / "colours") as atlas:
        given = named(None, str(root / "colours" / "labels.csv"), atlas.target_spaces)
        assert atlas["conv5"].called(given).given_labels == [word for word, _ in best]


@pytest.mark.slow
def test_words_outlive_collation_and_are_left_out_once_images_are_others(
    labelled: tuple[Path, str],
) -> None:
    root, _ = labelled
    album = ("dataset=folder", f"dataset.path={root / 'album'}")
    assert run_here(root, *RUN, *album) == EXIT_OK
    assert has_words(root)
    # A further channel has none yet; other images have none of these.
    assert run_here(root, *RUN, *album, "channels=0:6") == EXIT_OK
    with h5py.File(root / "colours" / "atlas.h5") as file:
        assert file["demo/conv5/words/dataset_label"][5, 0] == b""
        assert np.isnan(file["demo/conv5/words/dataset_score"][5])
    code, said = atlas_here("verify", root, *RUN, *album, "channels=0:6")
    assert (code, "0 problems" in said) == (0, True), said
    code, said = atlas_here("clean", root, "name=colours")
    assert "words of channels" not in said
    assert run_here(root, *RUN, *album, "optimizer.steps=3") == EXIT_OK
    assert not has_words(root)


def has_words(root: Path) -> bool:
    with h5py.File(root / "colours" / "atlas.h5") as file:
        return "words" in file["demo/conv5"]


def test_without_words_a_search_says_how_to_make_some(labelled: tuple[Path, str]) -> None:
    root, _ = labelled
    with open_atlas(root / "colours") as atlas:
        with pytest.raises(UserError, match="must be one of dataset, optimized"):
            atlas.search("red", encoder, source="photos")
        if not has_words(root):
            with pytest.raises(UserError, match="`atlas label"):
                atlas.search("red", encoder)
