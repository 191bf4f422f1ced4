"""LaTeX beside figures: it parses, cites what the bibliography has, and shows every page."""

import re
from pathlib import Path

import bibtexparser
import h5py
import pytest
from atlases import add_photographs, made_up
from pylatexenc.latexwalker import LatexEnvironmentNode, LatexMacroNode, LatexNode, LatexWalker

from layer_atlas.config.outputs import Group, ImagesFigure, TracesFigure
from layer_atlas.errors import UserError
from layer_atlas.presentation.figures.latex import (
    bibtex,
    figure_environment,
    key_of,
    merged_bibliography,
    own_key,
    with_cites,
)
from layer_atlas.presentation.figures.make import BIBLIOGRAPHY, make_figure
from layer_atlas.presentation.figures.works import (
    AUTHORS,
    architecture_title,
    cited,
    known_references,
    network_works,
)
from layer_atlas.store.folder import OutputFolder

OWN = "@article{mine_2026, title = {My {P}hotographs \\& others}, year = {2026}}"
NASTY = (Group(name='50 % of #1_x & {y} \\z ~ ^ $a$ <b> |c| "d" † ‡ · − × …', channels=[3]),)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> OutputFolder:
    root = tmp_path_factory.mktemp("runs") / "toy"
    file = made_up(root, {"conv_1": 20, "fc": 6}, (0, 3))
    add_photographs(file)
    with h5py.File(file, "a") as atlas:
        atlas["toy"].attrs["source"] = "torchvision/resnet18"
        for layer in atlas["toy"].values():
            layer["dataset"].attrs["source"] = "torchvision ImageNet"
    made = OutputFolder(root)
    make_figure(made, ImagesFigure(layers=("conv_1",), groups=NASTY, dpi=72))
    make_figure(made, TracesFigure(width="column", citations={"dataset": OWN, "toy": "theirs"}))
    return made


def nodes(latex: str) -> list[LatexNode]:
    """Every node of a LaTeX text, which must parse as it stands."""
    found: list[LatexNode] = []

    def visit(node: LatexNode) -> None:
        found.append(node)
        inner = list(getattr(node, "nodelist", None) or [])
        inner += [n for n in getattr(getattr(node, "nodeargd", None), "argnlist", None) or [] if n]
        for child in inner:
            visit(child)

    for node in LatexWalker(latex, tolerant_parsing=False).get_latex_nodes()[0]:
        visit(node)
    return found


def macros(latex: str, name: str) -> list[LatexMacroNode]:
    return [n for n in nodes(latex) if isinstance(n, LatexMacroNode) and n.macroname == name]


def read(folder: OutputFolder, name: str) -> str:
    return (folder.figures / name).read_text()


def entries(text: str) -> dict[str, dict[str, str]]:
    """Entries of a bibliography by key, which must parse without any failure."""
    library = bibtexparser.parse_string(text)
    assert not library.failed_blocks
    assert len(library.entries) == len(library.entries_dict)
    return {e.key: {f.key: str(f.value) for f in e.fields} for e in library.entries}


def cite_keys(latex: str) -> set[str]:
    found = re.findall(r"\\cite\{([^}]*)\}", latex)
    assert len(found) == len(macros(latex, "cite"))
    return {key for keys in found for key in keys.split(",")}


@pytest.mark.parametrize("name", ["images", "traces"])
def test_the_environment_has_picture_caption_and_label(folder: OutputFolder, name: str) -> None:
    text = read(folder, f"{name}.tex")
    (environment,) = [n for n in nodes(text) if isinstance(n, LatexEnvironmentNode)]
    # A column of a page with two takes `figure`, a whole page the starred one.
    assert environment.environmentname == {"images": "figure*", "traces": "figure"}[name]
    assert len(macros(text, "caption")) == len(macros(text, "centering")) == 1
    assert rf"\label{{fig:{name}}}" in text
    assert rf"\includegraphics[width=\linewidth]{{{name}}}" in text
    assert (folder.figures / f"{name}.pdf").exists()
    caption = read(folder, f"{name}.caption.tex").splitlines()[-1]
    assert caption in text


def test_everything_that_a_text_may_hold_is_inert(folder: OutputFolder) -> None:
    text = read(folder, "images.tex")
    known = {"begin", "end", "centering", "includegraphics", "linewidth", "caption", "label"}
    signs = {"textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater"}
    signs |= {"textbar", "textdagger", "textdaggerdbl", "textperiodcentered", "times", "dots"}
    used = {n.macroname for n in nodes(text) if isinstance(n, LatexMacroNode)}
    assert used <= known | signs | set("%#_&{}$")
    for told in (r"50 \% of \#1\_x \& \{y\} \textbackslash{}z", r"\$a\$ \textless{}b"):
        assert told in text


@pytest.mark.parametrize("name", ["images", "traces"])
def test_every_key_of_the_methods_is_in_the_bibliography(folder: OutputFolder, name: str) -> None:
    keys = cite_keys(read(folder, f"{name}.methods.tex"))
    known = entries(read(folder, BIBLIOGRAPHY))
    # `theirs` is a key of the author's own bibliography.
    assert keys - {"theirs"} <= known.keys()
    assert {"olah2017feature", "kingma2015adam"} <= keys
    if name == "images":
        assert {"he2016deep", "russakovsky2015imagenet"} <= keys
    else:
        assert {"mine_2026", "theirs"} <= keys
        assert not {"he2016deep", "russakovsky2015imagenet"} & keys
    assert known["mine_2026"]["title"] == "My {P}hotographs \\& others"


def test_markdown_cites_the_same_works_by_author_and_year(folder: OutputFolder) -> None:
    text = read(folder, "images.methods.md")
    assert "of ResNet-18 (toy) (He et al. 2016) (torchvision/resnet18" in text
    assert "500 dataset images (Russakovsky et al. 2015) were recorded" in text
    assert "- He et al. 2016. Deep residual learning for image recognition. CVPR" in text
    assert "500 dataset images [@mine_2026]" in read(folder, "traces.methods.md")


def test_a_network_of_a_users_own_has_an_entry_with_its_name(tmp_path: Path) -> None:
    made_up(tmp_path / "toy", {"a": 3})
    folder = OutputFolder(tmp_path / "toy")
    make_figure(folder, TracesFigure())
    methods, known = read(folder, "traces.methods.tex"), entries(read(folder, BIBLIOGRAPHY))
    assert r"of toy~\cite{network-toy} (SHA-256" in methods
    assert known["network-toy"]["title"] == "{toy}"
    assert "c0ffeec0ffee" in known["network-toy"]["note"]
    assert "network-toy" not in read(folder, "traces.methods.md")


def test_what_is_no_citation_is_refused(folder: OutputFolder) -> None:
    with pytest.raises(UserError, match=r"figure.citations.dataset='two words' must be a key"):
        make_figure(folder, TracesFigure(citations={"dataset": "two words"}))
    with pytest.raises(UserError, match=r"unknown figure.citations 'tyo'"):
        make_figure(folder, TracesFigure(citations={"tyo": "key"}))
    assert own_key(OWN, "dataset") == "mine_2026"


@pytest.mark.parametrize("work", known_references(), ids=lambda work: work.cite)
def test_every_work_has_an_entry_that_says_what_its_reference_says(work: object) -> None:
    assert hasattr(work, "cite")
    assert hasattr(work, "entry")
    ((key, fields),) = entries(bibtex(work)).items()  # type: ignore[arg-type]
    assert key == key_of(work)  # type: ignore[arg-type]
    assert key.isascii()
    assert fields["year"] == work.cite.removesuffix("b")[-4:]
    first = fields["author"].split(" and ")[0].partition(",")[0]
    assert work.cite.startswith(first)
    n = len(fields["author"].split(" and "))
    assert ("et al." in work.cite) == (n > 2)
    assert (" & " in work.cite) == (n == 2)
    for name in ("eprint", "doi"):
        assert fields.get(name, "") in work.entry


def test_keys_tell_all_works_apart() -> None:
    works = known_references()
    assert len({key_of(work) for work in works}) == len(works)
    assert {work.cite for work in works} == AUTHORS.keys()


@pytest.mark.parametrize(
    ("source", "title", "cites"),
    [
        ("torchvision/squeezenet1_1", "SqueezeNet 1.1", ["Iandola et al. 2016"]),
        ("torchvision/resnet50", "ResNet-50", ["He et al. 2016"]),
        ("torchvision/wide_resnet50_2", "Wide ResNet-50-2", ["Zagoruyko & Komodakis 2016"]),
        ("torchvision/vit_b_16", "ViT-B/16", ["Dosovitskiy et al. 2021"]),
        ("torchvision/convnext_tiny", "ConvNeXt-Tiny", ["Liu et al. 2022"]),
        ("torchvision/fcn_resnet50", "fcn_resnet50", []),
        ("timm/resnet18.a1_in1k", "resnet18.a1_in1k", ["He et al. 2016", "Wightman 2019"]),
        ("timm/resnet18d", "resnet18d", ["Wightman 2019"]),
        ("demo", "demo", []),
        ("mypackage.resnet18", "mypackage.resnet18", []),
    ],
)
def test_networks_are_known_by_name(source: str, title: str, cites: list[str]) -> None:
    assert architecture_title(source) == title
    assert [work.cite for work in network_works(source)] == cites


def test_citations_in_parentheses_become_one() -> None:
    text = with_cites("as (Olah et al. 2017; Fel et al. 2023) and, of Bar-Joseph et al. 2001, 5 %")
    both = r"\cite{olah2017feature,fel2023unlocking}"
    assert text == rf"as~{both} and, of \cite{{barjoseph2001fast}}, 5 \%"


def test_pages_of_a_figure_are_included_one_by_one() -> None:
    pdf = figure_environment("f", r"\caption{x}", 5.0, [".pdf", "-1.png", "-2.png"], 2)
    assert re.findall(r"includegraphics\[(.*?)\]\{(.*?)\}", pdf) == [
        ("width=5in, page=1", "f"),
        ("width=5in, page=2", "f"),
    ]
    assert pdf.count(r"\caption") == pdf.count(r"\label") == pdf.count(r"\ref{fig:f}") == 1
    png = figure_environment("f", r"\caption{x}", "column", ["-1.png", "-2.png"], 2)
    assert re.findall(r"includegraphics\[.*?\]\{(.*?)\}", png) == ["f-1", "f-2"]
    svg = figure_environment("f", r"\caption{x}", "column", [".svg"], 1)
    assert svg.startswith("% LaTeX includes pdf and png")
    for text in (pdf, png, svg):
        assert nodes(text)


def test_a_bibliography_keeps_what_other_figures_cite() -> None:
    first = merged_bibliography("", ["@misc{b,\n  title = {B},\n}", "@misc{a,\n  title = {A},\n}"])
    assert list(entries(first)) == ["a", "b"]
    second = merged_bibliography(first, ["@misc{b,\n  title = {New},\n}", "@misc{c, title = {C}}"])
    found = entries(second)
    assert list(found) == ["a", "b", "c"]
    assert found["b"]["title"] == "New"
    assert merged_bibliography(second, []) == second


def test_works_of_one_author_and_year_are_told_apart() -> None:
    both = {work.cite: work for work in known_references()}
    first, second = both["Nguyen et al. 2016"], both["Nguyen et al. 2016b"]
    assert cited("as before (Nguyen et al. 2016b)") == [second]
    assert cited("as before (Nguyen et al. 2016; Nguyen et al. 2016b)") == [first, second]
    assert key_of(first) != key_of(second)
    assert "year = {2016}" in bibtex(second)
