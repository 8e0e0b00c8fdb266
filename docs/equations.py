"""Turns the mathematics of the pages into pictures within them: no script, no font, no network."""

import html
import re
from typing import Any
from xml.etree import ElementTree

import ziamath

ziamath.config.svg2 = False
ziamath.config.precision = 2
MATH = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
SIZE = 16.0
"""Pixels that an em of the text has: pictures are measured in em, so that they grow with it."""


def on_page_content(page_html: str, page: Any, **_: Any) -> str:
    """Replace what pymdownx.arithmatex has marked; let docstrings that name the page on the method link to it."""
    method = "../" * page.url.count("/") + "method/"
    page_html = re.sub(r"docs/method\.md section (\d)", rf'<a href="{method}">Method</a>, section \1', page_html)
    return MATH.sub(lambda match: picture(html.unescape(match[2]).strip(), match[1] == "div"), page_html)


def picture(latex: str, display: bool) -> str:
    """An equation as SVG, on the text's baseline or on a line of its own, with its LaTeX for those who listen."""
    equation = ziamath.Latex(latex, size=SIZE, color="currentColor", inline=not display)
    svg = equation.svgxml()
    width, height = (float(svg.get(side)) / SIZE for side in ("width", "height"))
    below = sum(float(n) for n in svg.get("viewBox").split()[1::2]) / SIZE  # from the baseline to the lower edge
    svg.attrib.update({"role": "img", "aria-label": latex, "width": f"{width:.3f}em", "height": f"{height:.3f}em"})
    if not display:
        svg.set("style", f"vertical-align: {-below:.3f}em")
    text = ElementTree.tostring(svg, encoding="unicode")
    return f'<div class="equation">{text}</div>' if display else text
