"""The look of all pictures: a colour and a line for each algorithm and system, the same in every picture.

Equilibrium propagation is solid and red, backpropagation dashed and blue, the exact gradient of a system dotted and
dark; systems come in one order. The colours are told apart by people who see no red or no green, and by their lightness
in print.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GREY, PALE, EDGE = "#22303c", "#6b7a88", "#e6ebf0", "#b8c4ce"
EP, BACKPROPAGATION, GOLD, GREEN, VIOLET = "#d1495b", "#30638e", "#edae49", "#3c887e", "#8d5b9e"
SERIES = (GOLD, GREEN, VIOLET, GREY, "#7c4f2a", "#5aa9c9")
"""Of what is no algorithm."""
SHADES = (EP, "#7c2234", "#f0a3ab", "#a8641e", "#e07a2f")
"""Of several kinds of equilibrium propagation in one picture."""


class Look(NamedTuple):
    """Colour and line style, as matplotlib takes them."""

    colour: str
    line: str = "-"

    def of_line(self) -> dict[str, Any]:
        """Keywords of `plot`."""
        return {"color": self.colour, "linestyle": self.line}


ALGORITHMS = {
    "ep": Look(EP),
    "bp": Look(BACKPROPAGATION, "--"),
    "exact": Look(INK, ":"),
    "il": Look(GREEN, "-."),
    "epc": Look(VIOLET, "-."),
    "ipc": Look(GREY, "-."),
}
SYSTEMS = {"PCN": Look(EP), "Hopfield": Look(BACKPROPAGATION), "resistive": Look(GOLD), "oscillators": Look(GREEN)}
"""In the order in which pictures show them."""


SPOKEN = {"ep ": "ep", "ep,": "ep", "backprop": "bp", "exact": "exact"}
"""How the words for an algorithm begin, in lower case."""


def kind(name: str) -> str:
    """The algorithm that a name speaks of: `ep` and "EP, centered" are ep, "backpropagation" is bp; else ""."""
    small = name.lower()
    spoken = (algorithm for words, algorithm in SPOKEN.items() if small.startswith(words))
    return small if small in ALGORITHMS else next(spoken, "")


def looks(algorithms: Sequence[str]) -> list[Look]:
    """A look for each algorithm of `algorithms` (names as the commands have them, or in words); several of one kind get
    shades of their own, and one that is not known a colour of SERIES."""
    kinds = list(map(kind, algorithms))
    found = []
    for place, one in enumerate(kinds):
        before = kinds[:place].count(one)
        if one == "ep":
            found.append(Look(SHADES[before % len(SHADES)]))
        elif one and not before:
            found.append(ALGORITHMS[one])
        else:
            line = ALGORITHMS[one].line if one else "-"
            found.append(Look(SERIES[(before - bool(one)) % len(SERIES)], line))
    return found


def frame(axes: "Axes", title: str = "", x: str = "", y: str = "") -> None:
    """Words on a panel, a light grid, no box, a legend without a frame."""
    if title:
        axes.set_title(title, loc="left", fontsize=9, color=INK)
    if x:
        axes.set_xlabel(x, color=INK, fontsize=9)
    if y:
        axes.set_ylabel(y, color=INK, fontsize=9)
    axes.grid(True, which="major", color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(EDGE)
    axes.tick_params(which="both", colors=INK, labelsize=8)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)
