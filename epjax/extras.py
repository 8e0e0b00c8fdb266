"""Dependencies by what needs them: `import epjax` needs jax, flax and optax; the rest comes with extras."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str) -> Iterator[None]:
    """A context for imports of what the extra `name` installs: one that is missing is one sentence with the command."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "epjax":
            raise
        message = f"{error.name} is not installed; install what needs it: pip install 'epjax[{name}]'"
        raise ModuleNotFoundError(message, name=error.name) from None
