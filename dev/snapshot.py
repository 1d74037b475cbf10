"""Writes lib/catalogue.snapshot.json: the catalogue that ships with every deployment.

From the seed, or from a file that `ops catalogue export` wrote. It holds what is published alone.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SEED = Path("supabase/seed/catalogue.json")
SNAPSHOT = Path("lib/catalogue.snapshot.json")


def of(document: dict[str, Any], made_at: datetime) -> str:
    """The snapshot of a catalogue file, as text."""
    products = [each for each in document["products"] if each.get("published", True)]
    kept = {"madeAt": made_at.isoformat(timespec="seconds")} | document | {"products": products}
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":")) + "\n"


def write(root: Path, source: Path | None = None) -> Path:
    """Left as it is, date included, when nothing but its date would change."""
    document = json.loads((source or root / SEED).read_text(encoding="utf-8"))
    target = root / SNAPSHOT
    if target.exists():
        held = json.loads(target.read_text(encoding="utf-8"))
        if of(document, datetime.fromisoformat(held["madeAt"])) == target.read_text("utf-8"):
            return target
    target.write_text(of(document, datetime.now(UTC)), encoding="utf-8")
    return target
