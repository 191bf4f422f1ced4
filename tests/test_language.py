"""The language of the project: phrases that must not come back, and short sentences."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from docs_pages import PAGES, ROOT

import layer_atlas

PACKAGE = Path(layer_atlas.__file__).parent
TEXTS = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
ROOMS = sorted({path.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*.py")})

WORDS_PER_SENTENCE = 18

PHRASES = (
    # How to write: active voice, the actor named, the plain verb.
    (r"(is|are|was|were|be|been|being) (\w+ )?told", "name the actor: prints, reports, logs"),
    (r"told to (leave|go|stop)", "preempted, stopped, or the signal"),
    (r"tells? (of|that|what|which|how|whether|why|them|it|all)", "reports, states, shows"),
    (r"says? (of|so|what|which|how|whether)", "states, reports, prints"),
    (r"(becomes?|became) of", "name the result"),
    (r"(an|one) answer(s)? to (photographs|images)", "responds to"),
    (r"memory bears", "the largest batch that fits in memory"),
    (r"are no positions", "non-spatial tokens are excluded"),
    (r"does not move within", "has no heartbeat for"),
    (r"left out|leaves? out", "excluded, or skipped"),
    (r"as good as (can be|possible)", "say how good"),
    (r"the whole story|the full story", "every attempt, with its traceback"),
    # The field's names: the method.
    (r"excites it most", "feature visualization (activation maximization)"),
    (r"climb(s|ed|ing|er)?", "optimizes, maximizes; the loss or surrogate"),
    (r"ascends?|ascended", "optimizes; gradient ascent is the name of the method only"),
    (r"steppers?|quasi_?newton", "BatchOptimizer, BatchLBFGS"),
    (r"likeness(es)?", "similarity"),
    (r"zoom(s|ed|ing)?", "scale"),
    (r"shares? of", "fraction of"),
    (r"(?<!\")class_token(?!=)|class_tokens_kept", "keep_prefix_tokens, prefix_tokens"),
    # The field's names: the parts.
    (r"workbench(es)?|layer_?bench(es)?", "DeviceModel, LayerRenderer"),
    (r"survey(s|ed|ing)?", "inspection, introspection"),
    (r"LeftOut|left_out", "SkippedModel"),
    (r"crews?", "workers"),
    (r"blam(e|es|ed|ing)", "failure policy"),
    (r"last_words|last words", "log tail"),
    (r"pulses?", "heartbeat"),
    (r"lasting", "detached"),
    (
        r"(?<![-(\"])stud(y|ies|ied|ying)(?!/)",
        "dataset statistics; schema and folder keep the name",
    ),
    (r"(figure|saliency)\.photographs", "figure.dataset_images, saliency.dataset_images"),
    (r"films?", "animations, filmstrip"),
    (r"sightings?", "WorkerStatus"),
    (r"briefs?|in brief", "summary"),
    (r"wording", "labels"),
    (r"inert", "sanitized"),
    (r"sealed", "checksummed"),
    (r"from layer_atlas\.(survey|crew|blame|stock|aim|words|standing)", "the rooms of the design"),
    (r"import pipeline|from pipeline|pipeline\.objectives", "import layer_atlas"),
)
"""Phrases, as regular expressions of whole words, and what to write instead."""


def findings(text: str) -> Iterator[str]:
    """Lines of a text that hold a phrase of the list, each with the remedy."""
    for phrase, instead in PHRASES:
        # A phrase may be broken over two lines.
        pattern = rf"\b(?:{phrase})\b".replace(" ", r"\s+")
        for found in re.finditer(pattern, text, re.IGNORECASE):
            line = text.count("\n", 0, found.start()) + 1
            yield f"line {line}: {found[0]!r}; write: {instead}"


def without_code(text: str) -> str:
    """A page with its fenced blocks emptied: what commands print is scanned in the package."""
    return re.sub(
        r"^```.*?^```$", lambda block: "\n" * block[0].count("\n"), text, flags=re.M | re.S
    )


@pytest.mark.parametrize(
    "path", [*TEXTS, *(ROOT / "docs").glob("*.ipynb")], ids=lambda path: path.name
)
def test_no_page_has_a_phrase_of_the_list(path: Path) -> None:
    assert not list(findings(without_code(path.read_text())))


def test_no_config_and_no_script_has_a_phrase_of_the_list() -> None:
    scripts = [path for end in ("py", "sh") for path in (ROOT / "scripts").rglob(f"*.{end}")]
    files = sorted([*(ROOT / "conf").rglob("*.yaml"), *scripts])
    found = [(path.name, line) for path in files for line in findings(path.read_text())]
    assert not found


@pytest.mark.parametrize("room", [PACKAGE / name for name in ROOMS], ids=lambda path: path.name)
def test_no_room_of_the_package_has_a_phrase_of_the_list(room: Path) -> None:
    files = sorted(room.rglob("*.py")) if room.is_dir() else [room]
    assert not [(str(path), line) for path in files for line in findings(path.read_text())]


@pytest.mark.parametrize("room", [PACKAGE / name for name in ROOMS], ids=lambda path: path.name)
def test_no_docstring_begins_with_of(room: Path) -> None:
    files = sorted(room.rglob("*.py")) if room.is_dir() else [room]
    assert not [text for path in files for text in docstrings(path) if text.startswith("Of ")]


def docstrings(path: Path) -> Iterator[str]:
    """Docstrings of a module, its classes and functions, and those under constants and fields."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield str(node.value.value)


# --- sentences -----------------------------------------------------------------------------------


def blocks_of_prose(text: str) -> list[str]:
    """Paragraphs and list items, without code, tables, pictures and headings."""
    blocks = [""]
    for line in without_code(text).splitlines():
        item = re.match(r"\s*(?:[-*]|\d+\.) (.*)", line)
        if not line.strip() or line.startswith(("#", "|", "![", "    ")):
            blocks.append("")
        elif item:
            blocks.append(item[1])
        else:
            blocks[-1] += f" {line.strip()}"
    return [block.strip() for block in blocks if block.strip()]


def sentences(text: str) -> list[str]:
    """The sentences of a page. Inline code is one word, and a link its text."""
    found = []
    for block in blocks_of_prose(text):
        plain = re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`]*`", "code", block))
        found += re.split(r"(?<=[.!?])[)*_\"]*\s+(?=[\[(*_\"]*[A-Z])", plain)
    return found


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_sentences_are_short(path: Path) -> None:
    lengths = [len(sentence.split()) for sentence in sentences(path.read_text())]
    assert sum(lengths) / len(lengths) <= WORDS_PER_SENTENCE


def test_sentences_are_counted() -> None:
    page = "# A\n\nOne two three. Four `a b c` six!\n\n- Seven [eight](x.md)\n  nine\n\n| a |\n"
    assert sentences(page) == ["One two three.", "Four code six!", "Seven [eight] nine"]


def test_phrases_are_found() -> None:
    assert list(findings("A worker is\n  told to leave."))
    assert not list(findings("The film_grain of a prestudy."))
