"""What a backup says of itself: taken when, of which schema, how many rows, with which checksums.

The manifest is not secret and holds no personal data. It is signed with the backup's key, so a
backup and the words about it cannot be exchanged for others. A backup without a manifest is none:
the manifest is written last.
"""

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from ops.command import Failed

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """tables: name -> [rows, checksum of their contents]. extensions: name -> schema.

    taken_at: the snapshot's moment. schema_version: the newest migration's. key: the sealing
    key's fingerprint. sealed_*: of the file, dump_*: of what pg_dump wrote. owners: whose rights
    the role had that took it; grantees: who holds rights on what is in it; left_out: what is not
    in it, being somebody else's. These three are not known of backups made before 2026-11-28.
    """

    name: str
    taken_at: datetime
    took_s: float
    schema_version: str
    server_version: int
    tables: dict[str, list[Any]]
    extensions: dict[str, str]
    sealed_bytes: int
    sealed_sha256: str
    dump_bytes: int
    dump_sha256: str
    key: str
    mac: str = ""
    format: int = FORMAT
    owners: tuple[str, ...] = ()
    grantees: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        return sum(rows for rows, _ in self.tables.values())

    def as_dict(self) -> dict[str, object]:
        """What a line about it says, in the table `backups` and on a screen."""
        return {
            "name": self.name,
            "rows": self.rows,
            "bytes": self.sealed_bytes,
            "schema_version": self.schema_version,
            "sha256": self.sealed_sha256,
            "key": self.key,
            "took_s": self.took_s,
        }

    def signed(self, key: bytes) -> "Manifest":
        return replace(self, mac=_mac(self, key))

    def is_signed(self, keys: Iterable[bytes]) -> bool:
        return any(hmac.compare_digest(self.mac, _mac(self, key)) for key in keys)


def fingerprint(key: bytes) -> str:
    """Tells keys apart, and tells nothing of a key."""
    return hmac.new(key, b"backup key", hashlib.sha256).hexdigest()[:12]


def _mac(manifest: Manifest, key: bytes) -> str:
    said = _to_json(replace(manifest, mac=""))
    return hmac.new(key, b"manifest:" + said.encode(), hashlib.sha256).hexdigest()


def _to_json(manifest: Manifest) -> str:
    values = asdict(manifest)
    for name in ("owners", "grantees", "left_out"):
        if not values[name]:  # as it was before there were these fields, and so signed
            del values[name]
    return json.dumps(values, default=str, indent=2, sort_keys=True)


# ------------------------------------------------------------------ in a folder


def sealed_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.sealed"


def manifest_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def write(folder: Path, manifest: Manifest) -> None:
    """Whole or not at all; from now on the backup is one."""
    file = manifest_file(folder, manifest.name)
    part = folder / f".{manifest.name}.{secrets.token_hex(4)}.part"
    with part.open("w", encoding="utf-8") as stream:
        stream.write(_to_json(manifest) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(file)
    sync(folder)


def sync(folder: Path) -> None:
    """Make a rename outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(file: Path, keys: tuple[bytes, ...]) -> Manifest:
    """A manifest we signed. Raises Failed."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        values["taken_at"] = datetime.fromisoformat(values["taken_at"])
        for name in ("owners", "grantees", "left_out"):
            values[name] = tuple(values.get(name, ()))
        manifest = Manifest(**values)
        signed = manifest.format == FORMAT and manifest.is_signed(keys)
    except (ValueError, LookupError, TypeError, AttributeError):
        raise Failed(f"{file.name} is no manifest of a backup") from None
    if not signed:
        raise Failed(
            f"{file.name} was not signed with BACKUP_ENCRYPTION_KEY (it says {manifest.key}):"
            " another key is needed, or somebody changed it"
        )
    return manifest


def list_backups(folder: Path, keys: tuple[bytes, ...]) -> tuple[list[Manifest], list[str]]:
    """Every backup in the folder, newest first; and a sentence on each that cannot be used."""
    found, faults = [], []
    for file in sorted(folder.glob("*.json")):
        try:
            manifest = read(file, keys)
        except Failed as fault:
            faults.append(str(fault))
            continue
        sealed = sealed_file(folder, manifest.name)
        if file.stem == manifest.name and _size(sealed) == manifest.sealed_bytes:
            found.append(manifest)
        else:
            faults.append(f"{file.name} has no such backup beside it, or not all of it")
    return sorted(found, key=lambda one: one.taken_at, reverse=True), faults


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else -1
