"""Writes the catalogue that ships: catalogue.snapshot.json, and the plain lists in the pages.

From the seed, or from a file that `ops catalogue export` wrote. Published products alone.
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
    products = [product for product in document["products"] if product.get("published", True)]
    shipped = {"madeAt": made_at.isoformat(timespec="seconds")} | document | {"products": products}
    return json.dumps(shipped, ensure_ascii=False, separators=(",", ":")) + "\n"


# Page -> the form it links to, and the parameter that carries the product there.
PAGES = {"public/produk.html": ("/", "produk"), "public/en/products.html": ("/en", "product")}
PRODUCT_LIST = re.compile(r"(<!-- products: [^>]*-->\n).*?( *<!-- /products -->)", re.DOTALL)


def render_product_list(page: str, document: dict[str, Any], form: str, parameter: str) -> str:
    """The page with a list of every product, by brand, for visitors without JavaScript."""
    lines = []
    for brand in (brand["name"] for brand in document["brands"]):
        names = sorted(product["name"] for product in document["products"]
                       if product["brand"] == brand and product.get("published", True))  # fmt: skip
        if names:
            lines += [f"    <h3>{escape(brand)}</h3>", "    <ul>"]
            for name in names:
                target = f"{form}?{urlencode({parameter: name})}#lead-form"
                lines.append(f'      <li><a href="{escape(target)}">{escape(name)}</a></li>')
            lines.append("    </ul>")
    lists = "\n".join(lines) + "\n"
    return PRODUCT_LIST.sub(lambda match: match[1] + lists + match[2], page)


def write(root: Path, source: Path | None = None) -> Path:
    """Write them; the snapshot keeps its date when nothing else would change."""
    document = json.loads((source or root / SEED).read_text(encoding="utf-8"))
    for name, (form, parameter) in PAGES.items():
        page = root / name
        page.write_text(
            render_product_list(page.read_text("utf-8"), document, form, parameter), "utf-8"
        )
    target = root / SNAPSHOT
    if target.exists():
        text = target.read_text(encoding="utf-8")
        if render(document, datetime.fromisoformat(json.loads(text)["madeAt"])) == text:
            return target
    target.write_text(render(document, datetime.now(UTC)), encoding="utf-8")
    return target
