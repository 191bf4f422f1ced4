"""Help texts: the overview of `atlas`, and one page per command."""

import textwrap
from dataclasses import dataclass


@dataclass(frozen=True)
class Page:
    """Help of one command."""

    line: str
    """What the command does, in a line."""
    more: str
    """What else a user needs to know, as paragraphs."""
    examples: tuple[tuple[str, str], ...]
    """Command lines without `atlas`, each with its purpose."""


PAGES = {
    "run": Page(
        "optimize the missing images, then collate; run again to resume",
        """\
Plans the sweep models x layers x channels x seeds, optimizes every image that the output folder
lacks, and collates them. Stop it at any time: the same command resumes. Ctrl-C finishes the shards
in progress, a second Ctrl-C stops at once. A YAML file holds settings: `quality: draft` in it
chooses a group, and the command line overrides it.
Exit codes: 0 done, 1 some images failed, 2 a mistake in config or input, 74 the disk,
75 preempted (SIGTERM), 130 interrupted.""",
        (
            ("run", "the demo network, all convolutions"),
            ("run models=[resnet50] 'layers=[layer3.*]' name=deep", "layers by globs"),
            ("run channels='0:64' 'seeds=[0,1]' quality=paper", "64 channels, two seeds"),
            ("run experiment=evidence dataset.path=photos", "with dataset images beside them"),
            ("run executor=slurm executor.partition=gpu", "on a cluster"),
        ),
    ),
    "plan": Page(
        "print models, layers, channels, estimated time and disk space of a run",
        "Takes the settings of `atlas run`, loads the networks, and writes no output.",
        (
            ("plan models=[resnet50]", "all convolutions, with an estimate"),
            ("plan name=demo", "done and missing images of the demo"),
        ),
    ),
    "layers": Page(
        "print the layers of the models: name, type, channels, shape, FLOPs",
        "`layers=[...]` takes these names, globs, and module types (`*@Conv2d`).",
        (
            ("layers models=[resnet50] weights=none", "without downloading weights"),
            ("layers models=[vit_b_16] 'layers=[*mlp*]'", "marks the layers that match"),
        ),
    ),
    "objectives": Page(
        "list the objectives with their settings and defaults",
        "Choose one by `objective=NAME`. `???` marks a setting without a default.",
        (("objectives", "all, with the keys of objective.KEY=VALUE"),),
    ),
    "parameterizations": Page(
        "list the parameterizations with their settings and defaults",
        "Choose one by `parameterization=NAME`. `???` marks a setting without a default.",
        (("parameterizations", "all, with the keys of parameterization.KEY=VALUE"),),
    ),
    "status": Page(
        "print the progress of a sweep and its workers (`all`: every layer)",
        "Works during a run, on any machine that sees the output folder. Writes nothing.",
        (
            ("status name=resnet50", "done, rate, time left, latest failures"),
            ("status all name=resnet50", "every layer"),
        ),
    ),
    "failures": Page(
        "list the failed tasks; of a LAYER or KEY prefix, every attempt",
        "Each attempt keeps its traceback and the last lines of its worker's log.",
        (
            ("failures name=resnet50", "the list"),
            ("failures 3f2a name=resnet50", "every attempt at the task with that key"),
        ),
    ),
    "retry": Page(
        "take tasks out of quarantine: all, or those of a LAYER or KEY",
        "A task goes into quarantine after `executor.attempts` failed attempts.",
        (
            ("retry name=resnet50", "all of them"),
            ("retry layer3.0.conv1 name=resnet50", "one layer"),
        ),
    ),
    "collate": Page(
        "rebuild montages, atlas.h5 and site from the store alone",
        "Needs no model and no GPU. `atlas run` ends with it if anything changed.",
        (
            ("collate name=demo collate.tile=64", "smaller tiles"),
            ("collate name=demo montage=evidence", "with sheets of dataset images"),
        ),
    ),
    "figure": Page(
        "draw a figure for a paper: image grids, curves, histograms, maps",
        """\
Draws from atlas.h5 alone and collates first if that is outdated; needs no model and no GPU.
Writes a LaTeX caption, a methods paragraph and the provenance beside the figure.
docs/figures.md shows every kind.""",
        (
            ("figure name=demo 'figure.layers=[conv6]'", "every channel of a layer, as PDF"),
            ("figure figure.width=column 'figure.channels={top: 16}'", "for a column of a paper"),
            ("figure figure=responses figure.clusters=8", "similarity of channels"),
            ("figure figure=again figure.path=images.pdf", "an earlier figure once more"),
        ),
    ),
    "compare": Page(
        "compare the channels of two runs, or of two models of a run: A B",
        """\
Correlates the responses of channels to the same dataset images, by index and by best match (the
Hungarian method). Needs runs of one architecture with the same `dataset`; no model and no GPU.
Writes figures/compare-B.h5 in the folder of A (`matrix`: with the correlations of all pairs).""",
        (
            ("compare base tuned", "two runs, by name or folder"),
            ("compare epoch_1 epoch_9 name=training", "two models of one run"),
            ("compare base tuned 'layers=[conv6]' matrix", "one layer, all pairs of channels"),
        ),
    ),
    "site": Page(
        "make static pages to browse the atlas with",
        """\
Made from atlas.h5 alone, after collating if that is outdated; needs no model and no GPU.
`atlas run` ends with it unless `collate.site=false`. Open site/index.html from disk, or put the
folder site/ on any web host.""",
        (
            ("site name=demo", "prints the page to open"),
            ("site name=demo notes=demo-notes.json", "with notes that a site exported"),
            ("site name=demo collate.labels=labels.csv", "with labels of channels"),
        ),
    ),
    "export": Page(
        "write a table and image files for other tools",
        """\
Writes export/metadata.parquet with a row per image (status, statistics, strongest dataset images),
and the images as PNG files. Made from atlas.h5 alone. An earlier export is replaced after you
confirm (`yes`: without asking). docs/formats.md explains every column.""",
        (
            ("export name=demo", "Parquet and PNG"),
            ("export yes name=demo export.format=jsonl", "JSON Lines over an earlier export"),
            ("export name=demo export.format=csv export.images=none", "the numbers alone"),
        ),
    ),
    "label": Page(
        "propose labels for channels from a vocabulary, and search channels by words",
        """\
Embeds the strongest dataset images and the optimized images of each channel by an encoder of your
own, and compares them with the words of a vocabulary. Labels are proposals: atlas and site show
each with its score, its margin, the encoder and the images that it is by. labels.csv has the best
one of each channel, to be corrected. labels.search prints the channels that fit a text.""",
        (
            ("label labels.encoder=mymodule.clip labels.vocabulary=words.txt", "propose"),
            ("label labels.encoder=mymodule.clip 'labels.search=[dog fur]'", "search"),
        ),
    ),
    "verify": Page(
        "check shard digests, the atlas, and a sample of activations",
        """\
Reads every shard, compares the atlas with them, and measures some activations again, with the
config of the run. Code of your own that the run used is executed after you confirm (`yes`: without
asking): the folder may be somebody else's.""",
        (
            ("verify name=demo", "exit code 1 if anything is wrong"),
            ("verify yes name=mine", "with a network of your own"),
        ),
    ),
    "clean": Page(
        "remove files that the current plan does not need (`yes`: without asking)",
        "Files of earlier or wider sweeps and old logs stay in the folder until then.",
        (
            ("clean name=demo", "list, ask, remove"),
            ("clean yes name=demo", "for scripts"),
        ),
    ),
}

_FIRST = ("layers", "plan", "run", "status", "figure")
"""Commands that a user meets first, in that order."""

_OVERVIEW = """\
Layer Atlas: feature visualization of every channel of every layer of a vision model.

atlas COMMAND [file.yaml] [setting=value ...]
{first}

{others}
`atlas COMMAND --help` explains a command, `atlas run --help settings` every setting.

-v, --verbose   debug messages with time and logger      -q, --quiet   results, warnings
--version       version of Layer Atlas                   LAYER_ATLAS_LOG=debug   the same as -v

Try `atlas run`: a small network that comes with the package, about a minute."""


def overview() -> str:
    """Help of `atlas` without a command: one screen."""
    first = "".join(
        f"\n  atlas {name:8}{PAGES[name].line}\n  {'':12}  atlas {PAGES[name].examples[0][0]}"
        for name in _FIRST
    )
    others = ", ".join(name for name in PAGES if name not in _FIRST)
    return _OVERVIEW.format(first=first, others=textwrap.fill(f"Also: {others}.", 90))


def command_help(command: str) -> str:
    """Help of a command."""
    page = PAGES[command]
    width = max(len(line) for line, _ in page.examples)
    examples = [f"  atlas {line:{width}}  # {purpose}" for line, purpose in page.examples]
    settings = f"`atlas {command} --help settings` lists the settings, `--cfg job` their values."
    lines = [f"atlas {command}: {page.line}", "", page.more, "", *examples, "", settings]
    return "\n".join(lines)
