"""MkDocs hook: adds the README as a page, and adapts the links between it and the other pages."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

PAGE = "overview.md"


def on_files(files: Files, config: Any) -> Files:
    """Add the README, which lies outside the folder of pages."""
    readme = Path(config.docs_dir).parent / "README.md"
    files.append(File.generated(config, PAGE, abs_src_path=str(readme)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links as they are in the repository into those of the site."""
    if page.file.src_uri == PAGE:
        # Files such as the licence are no pages of the site: their links become plain text.
        outside = r"(?<!!)\[([^\]]+)\]\((?!docs/|https?:|#)[^)]+\)"
        return re.sub(outside, r"\1", markdown).replace("](docs/", "](")
    return markdown.replace("](../README.md", f"]({PAGE}")
