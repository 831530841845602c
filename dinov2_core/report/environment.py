"""How pages that carry words of the web are filled in: everything escaped. The pages and templates lie elsewhere."""

from __future__ import annotations

from collections.abc import Callable

import jinja2


def environment(package: str, **filters: Callable[..., object]) -> jinja2.Environment:
    """The templates of ``package``, for pages that carry words of the web: all is escaped, a name misspelt an error."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters.update(filters)
    return made
