"""The text of a file that a person saved: UTF-8, UTF-16 or Windows-1252, told by its bytes.

The rule a newcomer would break: an encoding that is not certain is refused; a wrong guess would
store other letters than were typed.
"""

import codecs
from typing import NamedTuple

WINDOWS_1252 = "Windows-1252"
# By first bytes: files that people take for a sheet.
OTHER_FORMATS = {
    b"PK\x03\x04": "a workbook (xlsx or ods)",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook (xls)",
    b"%PDF": "a PDF",
    b"\x1f\x8b": "a compressed file",
}
# Encodings of one byte that spreadsheets have written, beside Windows-1252.
LOOKALIKES = {"mac_roman": "Macintosh Roman", "cp850": "DOS (code page 850)"}
ADVICE = "save it as CSV UTF-8"
SAMPLE_BYTES = 4000


class UnreadableFile(Exception):
    """The text says why, for a person."""


class DecodedText(NamedTuple):
    text: str
    encoding: str


def decode(data: bytes) -> DecodedText:
    """Raises UnreadableFile."""
    for start, name in OTHER_FORMATS.items():
        if data.startswith(start):
            raise UnreadableFile(f"this is {name}, not a text: {ADVICE}")
    codec = _utf_16_codec(data)
    if codec is None:
        return _decode_bytes(data)
    try:
        text = data.decode(codec)
    except UnicodeDecodeError:
        raise UnreadableFile(f"this UTF-16 text is cut off or damaged: {ADVICE}") from None
    if "\x00" in text:
        raise UnreadableFile(f"this is no text: {ADVICE}")
    return DecodedText(text.removeprefix("\ufeff"), "UTF-16")


def _utf_16_codec(data: bytes) -> str | None:
    """By the byte order mark, else by the zero beside each Latin letter."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    sample = data[:SAMPLE_BYTES]
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if max(even, odd) * 4 < len(sample) or min(even, odd) > 0:
        return None
    return "utf-16-le" if odd else "utf-16-be"


def _decode_bytes(data: bytes) -> DecodedText:
    if b"\x00" in data:
        raise UnreadableFile(f"this is no text: {ADVICE}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return DecodedText(_decode_windows_1252(data), WINDOWS_1252)
    return DecodedText(text, "UTF-8 with BOM" if data.startswith(codecs.BOM_UTF8) else "UTF-8")


def _decode_windows_1252(data: bytes) -> str:
    """Raises UnreadableFile where charset-normalizer takes it for something else."""
    from charset_normalizer import from_bytes

    best = from_bytes(data, cp_isolation=["cp1252", *LOOKALIKES]).best()
    if best is None or best.encoding != "cp1252":
        name = LOOKALIKES.get(best.encoding if best else "", "none that is known")
        raise UnreadableFile(
            f"the letters are not in UTF-8, UTF-16 or Windows-1252 (more likely: {name}): {ADVICE}"
        )
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        raise UnreadableFile(
            f"the letters are not in UTF-8, UTF-16 or Windows-1252: {ADVICE}"
        ) from None
