"""The sentences visitors agree to, by version. Never edit one: add a version for the form to use.

A lead records the version, language and SHA-256 of the sentence that was shown.
"""

import hashlib

CURRENT_VERSION = "2026-11"

SENTENCES: dict[str, dict[str, str]] = {
    "2026-11": {
        "id": (
            "Saya setuju Alfa Beauty menyimpan dan memakai data ini untuk menghubungi saya tentang "
            "kemitraan, sesuai UU No. 27 Tahun 2022 tentang Pelindungan Data Pribadi."
        ),
        "en": (
            "I agree that Alfa Beauty stores and uses these details to contact me about a "
            "partnership, in line with Indonesia's Personal Data Protection Law "
            "(Law No. 27 of 2022)."
        ),
    },
}


def sentence_sha256(version: str, locale: str) -> str | None:
    """SHA-256, in hex, of the sentence shown; None for a version that a newer deployment shows."""
    sentence = SENTENCES.get(version, {}).get(locale)
    return sentence and hashlib.sha256(sentence.encode()).hexdigest()
