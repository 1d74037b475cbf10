"""The language of an answer, by the caller's Accept-Language: RFC 4647 lookup, in order of q.

A range counts by its primary subtag: the region is dropped. Speakers of Malay, Javanese and
Sundanese read Indonesian rather than English. The rule a newcomer would break: whatever is
malformed in a header is skipped, never an error.
"""

import re

LOCALES = ("id", "en")  # the first is the default

# Primary subtags, the older codes (Java and old Android say `in` and `jw`) and ISO 639-2's beside.
_LOCALE_OF = {
    **dict.fromkeys(("id", "in", "ind"), "id"),
    **dict.fromkeys(("ms", "msa", "may", "zsm", "zlm"), "id"),
    **dict.fromkeys(("jv", "jw", "jav"), "id"),
    **dict.fromkeys(("su", "sun"), "id"),
    **dict.fromkeys(("en", "eng"), "en"),
}
_QUALITY = re.compile(r"(?:0(?:\.\d*)?|1(?:\.0*)?|\.\d+)", re.ASCII)


def best_locale(header: str, default: str = LOCALES[0]) -> str:
    """One of LOCALES; `default` where the header chooses none.

    A q of 0 refuses a language, which then neither `*` nor the default is.
    """
    accepted: list[tuple[float, str]] = []
    refused: set[str] = set()
    for entry in header.split(","):
        tag, *parameters = (part.strip().lower() for part in entry.split(";"))
        quality = _quality(parameters)
        locale = "*" if tag == "*" else _LOCALE_OF.get(re.split("[-_]", tag, maxsplit=1)[0])
        if locale is None or quality is None:
            continue
        if quality == 0:
            refused.add(locale)
        else:
            accepted.append((quality, locale))
    # A language asked for by one of its regions is not refused by another.
    refused -= {locale for _, locale in accepted}
    if default in refused:
        default = next((locale for locale in LOCALES if locale not in refused), default)
    # max keeps the first of equals.
    _, best = max(accepted, key=lambda entry: entry[0], default=(0, "*"))
    return default if best == "*" else best


def _quality(parameters: list[str]) -> float | None:
    """The q parameter; 1 without one; None when it is malformed."""
    for parameter in parameters:
        name, _, value = (part.strip() for part in parameter.partition("="))
        if name == "q":
            return float(value) if _QUALITY.fullmatch(value) else None
    return 1.0
