"""Label the channels of a finished run: `atlas label`."""

from collections.abc import Iterator, Sequence

from layer_atlas.atlas.gather import LayerView, layer_views
from layer_atlas.atlas.reader import open_atlas
from layer_atlas.atlas.words import (
    SOURCES,
    Encoder,
    LayerWords,
    attributes_of,
    embed_texts,
    facts_of,
    load_encoder,
    read_vocabulary,
    words_of_layer,
    write_csv,
    write_words,
)
from layer_atlas.config.config import CollateSettings
from layer_atlas.config.outputs import LabelSettings
from layer_atlas.config.records import build
from layer_atlas.errors import UserError
from layer_atlas.logs import step
from layer_atlas.plan.targets import counted
from layer_atlas.presentation.collate import content_of, ensure_atlas, make_atlas, read_summary
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.lock import locked
from layer_atlas.store.manifest import plan_of, read_manifest

_SHOWN = 10
_BY_WHOM = ("encoder", "args", "encoder_sha256", "image_size")


def label_run(folder: OutputFolder, settings: LabelSettings) -> str:
    """Propose labels for the channels of a run, search by words, and report both.

    Labels are made where a vocabulary is named, or where nothing is embedded yet.

    Raises:
        UserError: there is no run, no encoder, or a vocabulary that is none; or nothing to do.
        StorageError: the disk is full or fails.
    """
    if not settings.vocabulary and not settings.search:
        raise UserError(
            "nothing to do: labels.vocabulary=words.txt proposes labels, and "
            "'labels.search=[dog fur]' searches by words."
        )
    vocabulary = read_vocabulary(settings.vocabulary) if settings.vocabulary else ()
    read_manifest(folder)
    encoder = load_encoder(settings)
    prompts = [settings.prompt.format(word) for word in vocabulary]
    texts = embed_texts(encoder, prompts) if prompts else None
    ensure_atlas(folder)
    report: list[str] = []
    with locked(folder):
        if vocabulary or not _is_embedded(folder, encoder, settings):
            with step("embedding images"), open_atlas(folder.atlas) as atlas:
                plan = plan_of(read_manifest(folder))
                found = []
                for view in layer_views(folder, plan):
                    layer = atlas[f"{view.model.label}/{view.layer.info.name}"]
                    words = words_of_layer(layer, encoder, settings, vocabulary, texts)
                    write_words(folder, view, words)
                    found.append((view, words))
            report += _report(folder, found) if vocabulary else []
            _collate(folder)
    with open_atlas(folder.atlas) as atlas:
        for text in settings.search:
            matches = atlas.search(text, encoder, settings.source, _SHOWN, settings.prompt)
            report.append(f"{text!r}, by the {SOURCES[settings.source]}:")
            report += [f"  {m.score:6.3f}  {m.layer}:{m.channel}" for m in matches]
    return "\n".join(report)


def _is_embedded(folder: OutputFolder, encoder: Encoder, settings: LabelSettings) -> bool:
    """Whether all layers are embedded, and by this encoder.

    Raises:
        UserError: some are embedded by another, whose labels would be lost.
    """
    with open_atlas(folder.atlas) as atlas:
        known = [layer.label_facts for layer in atlas.values()]
    mine = attributes_of(facts_of(encoder, settings))
    others = [facts for facts in known if facts and any(facts[k] != mine[k] for k in _BY_WHOM)]
    if others:
        raise UserError(
            f"the words of this run are by encoder {others[0]['encoder']!r}, with other args or "
            "image_size, or in an earlier form of its file: search with that one, or give "
            "labels.vocabulary=words.txt to propose labels anew."
        )
    return all(known)


def _collate(folder: OutputFolder) -> None:
    """Make the atlas and its site again, with their own settings."""
    manifest, summary = read_manifest(folder), read_summary(folder)
    plan = plan_of(manifest)
    how = build(CollateSettings, manifest["config"]["collate"], "collate")
    content = content_of(plan, list(layer_views(folder, plan)))
    make_atlas(folder, summary.settings if summary else how, content)


def _report(folder: OutputFolder, found: Sequence[tuple[LayerView, LayerWords]]) -> Iterator[str]:
    """Write the table of labels, and yield what was proposed."""
    count = write_csv(folder.labels, found)
    for view, words in found:
        place = f"{view.model.label}/{view.layer.info.name}"
        for source, proposals in words.proposals.items():
            known = proposals.label[:, 0] >= 0
            some = [
                f"{target} {words.words[label]} ({score:.2f}, +{margin:.2f})"
                for target, label, score, margin in zip(
                    words.targets[known][:5].tolist(),
                    proposals.label[known, 0].tolist(),
                    proposals.score[known, 0].tolist(),
                    proposals.margin[known].tolist(),
                    strict=False,
                )
            ]
            yield f"{place}, by the {SOURCES[source]}: {', '.join(some)}, ..."
    yield (
        f"{counted(count, 'proposed label')} (cosine, margin to the next label): {folder.labels}; "
        "once corrected, collate.labels=FILE shows them as yours"
    )
