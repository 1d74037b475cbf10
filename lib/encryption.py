"""Encryption of what leaves Postgres: PyNaCl's SecretBox (XSalsa20 with Poly1305)."""

import base64

from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from lib.problems import DecryptionError


class SecretBoxCipher:
    """keys: 32 bytes each; the first encrypts, all decrypt."""

    def __init__(self, keys: tuple[bytes, ...]) -> None:
        self._boxes = [SecretBox(key) for key in keys]

    def encrypt(self, text: str) -> str:
        """The text as URL-safe base64 that only a holder of the key can read or change."""
        return base64.urlsafe_b64encode(self._boxes[0].encrypt(text.encode())).decode()

    def decrypt(self, sealed: str) -> str:
        """The text again. Raises DecryptionError."""
        try:
            token = base64.urlsafe_b64decode(sealed)
        except ValueError:
            raise DecryptionError from None
        for box in self._boxes:
            try:
                return box.decrypt(token).decode()
            except (CryptoError, ValueError):
                continue
        raise DecryptionError
