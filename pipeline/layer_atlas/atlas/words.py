"""Words for channels: labels that an encoder of images and texts proposes, and search by words.

A channel is what its images are to the encoder: the mean of their unit embeddings. The score of a
text is the cosine of its embedding with that of each image, averaged over the images. So it is in
the semantic embeddings of SemanticLens (Dreyer et al. 2025, "Mechanistic understanding and
validation of large AI models with SemanticLens", Nature Machine Intelligence), whose strongest
dataset images are cropped to the receptive field as they are here.

What is proposed lies in files beside the store, from which collation copies it into the atlas.
"""

import csv
import hashlib
import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layer_atlas.atlas.dataset_group import TEXT, add_dataset, add_scale, as_text
from layer_atlas.atlas.display import in_colour
from layer_atlas.atlas.gather import LayerView
from layer_atlas.atlas.layers import Layer
from layer_atlas.config.inputs import user_file
from layer_atlas.config.outputs import LabelSettings
from layer_atlas.config.records import canonical_json, digest, plain
from layer_atlas.errors import UserError
from layer_atlas.imports import import_value, source_digest
from layer_atlas.plan.jobs import STATUS
from layer_atlas.store import files
from layer_atlas.store.files import Arrays, ArraySpec, AtMost, CorruptFile, conforming
from layer_atlas.store.folder import OutputFolder

logger = logging.getLogger(__name__)

SCHEMA = "layer-atlas-words/1"
SOURCES = {"dataset": "strongest dataset images", "optimized": "optimized images"}
"""What labels are proposed by."""
FOUND = 20
"""Channels of a layer that are kept for each word."""
_MOST_WORDS, _LONGEST, _MOST_BYTES = 20_000, 100, 2**31
_MOST_CHANNELS, _MOST_DIMENSIONS, _MOST_KEPT = 2**24, 2**16, 64
_AT_ONCE = 512

Embedding = NDArray[np.float32]
"""Rows of length 1, or means of such (n, D)."""


# --- encoders ------------------------------------------------------------------------------------


class Encoder(Protocol):
    """A model that embeds images and texts in one space, as CLIP does."""

    def encode_images(self, images: Any) -> Any:
        """Embed images (N, 3, H, W), float32 in [0, 1]: (N, D), of torch or numpy."""
        ...

    def encode_texts(self, texts: list[str]) -> Any:
        """Embed texts: (M, D)."""
        ...


def load_encoder(settings: LabelSettings) -> Encoder:
    """Import an encoder of the user's own.

    Raises:
        UserError: it cannot be imported or called, or is no encoder.
    """
    if not settings.encoder:
        raise UserError(
            "labels.encoder names no encoder: labels.encoder=mymodule.clip, an object with "
            "encode_images and encode_texts, or a callable that returns one."
        )
    where = f"labels.encoder={settings.encoder!r}"
    value = import_value(settings.encoder, "labels.encoder", "or object that encodes images")
    if not _is_encoder(value) or isinstance(value, type):
        if not callable(value):
            raise UserError(f"{where} has no encode_images and encode_texts, and is no callable.")
        try:
            value = value(**(settings.args or {}))
        except Exception as error:
            raise UserError(f"{where} cannot be called: {error!r}. See labels.args.") from error
    if not _is_encoder(value):
        raise UserError(
            f"{where} returns {type(value).__name__}, which has no encode_images(batch) and "
            "encode_texts(list)."
        )
    encoder: Encoder = value
    return encoder


def _is_encoder(value: Any) -> bool:
    return all(callable(getattr(value, name, None)) for name in ("encode_images", "encode_texts"))


def embed_texts(encoder: Encoder, texts: Sequence[str]) -> Embedding:
    """Embed texts, at length 1: (M, D). Raises UserError."""
    parts = [
        _units(encoder.encode_texts(list(texts[i : i + _AT_ONCE])), len(texts[i : i + _AT_ONCE]))
        for i in range(0, len(texts), _AT_ONCE)
    ]
    return np.concatenate(parts)


def embed_images(encoder: Encoder, pictures: NDArray[np.uint8], batch: int) -> Embedding:
    """Embed pictures (N, H, W, 3) of one size, at length 1: (N, D). Raises UserError."""
    import torch

    parts = []
    for start in range(0, len(pictures), batch):
        some = torch.from_numpy(pictures[start : start + batch]).permute(0, 3, 1, 2).float() / 255.0
        with torch.no_grad():
            parts.append(_units(encoder.encode_images(some.contiguous()), len(some)))
    return np.concatenate(parts)


def _units(values: Any, count: int) -> Embedding:
    """Check what an encoder returned, and scale its rows to length 1."""
    values = values.detach().cpu().float() if hasattr(values, "detach") else values
    rows = np.asarray(values, np.float32)
    if rows.ndim != 2 or len(rows) != count:
        raise UserError(
            f"the encoder returned the shape {list(rows.shape)} for {count} items; it must be "
            f"[{count}, D]."
        )
    if not np.isfinite(rows).all():
        raise UserError("the encoder returned numbers that are not finite.")
    units: Embedding = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return units


def read_vocabulary(file: str) -> tuple[str, ...]:
    """Read a file with a label on each line.

    Raises:
        UserError: it cannot be read, or is no such file.
    """
    where = f"labels.vocabulary={file!r}"
    try:
        text = user_file(file, "the vocabulary").read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{where} is no readable text file: {error}.") from error
    words = tuple(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not 2 <= len(words) <= _MOST_WORDS:
        raise UserError(
            f"{where} has {len(words)} different labels, one a line; it takes 2 to {_MOST_WORDS}."
        )
    odd = next((word for word in words if len(word) > _LONGEST or not word.isprintable()), None)
    if odd is not None:
        raise UserError(f"{where} has a label of more than {_LONGEST} letters: {odd[:40]!r}.")
    return words


# --- what an encoder makes of a layer ------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Proposals:
    """What is proposed for C channels by one kind of their images; W words."""

    embedding: Embedding
    """(C, D) mean unit embedding of the images of each channel; NaN where there are none."""
    label: NDArray[np.int32]
    """(C, k) words with the largest scores, the best first; -1 where there are no images."""
    score: NDArray[np.float32]
    """(C, k) their scores."""
    margin: NDArray[np.float32]
    """(C,) score of the best word less that of the next one."""
    channel: NDArray[np.int64]
    """(W, n) rows of the channels with the largest scores of each word; -1 beyond the last."""
    channel_score: NDArray[np.float32]
    """(W, n) their scores."""


@dataclass(frozen=True, eq=False)
class LayerWords:
    """What is proposed for the channels of a layer, and by whom."""

    facts: dict[str, Any]
    """Encoder, vocabulary and prompt."""
    targets: NDArray[np.int64]
    """(C,) the channels."""
    words: tuple[str, ...]
    """(W,) the vocabulary; empty where only embeddings are known."""
    proposals: dict[str, Proposals]
    """By the kind of images, a key of `SOURCES`."""


def embed_layer(
    layer: Layer, source: str, encoder: Encoder, settings: LabelSettings
) -> Embedding | None:
    """Embed the channels of a layer by their images: (C, D); None if there are no images."""
    means: dict[int, Embedding] = {}
    for row, channel in enumerate(layer.channels):
        pictures = [_resized(p, settings.image_size) for p in _PICTURES[source](layer, channel)]
        if pictures:
            found = embed_images(encoder, np.stack(pictures), settings.batch_size)
            means[row] = found.mean(axis=0, dtype=np.float64).astype(np.float32)
    if not means:
        return None
    sample = next(iter(means.values()))
    rows: Embedding = np.full((len(layer.channels), len(sample)), np.nan, np.float32)
    for row, mean in means.items():
        rows[row] = mean
    return rows


def _strongest(layer: Layer, channel: int) -> Iterator[NDArray[np.uint8]]:
    """Dataset images of a channel, cut to the receptive field of its largest response."""
    name = "dataset/top_view_box"
    boxes = layer.dataset(name)[layer.row(channel)].tolist() if name in layer else []
    for pixels, (left, top, right, bottom) in zip(
        layer.dataset_images(channel), boxes, strict=False
    ):
        part = pixels[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
        yield part if part.size else pixels


def _optimized(layer: Layer, channel: int) -> Iterator[NDArray[np.uint8]]:
    """Images of a channel that came out well, of all seeds and variants."""
    for seed, status in zip(layer.seeds, layer.status[layer.row(channel)], strict=True):
        if status == STATUS["ok"]:
            for variant in layer.variants or (None,):
                yield in_colour(layer.pixels(channel, seed, variant))


_PICTURES: dict[str, Callable[[Layer, int], Iterator[NDArray[np.uint8]]]] = {
    "dataset": _strongest,
    "optimized": _optimized,
}


def _resized(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    picture = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(picture, np.uint8)


def propose(embedding: Embedding, texts: Embedding, kept: int) -> Proposals:
    """Propose words for channels.

    Args:
        embedding: (C, D) of the channels.
        texts: (W, D) of the words.
        kept: words per channel.
    """
    n, k = len(embedding), min(kept, len(texts))
    label, score = np.full((n, k), -1, np.int32), np.full((n, k), np.nan, np.float32)
    margin = np.full(n, np.nan, np.float32)
    known = np.flatnonzero(np.isfinite(embedding).all(axis=1))
    # Some channels, or words, at a time: all pairs of both may be too much for memory.
    for start in range(0, len(known), _AT_ONCE):
        rows = known[start : start + _AT_ONCE]
        scores = embedding[rows] @ texts.T
        best = np.argsort(-scores, axis=1, kind="stable")[:, : max(k, 2)]
        values = np.take_along_axis(scores, best, axis=1)
        label[rows], score[rows] = best[:, :k], values[:, :k]
        if len(texts) > 1:
            margin[rows] = values[:, 0] - values[:, 1]
    most = min(FOUND, len(known))
    channel = np.full((len(texts), most), -1, np.int64)
    channel_score = np.full((len(texts), most), np.nan, np.float32)
    for start in range(0, len(texts), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        scores = texts[some] @ embedding[known].T
        best = np.argsort(-scores, axis=1, kind="stable")[:, :most]
        channel[some], channel_score[some] = known[best], np.take_along_axis(scores, best, axis=1)
    return Proposals(embedding, label, score, margin, channel, channel_score)


def words_of_layer(
    layer: Layer,
    encoder: Encoder,
    settings: LabelSettings,
    vocabulary: tuple[str, ...],
    texts: Embedding | None,
) -> LayerWords:
    """Propose words for the channels of a layer, by each kind of images that it has."""
    proposals = {}
    for source in SOURCES:
        embedding = embed_layer(layer, source, encoder, settings)
        if embedding is None:
            continue
        if texts is not None and texts.shape[1] != embedding.shape[1]:
            raise UserError(
                f"the encoder embeds images in {embedding.shape[1]} dimensions and texts in "
                f"{texts.shape[1]}; both must be of one space."
            )
        known = np.zeros((0, embedding.shape[1]), np.float32) if texts is None else texts
        proposals[source] = propose(embedding, known, settings.kept)
    return LayerWords(
        facts_of(encoder, settings), np.asarray(layer.channels), vocabulary, proposals
    )


def facts_of(encoder: Encoder, settings: LabelSettings) -> dict[str, Any]:
    """By whom and by what words are proposed."""
    return {
        "encoder": settings.encoder,
        "args": plain(settings.args or {}),
        "encoder_sha256": source_digest(encoder.encode_images),
        "vocabulary": Path(settings.vocabulary).name if settings.vocabulary else "",
        "prompt": settings.prompt,
        "image_size": settings.image_size,
    }


# --- files ---------------------------------------------------------------------------------------


def source_of(view: LayerView) -> str:
    """Digest of what decides a layer's images: words for other images must not pass for theirs."""
    plan = view.plan.dataset_plan
    info = view.layer.info
    return digest(
        {
            "network": plain(view.model.network),
            "layer": info.name,
            "recipe": plain(view.model.recipe.of_layer(info.name)),
            "listing": plan.listing if plan else "",
        }
    )


def write_words(folder: OutputFolder, view: LayerView, found: LayerWords) -> None:
    """Commit the words of a layer in place of earlier ones. Raises StorageError."""
    arrays: Arrays = {
        "target": found.targets,
        "word": np.frombuffer("\n".join(found.words).encode(), np.uint8),
    }
    for source, proposals in found.proposals.items():
        arrays |= {f"{source}_{name}": value for name, value in vars(proposals).items()}
    sums = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()}
    key = digest([found.facts, sums])
    record = {"facts": found.facts, "made_of": source_of(view), "key": key}
    path = folder.words(view.model.label, view.layer.info.name)
    files.write_atomically(path, files.encode(SCHEMA, record, arrays))


def words_key(view: LayerView) -> str:
    """Digest of a layer's words; empty if there are none for its present images."""
    path = view.folder.words(view.model.label, view.layer.info.name)
    try:
        record = files.read_record(path, SCHEMA)
    except (OSError, CorruptFile):
        return ""
    return str(record.get("key", "")) if record.get("made_of") == source_of(view) else ""


def read_words(view: LayerView) -> LayerWords | None:
    """Read the words of a layer; None if there are none for its present images."""
    if not words_key(view):
        return None
    path = view.folder.words(view.model.label, view.layer.info.name)
    try:
        file = files.decode(files.read_at_most(path, _MOST_BYTES), SCHEMA)
        arrays = conforming(file.arrays, _specs())
        words = tuple(filter(None, arrays["word"].tobytes().decode().split("\n")))
        return LayerWords(
            dict(file.record["facts"]), arrays["target"], words, _parts(arrays, words)
        )
    except (OSError, CorruptFile, ValueError, TypeError, KeyError) as error:
        logger.warning("%s is skipped, as it cannot be read: %s", path, error)
        return None


def _specs() -> dict[str, ArraySpec]:
    c, d = AtMost(_MOST_CHANNELS, "channels"), AtMost(_MOST_DIMENSIONS, "dimensions")
    w, specs = AtMost(_MOST_WORDS, "words"), dict[str, ArraySpec]()
    for source in SOURCES:
        k, n = AtMost(_MOST_KEPT, f"{source} kept"), AtMost(FOUND, f"{source} found")
        shapes: dict[str, tuple[str, tuple[AtMost, ...]]] = {
            "embedding": ("f4", (c, d)),
            "label": ("i4", (c, k)),
            "score": ("f4", (c, k)),
            "margin": ("f4", (c,)),
            "channel": ("i8", (w, n)),
            "channel_score": ("f4", (w, n)),
        }
        specs |= {f"{source}_{n}": ArraySpec(*s, required=False) for n, s in shapes.items()}
    letters = AtMost(_MOST_WORDS * (4 * _LONGEST + 1), "letters")
    return {"target": ArraySpec("i8", (c,)), "word": ArraySpec("u1", (letters,)), **specs}


def _parts(arrays: Arrays, words: Sequence[str]) -> dict[str, Proposals]:
    """The proposals by each kind of images, which must not point beyond words and channels."""
    found, n = {}, len(arrays["target"])
    for source in SOURCES:
        if f"{source}_embedding" not in arrays:
            continue
        one = Proposals(**{f: arrays[f"{source}_{f}"] for f in Proposals.__annotations__})
        for index, most in ((one.label, len(words)), (one.channel, n)):
            if index.size and not (index.min() >= -1 and index.max() < most):
                raise CorruptFile("it names words or channels that are not there")
        found[source] = one
    return found


def write_csv(path: Path, layers: Sequence[tuple[LayerView, LayerWords]]) -> int:
    """Write the best label of each channel, to be corrected and given as `collate.labels`.

    Labels by dataset images go before those by optimized ones: there is one line per channel.

    Args:
        path: the file.
        layers: each with its words.
    Returns: number of labels.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["model", "layer", "channel", "label", "score", "margin", "by"])
    count = 0
    for view, found in layers:
        place = [view.model.label, view.layer.info.name]
        for row, target in enumerate(map(view.layer.target_space.numbers, found.targets.tolist())):
            for source, proposals in found.proposals.items():
                if proposals.label.shape[1] and proposals.label[row, 0] >= 0:
                    word = found.words[proposals.label[row, 0]]
                    numbers = (proposals.score[row, 0], proposals.margin[row])
                    rounded = [f"{value:.4f}" for value in numbers]
                    writer.writerow([*place, target, word, *rounded, SOURCES[source]])
                    count += 1
                    break
    files.write_atomically(path, text.getvalue().encode())
    return count


# --- the atlas -----------------------------------------------------------------------------------

_COSINE = "cosine of its embedding with those of the {}, averaged over them"


def add_words(group: h5py.Group, view: LayerView) -> None:
    """Add the group `words` to a layer, if words are proposed for its images."""
    found = read_words(view)
    if found is not None:
        add_layer_words(group, found, view.targets)


def add_layer_words(group: h5py.Group, found: LayerWords, targets: NDArray[np.int64]) -> None:
    """Add the group `words` to a layer of these targets; one without words has none."""
    inner = group.create_group("words", track_order=True)
    inner.attrs.update(attributes_of(found.facts))
    rows = {target: row for row, target in enumerate(found.targets.tolist())}
    order = np.asarray([rows.get(target, -1) for target in targets.tolist()])
    if found.words:
        add_scale(inner, "word", list(map(as_text, found.words)))
    for source, proposals in found.proposals.items():
        _add_proposals(inner, source, proposals, found, order)


def attributes_of(facts: Mapping[str, Any]) -> dict[str, str]:
    """Facts as the attributes of the group."""
    return {k: as_text(v if isinstance(v, str) else canonical_json(v)) for k, v in facts.items()}


def _add_proposals(
    inner: h5py.Group, source: str, proposals: Proposals, found: LayerWords, order: NDArray[np.intp]
) -> None:
    images, here = SOURCES[source], order >= 0

    def in_order(values: NDArray[Any]) -> NDArray[Any]:
        missing = -1 if values.dtype.kind == "i" else np.nan
        filled = np.full((len(order), *values.shape[1:]), missing, values.dtype)
        filled[here] = values[order[here]]
        return filled

    dimension = f"{source}_dimension"
    add_scale(inner, dimension, np.arange(proposals.embedding.shape[1]))
    meaning = f"mean unit embedding of the {images} by the encoder"
    embedding = in_order(proposals.embedding)
    add_dataset(inner, f"{source}_embedding", embedding, ("channel", dimension), meaning)
    if not found.words:
        return
    label, score, rank = in_order(proposals.label), in_order(proposals.score), f"{source}_rank"
    texts = [[as_text(found.words[i]) if i >= 0 else "" for i in row] for row in label.tolist()]
    add_scale(inner, rank, np.arange(label.shape[1]))
    about, cosine = f"by the {images}, the best first", _COSINE.format(images)
    axes = ("channel", rank)
    data = np.asarray(texts, object).reshape(label.shape)
    meaning = f"labels of the vocabulary that the encoder proposes {about}"
    add_dataset(inner, f"{source}_label", data, axes, meaning, dtype=TEXT)
    add_dataset(inner, f"{source}_label_score", score, axes, f"of each label, the {cosine}")
    meaning = f"of the label proposed by the {images}, the {cosine}"
    add_dataset(inner, f"{source}_score", score[:, 0], ("channel",), meaning)
    meaning = f"score of the label proposed by the {images} less that of the next label"
    add_dataset(inner, f"{source}_margin", in_order(proposals.margin), ("channel",), meaning)
    # Rows of the file as targets: the atlas may have others beside them.
    channel = np.where(proposals.channel >= 0, found.targets[proposals.channel], -1)
    scale = f"{source}_found"
    add_scale(inner, scale, np.arange(channel.shape[1]))
    meaning = f"channels with the largest scores of each word by the {images}; -1: no further one"
    add_dataset(inner, f"{source}_channel", channel, ("word", scale), meaning)
    values = proposals.channel_score
    add_dataset(inner, f"{source}_channel_score", values, ("word", scale), "their scores")


@dataclass(frozen=True)
class Match:
    """A channel that words were searched for in."""

    layer: str
    """`model/layer`."""
    channel: int
    score: float
    """Cosine of the text and of each image of the channel, averaged over the images."""


def search(
    layers: Mapping[str, Layer], text: str, encoder: Encoder, source: str, most: int, prompt: str
) -> list[Match]:
    """Search channels by a text, by the embeddings in an atlas.

    Raises:
        UserError: there are no embeddings, or they are of another encoder.
    """
    if source not in SOURCES:
        raise UserError(f"source={source!r} must be one of {', '.join(SOURCES)}.")
    (wanted,) = embed_texts(encoder, [prompt.format(text)])
    name, matches, known = f"words/{source}_embedding", list[Match](), False
    for title, layer in layers.items():
        if name not in layer:
            continue
        known, embedding = True, layer[name]
        if embedding.shape[1] != len(wanted):
            raise UserError(
                f"the words of {title} are of another encoder: its embeddings have "
                f"{embedding.shape[1]} dimensions, and this encoder's {len(wanted)}."
            )
        scores = embedding @ wanted
        matches += [
            Match(title, channel, float(score))
            for channel, score in zip(layer.channels, scores, strict=True)
            if np.isfinite(score)
        ]
    if not known:
        raise UserError(
            f"no channel of this atlas has an embedding of its {SOURCES[source]}: `atlas label "
            "labels.encoder=mymodule.clip` makes them."
        )
    return sorted(matches, key=lambda match: -match.score)[:most]
