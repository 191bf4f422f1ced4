"""The manual: what the command line says of itself, in one page per command."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Page:
    """What there is to know of a command."""

    line: str
    """What it does, in a line."""
    more: str
    """What else to know."""
    examples: tuple[tuple[str, str], ...]
    """Command lines without `atlas`, each with what it is for."""


PAGES = {
    "run": Page(
        "optimise what is missing, then collate; running it again resumes",
        """\
Plans the sweep models x layers x channels x seeds, makes every image that the output folder
lacks, and collates them. It may be stopped at any time: the same command goes on where it was.
Ctrl-C finishes the shards in progress, a second one stops at once.
Exit codes: 0 done, 1 some images failed, 2 a mistake in what was asked, 74 the disk,
75 told to leave, 130 interrupted.""",
        (
            ("run", "the demo network, all convolutions"),
            ("run models=[resnet50] 'layers=[layer3.*]' name=deep", "layers chosen by globs"),
            ("run channels='0:64' 'seeds=[0,1]' quality=paper", "some channels, twice, with care"),
            ("run experiment=evidence dataset.path=photos", "with photographs beside images"),
            ("run executor=slurm executor.partition=gpu", "on a cluster"),
        ),
    ),
    "plan": Page(
        "what a run would do: models, layers, channels, time, disk",
        "Takes the settings of `atlas run`, loads the networks, and writes nothing.",
        (
            ("plan models=[resnet50]", "a table of all convolutions, with an estimate"),
            ("plan name=demo", "what of the demo is done already"),
        ),
    ),
    "layers": Page(
        "the layers of the models: name, type, channels, shape, FLOPs",
        "Names are what `layers=[...]` takes, besides globs and module types (`*@Conv2d`).",
        (
            ("layers models=[resnet50] weights=none", "without downloading weights"),
            ("layers models=[vit_b_16] 'layers=[*mlp*]'", "only those"),
        ),
    ),
    "objectives": Page(
        "the objectives, with their settings and defaults",
        "Choose one by `objective=NAME`. `???` marks a setting without a default.",
        (("objectives", "all, with what can be set as objective.KEY=VALUE"),),
    ),
    "parameterizations": Page(
        "the parameterizations, with their settings and defaults",
        "Choose one by `parameterization=NAME`. `???` marks a setting without a default.",
        (("parameterizations", "all, with what can be set as parameterization.KEY=VALUE"),),
    ),
    "status": Page(
        "how far an output folder is, and who is at work (`all`: every layer)",
        "Works beside a run, on any machine that sees the folder. Reads, and writes nothing.",
        (
            ("status name=resnet50", "a summary: done, rate, time left, last failures"),
            ("status all name=resnet50", "every layer"),
        ),
    ),
    "failures": Page(
        "which tasks failed; of a LAYER or the beginning of a KEY, the full story",
        "Every attempt keeps its traceback and the last lines of its worker's log.",
        (
            ("failures name=resnet50", "a list"),
            ("failures 3f2a name=resnet50", "of the task whose key begins so, everything"),
        ),
    ),
    "retry": Page(
        "have the next run try again what was given up; all, or a LAYER or KEY",
        "A task is given up after `executor.attempts` attempts, and stays so until it is put back.",
        (
            ("retry name=resnet50", "everything that was given up"),
            ("retry layer3.0.conv1 name=resnet50", "of one layer"),
        ),
    ),
    "collate": Page(
        "rebuild montages, atlas.h5 and site from the store alone",
        "Needs no model and no GPU. `atlas run` does it in the end, where something changed.",
        (
            ("collate name=demo collate.tile=64", "smaller tiles"),
            ("collate name=demo montage=evidence", "with sheets of photographs"),
        ),
    ),
    "figure": Page(
        "a figure for a paper: images in a grid, curves, histograms, maps",
        """\
Draws from atlas.h5 alone and collates first where that is behind; needs no model and no GPU.
Beside the figure lie its caption for LaTeX, a paragraph for a methods section, and its
provenance, which is in the figure too. docs/figures.md shows every kind.""",
        (
            ("figure name=demo 'figure.layers=[conv6]'", "every channel of a layer, as PDF"),
            ("figure figure.width=column 'figure.channels={top: 16}'", "for a column of a paper"),
            ("figure figure=responses figure.clusters=8", "which channels are alike"),
            ("figure figure=again figure.path=images.pdf", "the same once more"),
        ),
    ),
    "site": Page(
        "pages to browse the atlas with, which open from disk",
        """\
Made from atlas.h5 alone, after collating where that is behind; needs no model and no GPU.
`atlas run` does it in the end, unless `collate.site=false`. Open site/index.html, or put the
folder site/ on any web host.""",
        (("site name=demo", "prints which page to open"),),
    ),
    "verify": Page(
        "check digests, the atlas, and a sample of activations",
        "Reads every shard, compares the atlas with them, and computes some activations again.",
        (("verify name=demo", "exit code 1 if anything is wrong"),),
    ),
    "clean": Page(
        "remove what no current plan wants, after showing it (`yes`: do not ask)",
        "What an earlier, wider or other sweep left in the folder is kept until this is called.",
        (
            ("clean name=demo", "show, ask, remove"),
            ("clean yes name=demo", "for scripts"),
        ),
    ),
}


def overview() -> str:
    """What `atlas` alone says."""
    width = max(map(len, PAGES))
    lines = [f"  atlas {name:{width}}  {page.line}" for name, page in PAGES.items()]
    return "\n".join(
        [
            "Layer Atlas: for every channel of every layer, the image that excites it most.",
            "",
            *lines,
            "",
            "Try `atlas run`: a small network that comes with the package, about half a minute.",
            "Then   `atlas COMMAND --help` for examples, `atlas run --cfg job` for all settings.",
            "",
        ]
    )


def page(command: str) -> str:
    """What `atlas COMMAND --help` says before Hydra lists the settings."""
    told = PAGES[command]
    width = max(len(line) for line, _ in told.examples)
    examples = [f"  atlas {line:{width}}  # {purpose}" for line, purpose in told.examples]
    return "\n".join([f"atlas {command}: {told.line}", "", told.more, "", *examples, ""])
