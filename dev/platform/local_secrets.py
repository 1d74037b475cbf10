"""Local secrets: random, made once, kept in one file only its owner reads."""

import base64
import json
import os
import secrets
from pathlib import Path

# name -> prefix, in the shape of the vendor's own keys.
_TOKENS = {
    "CRON_SECRET": "",
    "HEALTH_CHECK_TOKEN": "",
    "LEADS_ADMIN_TOKEN": "",
    "RESEND_API_KEY": "re_",
    "RESEND_ADMIN_KEY": "re_",
    "SLACK_BOT_TOKEN": "xoxb-",
    "SUPABASE_ACCESS_TOKEN": "sbp_",
    "SUPABASE_SECRET_KEY": "sb_secret_",
    "SENTRY_PUBLIC_KEY": "",
    "UPSTASH_REDIS_REST_TOKEN": "",
    "POSTGRES_PASSWORD": "",
    "APP_PASSWORD": "",
}

# 32 random bytes, base64 for URLs.
_ENCRYPTION_KEYS = ("LEADS_ENCRYPTION_KEY", "BACKUP_ENCRYPTION_KEY", "ERASURE_KEY")


class LocalSecrets:
    """The secrets of one data folder, by name; an unknown name gets a random token."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._values: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
        missing = set(_TOKENS) - set(self._values)
        self._values |= {name: _TOKENS[name] + secrets.token_hex(24) for name in sorted(missing)}
        for name in set(_ENCRYPTION_KEYS) - set(self._values):
            self._values[name] = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
            missing.add(name)
        if missing:
            self._write()

    def __getitem__(self, name: str) -> str:
        if name not in self._values:
            self._values[name] = secrets.token_hex(24)
            self._write()
        return self._values[name]

    def all(self) -> dict[str, str]:
        return dict(self._values)

    def _write(self) -> None:
        write_private(self._file, json.dumps(self._values, indent=2) + "\n")


def write_private(file: Path, text: str) -> None:
    """Replace `file` at once, readable by its owner alone."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(file)
