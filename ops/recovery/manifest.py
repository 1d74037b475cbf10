"""A backup's manifest: when it was taken, of which schema, how many rows, which checksums.

The manifest is not secret and holds no personal data. It is signed with the backup's key, so that
neither it nor the backup can be exchanged. A backup without a manifest is none: it is written last.
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

    taken_at: the snapshot's time. schema_version: the newest migration's. key: the encryption
    key's fingerprint. sealed_*: of the file, dump_*: of what pg_dump wrote. owners: the roles
    whose rights the role had that took it; grantees: the roles with rights on its objects;
    left_out: objects of other roles. Backups made before 2026-11-28 lack these three.
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
        """For the table `backups`, and for output."""
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
    """Identifies a key without revealing it."""
    return hmac.new(key, b"backup key", hashlib.sha256).hexdigest()[:12]


def _mac(manifest: Manifest, key: bytes) -> str:
    text = _to_json(replace(manifest, mac=""))
    return hmac.new(key, b"manifest:" + text.encode(), hashlib.sha256).hexdigest()


def _to_json(manifest: Manifest) -> str:
    values = asdict(manifest)
    for name in ("owners", "grantees", "left_out"):
        if not values[name]:  # older manifests were signed without these fields
            del values[name]
    return json.dumps(values, default=str, indent=2, sort_keys=True)


# ------------------------------------------------------------------ in a folder


def sealed_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.sealed"


def manifest_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def write(folder: Path, manifest: Manifest) -> None:
    """Atomically; from now on the backup counts."""
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
    """Raises Failed unless it is a manifest that we signed."""
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
    backups, faults = [], []
    for file in sorted(folder.glob("*.json")):
        try:
            manifest = read(file, keys)
        except Failed as error:
            faults.append(str(error))
            continue
        encrypted = sealed_file(folder, manifest.name)
        size = encrypted.stat().st_size if encrypted.exists() else -1
        if file.stem == manifest.name and size == manifest.sealed_bytes:
            backups.append(manifest)
        else:
            faults.append(f"{file.name} has no such backup beside it, or not all of it")
    return sorted(backups, key=lambda backup: backup.taken_at, reverse=True), faults
