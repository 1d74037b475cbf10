"""What all query strings have in common: an empty parameter is not given; how true is spelled."""

from collections.abc import Mapping, Sequence

TRUE, FALSE = ("1", "true"), ("0", "false")


def drop_empty(given: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The parameters that say something: a form sends its empty fields too."""
    kept = {name: [value for value in values if value] for name, values in given.items()}
    return {name: values for name, values in kept.items() if values}


def parse_flag(text: str) -> bool | None:
    """What a flag says; None when it is neither true nor false."""
    spelled = text.strip().lower()
    return True if spelled in TRUE else False if spelled in FALSE else None
