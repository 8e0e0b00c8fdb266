"""Gives the site what its pages show of the repository around docs/: results, pictures, launch scripts."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
SHOWN = (
    "CHANGELOG.md",
    "CITATION.cff",
    "benchmarks/RESULTS.md",
    "benchmarks/results/*.png",
    "experiments/figures/*.png",
    "experiments/launch/*",
    "experiments/results/README.md",
    "experiments/results/*.png",
    "experiments/results/*.json",
)
LINK = re.compile(r"\]\(\.\./([^)#\s]+)")


def on_files(files: Any, config: Any) -> Any:
    """The pages of docs/, and what `SHOWN` names, at the places that they have in the repository."""
    for pattern in SHOWN:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links of a page of docs/ to the repository around it: to the site's copy, or, where it has none, no link."""
    if "/" in page.file.src_uri:  # such as a page of results, which has its place in the repository
        return markdown

    def at_home(match: re.Match[str]) -> str:
        return f"]({match[1]}"

    known = {file.src_uri for file in files}
    plain = re.sub(
        r"(?<!!)\[([^\]]+)\]\(\.\./([^)#\s]+)\)", lambda m: m[0] if m[2] in known else m[1].strip("`"), markdown
    )
    return LINK.sub(at_home, plain)
