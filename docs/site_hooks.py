"""What MkDocs is told about these pages (mkdocs.yml): generated reference, and files of the repository that pages link to.

Pages link as they must in the repository. A link that leaves docs/ brings its target into the site, below `repository/`; a link to a folder
of schemas or of configurations leads to the page that says what is in it.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).parent))
from make_reference import reference_pages  # noqa: E402 (it lies beside this file)

LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")
FOLDER_PAGES = {"docs/schemas": "reference/records.md", "docs/examples/row_gather": "examples/row_gather/row_gather.py", "docs": "index.md"}
FOLDER = "repository"


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages, and every file outside of docs that a page links to, and so on."""
    for name, text in reference_pages().items():
        files.append(File.generated(config, name, content=text))
    waiting = [(Path("docs") / file.src_uri, file.content_string) for file in list(files.documentation_pages())]
    while waiting:
        source, text = waiting.pop()
        for link in LINK.finditer(text):
            target = _target(source, link[2])
            name = f"{FOLDER}/{target}"
            if target.startswith("docs/") or not (ROOT / target).is_file() or files.get_file_from_path(name):
                continue
            if target.endswith(".md"):
                files.append(File.generated(config, name, content=(ROOT / target).read_text(encoding="utf-8")))
                waiting.append((Path(target), (ROOT / target).read_text(encoding="utf-8")))
            else:
                files.append(File.generated(config, name, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Let links that leave docs, or lead to a folder, point at what the site has in their place."""
    uri = page.file.src_uri
    source = Path(uri.removeprefix(f"{FOLDER}/")) if uri.startswith(f"{FOLDER}/") else Path("docs") / uri

    def moved(link: re.Match[str]) -> str:
        target = _target(source, link[2])
        place = FOLDER_PAGES.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else f"{FOLDER}/{target}")
        if not files.get_file_from_path(place):
            return link[0]
        return f"{link[1]}{posixpath.relpath(place, posixpath.dirname(uri) or '.')}{link[3]}"

    return LINK.sub(moved, markdown)


def _target(source: Path, link: str) -> str:
    """The path in the repository that a link in a file means."""
    return posixpath.normpath(posixpath.join(source.parent.as_posix(), link))
