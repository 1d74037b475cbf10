"""Encrypts a stream of any length, chunk by chunk: libsodium's secretstream.

A chunk that is changed, missing, doubled, moved or cut off is detected before its bytes are used.
One chunk is in memory at a time, and no plaintext touches a disk.
"""

from collections.abc import Iterable, Iterator
from typing import IO

from nacl import bindings
from nacl.exceptions import CryptoError

from lib.problems import DecryptionError

MAGIC = b"ALFA-BACKUP-1\n"
CHUNK_BYTES = 1 << 20
_HEADER_BYTES = bindings.crypto_secretstream_xchacha20poly1305_HEADERBYTES
_TAG_BYTES = bindings.crypto_secretstream_xchacha20poly1305_ABYTES
_FINAL = bindings.crypto_secretstream_xchacha20poly1305_TAG_FINAL
_MESSAGE = bindings.crypto_secretstream_xchacha20poly1305_TAG_MESSAGE
_State = bindings.crypto_secretstream_xchacha20poly1305_state
_init_push = bindings.crypto_secretstream_xchacha20poly1305_init_push
_init_pull = bindings.crypto_secretstream_xchacha20poly1305_init_pull
_push = bindings.crypto_secretstream_xchacha20poly1305_push
_pull = bindings.crypto_secretstream_xchacha20poly1305_pull


def encrypt(source: Iterable[bytes], key: bytes) -> Iterator[bytes]:
    state = _State()
    yield MAGIC + _init_push(state, key)
    buffer = bytearray()
    for piece in source:
        buffer += piece
        while len(buffer) > CHUNK_BYTES:
            yield _push(state, bytes(buffer[:CHUNK_BYTES]), tag=_MESSAGE)
            del buffer[:CHUNK_BYTES]
    yield _push(state, bytes(buffer), tag=_FINAL)


def decrypt(encrypted: IO[bytes], keys: tuple[bytes, ...]) -> Iterator[bytes]:
    """The stream, by the first key that fits. Raises DecryptionError at the first bad chunk."""
    if encrypted.read(len(MAGIC)) != MAGIC:
        raise DecryptionError
    header = encrypted.read(_HEADER_BYTES)
    first = encrypted.read(CHUNK_BYTES + _TAG_BYTES)
    state, chunk, tag = _decrypt_first(header, first, keys)
    while True:
        yield chunk
        if tag == _FINAL:
            break
        chunk, tag = _decrypt_chunk(state, encrypted.read(CHUNK_BYTES + _TAG_BYTES))
    if encrypted.read(1):
        raise DecryptionError


def _decrypt_first(
    header: bytes, first: bytes, keys: tuple[bytes, ...]
) -> tuple[_State, bytes, int]:
    if len(header) == _HEADER_BYTES:
        for key in keys:
            state = _State()
            _init_pull(state, header, key)
            try:
                return state, *_decrypt_chunk(state, first)
            except DecryptionError:
                continue
    raise DecryptionError


def _decrypt_chunk(state: _State, chunk: bytes) -> tuple[bytes, int]:
    if len(chunk) < _TAG_BYTES:
        raise DecryptionError  # cut off
    try:
        return _pull(state, chunk)
    except (CryptoError, RuntimeError):
        raise DecryptionError from None
