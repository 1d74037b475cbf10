#!/usr/bin/env bash
# pydantic 2.14.3, seen 2026-11-28.
# In Indonesia, and in most of Europe, a thousand is written 1.000. An `int` field that is given text,
# as from a form or a sheet, takes "1.000" for the decimal number one: no error, a value a thousand
# times too small. "1.500" is refused, so a trial with the wrong number shows nothing. "1_000", which
# nobody types, is a thousand. `strict=True` takes no text at all.
# What holds: a pattern before the integer (`BeforeValidator`), or a text field read by yourself.
# Seen:
#   1.000: 1
#   12.000: 12
#   1.500: int_parsing
#   1,000: int_parsing
#   1_000: 1000
PACKAGES='pydantic==2.14.3'
. "$(dirname "$0")/_venv.sh"
"$VENV_PYTHON" - <<'PROGRAM'
from pydantic import BaseModel, ValidationError


class Order(BaseModel):
    pieces: int


def read(text):
    try:
        return str(Order(pieces=text).pieces)
    except ValidationError as error:
        return error.errors()[0]["type"]


seen = [f"{text}: {read(text)}" for text in ("1.000", "12.000", "1.500", "1,000", "1_000")]
print("\n".join(seen))
expected = ["1.000: 1", "12.000: 12", "1.500: int_parsing", "1,000: int_parsing", "1_000: 1000"]
assert seen == expected, "CHANGED"
PROGRAM
