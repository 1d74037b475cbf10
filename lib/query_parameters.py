"""Query strings: an empty parameter is not given; how a flag is written."""

from collections.abc import Mapping, Sequence

TRUE, FALSE = ("1", "true"), ("0", "false")


def drop_empty(parameters: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The parameters with a value: a form sends its empty fields too."""
    return {name: list(filter(None, values)) for name, values in parameters.items() if any(values)}


def parse_flag(text: str) -> bool | None:
    """None when it is neither true nor false."""
    word = text.strip().lower()
    return True if word in TRUE else False if word in FALSE else None
