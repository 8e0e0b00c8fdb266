"""Measurements behind the library's claims: `python -m benchmarks NAME [--json FILE] [--quick]`.

A benchmark is a module with NAME, COLUMNS (those of its table), run(quick) -> rows and draw(rows, path). Every row is
a dict of plain values that holds what it was measured with, so that it can be read alone. A module may also offer
targets(rows) -> list of `Target` and tables(rows) -> list of `Table` for the page of results; the page introduces it
with the module's docstring.
"""
