"""Writes what ships of the catalogue: catalogue.snapshot.json, and the pages' plain lists.

From the seed, or from a file that `ops catalogue export` wrote. It holds what is published alone.
"""

import json
import re
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

SEED = Path("supabase/seed/catalogue.json")
SNAPSHOT = Path("lib/products/catalogue.snapshot.json")


def render(document: dict[str, Any], made_at: datetime) -> str:
    """The snapshot of a catalogue file, as text."""
    products = [each for each in document["products"] if each.get("published", True)]
    kept = {"madeAt": made_at.isoformat(timespec="seconds")} | document | {"products": products}
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":")) + "\n"


# Page -> the form it leads to, and the parameter that carries the product there.
PAGES = {"public/produk.html": ("/", "produk"), "public/en/products.html": ("/en", "product")}
PRODUCT_LIST = re.compile(r"(<!-- products: [^>]*-->\n).*?( *<!-- /products -->)", re.DOTALL)


def render_product_list(page: str, document: dict[str, Any], form: str, parameter: str) -> str:
    """The page with every product's name in it, by brand, for whoever has no JavaScript."""
    lines = []
    for brand in (each["name"] for each in document["brands"]):
        names = sorted(each["name"] for each in document["products"]
                       if each["brand"] == brand and each.get("published", True))  # fmt: skip
        if names:
            lines += [f"    <h3>{escape(brand)}</h3>", "    <ul>"]
            for name in names:
                target = f"{form}?{urlencode({parameter: name})}#lead-form"
                lines.append(f'      <li><a href="{escape(target)}">{escape(name)}</a></li>')
            lines.append("    </ul>")
    listed = "\n".join(lines) + "\n"
    return PRODUCT_LIST.sub(lambda found: found[1] + listed + found[2], page)


def write(root: Path, source: Path | None = None) -> Path:
    """Left as it is, date included, when nothing but its date would change."""
    document = json.loads((source or root / SEED).read_text(encoding="utf-8"))
    for name, (form, parameter) in PAGES.items():
        page = root / name
        page.write_text(
            render_product_list(page.read_text("utf-8"), document, form, parameter), "utf-8"
        )
    target = root / SNAPSHOT
    if target.exists():
        held = json.loads(target.read_text(encoding="utf-8"))
        if render(document, datetime.fromisoformat(held["madeAt"])) == target.read_text("utf-8"):
            return target
    target.write_text(render(document, datetime.now(UTC)), encoding="utf-8")
    return target
