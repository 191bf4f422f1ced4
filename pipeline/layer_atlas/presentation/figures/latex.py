"""LaTeX beside a figure: its environment, a methods section with citations, and the bibliography.

Works of a user's own are cited by their key, as in `[@deng2009imagenet]`, which pandoc reads too.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from layer_atlas.config.records import Reference
from layer_atlas.errors import UserError
from layer_atlas.presentation.figures.works import AUTHORS, known_references

# --- citing --------------------------------------------------------------------------------------

_KEY = re.compile(r"[^\s,{}\\%#\"~@\[\]()]+")
_ENTRY = re.compile(r"@\w+\s*\{\s*([^\s,{}\\%#\"~@\[\]()]+)\s*,.*\}", re.DOTALL)


def own_key(citation: str, where: str) -> str:
    """The key of a user's own work: the citation itself, or that of its BibTeX entry.

    Raises:
        UserError: it is neither.
    """
    entry = _ENTRY.fullmatch(citation.strip())
    if not entry and not _KEY.fullmatch(citation):
        raise UserError(
            f"figure.citations.{where}={citation!r} must be a key, such as deng2009imagenet, or a "
            "whole BibTeX entry: '@article{key, title = {...}, ...}'."
        )
    return entry[1] if entry else citation


def own_entries(citations: Mapping[str, str]) -> dict[str, str]:
    """The BibTeX entries among a user's own citations, by their keys."""
    entries = [text.strip() for text in citations.values() if text.strip().startswith("@")]
    return {found[1]: text for text in entries if (found := _ENTRY.fullmatch(text))}


# --- BibTeX --------------------------------------------------------------------------------------

_JOURNAL = re.compile(r"(.+?) (\d+(?: \([^)]*\))?), (\S+-\S+)")
_CONFERENCE = re.compile(r"(?:CVPR|ICLR|ICML|ICCV|ECCV|NeurIPS|BMVC|AISTATS)\b.*")


def key_of(work: Reference) -> str:
    """The BibTeX key of a work: first author, year, first word of the title.

    >>> key_of(Reference("Olah et al. 2017", "Feature visualization. Distill."))
    'olah2017feature'
    """
    author, year = work.cite.split(" ")[0], _year(work)
    word = next(w for w in re.findall(r"\w+", work.entry) if len(w) > 3)
    return re.sub(r"[^a-z0-9]", "", _ascii(author + year + word).lower())


def _year(work: Reference) -> str:
    """Its year, without the letter that tells works of one author and year apart."""
    return str(re.findall(r"\d{4}", work.cite)[-1])


def _ascii(text: str) -> str:
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def bibtex(work: Reference) -> str:
    """The BibTeX entry of a work."""
    title, _, rest = work.entry.removesuffix(".").partition(". ")
    kind, fields = "misc", {"author": AUTHORS[work.cite], "title": f"{{{escaped(title)}}}"}
    place = []
    for part in rest.split(", "):
        scheme, _, identifier = part.partition(":")
        if scheme == "doi":
            fields["doi"] = identifier
        elif scheme == "arXiv":
            fields |= {"eprint": identifier, "archivePrefix": "arXiv"}
        else:
            place.append(part)
    venue = ", ".join(place)
    if found := _JOURNAL.fullmatch(venue):
        kind, pages = "article", found[3].replace("-", "--")
        fields |= {"journal": found[1], "volume": found[2], "pages": pages}
    elif venue == "Distill":
        kind, fields = "article", fields | {"journal": venue}
    elif _CONFERENCE.fullmatch(venue):
        kind, fields = "inproceedings", fields | {"booktitle": venue}
    elif venue or "eprint" in fields:
        # Styles that know no `eprint` still print where the work is.
        fields["howpublished"] = venue or f"arXiv:{fields['eprint']}"
    return entry_text(kind, key_of(work), {**fields, "year": _year(work)})


def network_entry(key: str, title: str, note: str) -> str:
    """The BibTeX entry of a network on which no work is known."""
    # Styles sort by author, or by `key` where there is none.
    fields = {"title": f"{{{escaped(title)}}}", "note": escaped(note), "key": escaped(title)}
    return entry_text("misc", key, fields)


def entry_text(kind: str, key: str, fields: Mapping[str, str]) -> str:
    """Write a BibTeX entry; values are LaTeX."""
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])


def merged_bibliography(before: str, entries: Iterable[str]) -> str:
    """Add entries to a bibliography, in order of their keys; new ones replace those of their key.

    Several figures of a folder share one file, because LaTeX refuses a key that is in two.
    """
    known = {found[1]: text for text in _entries(before) if (found := _ENTRY.fullmatch(text))}
    known |= {found[1]: text for text in entries if (found := _ENTRY.fullmatch(text))}
    return "".join(f"{known[key]}\n\n" for key in sorted(known)).removesuffix("\n")


def _entries(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"\n\s*\n(?=@)", text) if part.strip()]


# --- LaTeX ---------------------------------------------------------------------------------------

_TEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "†": r"\textdagger{}",
    "‡": r"\textdaggerdbl{}",
    "·": r"\textperiodcentered{}",
    "−": r"$-$",
    "×": r"$\times$",
    "…": r"\dots{}",
}


def escaped(text: str) -> str:
    """Escape a text for LaTeX.

    >>> escaped("layer_1 & 50 %")
    'layer\\\\_1 \\\\& 50 \\\\%'
    """
    return "".join(_TEX.get(sign, sign) for sign in text)


def with_cites(text: str) -> str:
    """Escape a text for LaTeX, with `\\cite` in place of authors and years and of `[@key]`.

    >>> with_cites("by Adam (Kingma & Ba 2015) with 50 % [@own]")
    'by Adam~\\\\cite{kingma2015adam} with 50 \\\\%~\\\\cite{own}'
    """
    works = {work.cite: key_of(work) for work in known_references()}
    one = "|".join(map(re.escape, sorted(works, key=len, reverse=True)))
    pattern = re.compile(rf" ?\((?:{one})(?:; (?:{one}))*\)|{one}| ?\[@[^\]]+\]")
    parts, end = [], 0
    for found in pattern.finditer(text):
        inner = found[0].strip(" ()[]")
        keys = [works.get(cite, cite.removeprefix("@")) for cite in inner.split("; ")]
        tie = "~" if found[0].startswith(" ") else ""
        parts += [escaped(text[end : found.start()]), f"{tie}\\cite{{{','.join(keys)}}}"]
        end = found.end()
    return "".join([*parts, escaped(text[end:])])


_COLUMN = 3.6
"""Largest width in inches of a figure in one of two columns."""


def figure_environment(
    name: str, caption: str, width: float | str, endings: Sequence[str], pages: int
) -> str:
    """The figure as LaTeX: an environment for each page, the first with caption and label.

    Args:
        name: name of the figure's files, without the ending.
        caption: `\\caption{...}`.
        width: `column`, `text`, `slide` or inches.
        endings: endings of the figure's files, such as `.pdf` or `-2.png`.
        pages: number of pages.
    """
    # A starred figure spans both columns, and is an ordinary one where there is one column.
    narrow = width == "column" or (isinstance(width, float) and width <= _COLUMN)
    kind = "figure" if narrow else "figure*"
    size = f"width={width:g}in" if isinstance(width, float) else "width=\\linewidth"
    label, pdf = f"fig:{name}", ".pdf" in endings
    blocks = [] if pdf or any(end.endswith(".png") for end in endings) else [_UNREADABLE]
    for page in range(1, pages + 1):
        options = f"{size}, page={page}" if pdf and pages > 1 else size
        file = name if pdf or pages == 1 else f"{name}-{page}"
        # Further pages are no figures of their own; `\\ContinuedFloat` would need a package.
        words = f"Figure~\\ref{{{label}}}, continued."
        if page == 1:
            words = f"{caption}\n  \\label{{{label}}}"
        blocks.append(
            f"\\begin{{{kind}}}\n  \\centering\n  \\includegraphics[{options}]{{{file}}}\n"
            f"  {words}\n\\end{{{kind}}}\n"
        )
    return "\n".join(blocks)


_UNREADABLE = "% LaTeX includes pdf and png: draw the figure with figure.formats=[pdf].\n"
