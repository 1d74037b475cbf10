"""Commands about the catalogue: import, export, purge of the caches."""

import argparse
import sys
from pathlib import Path
from typing import Any

from lib.services import Services
from ops import command
from ops.products import cache_invalidation, catalogue, diff, reader, writer

DATABASE_BUDGET_S = 120


def catalogue_import(services: Services, args: argparse.Namespace) -> int:
    """Bring the catalogue to what a file says, all of it or nothing; then purge every cache."""
    text = sys.stdin.read() if args.file == "-" else Path(args.file).read_text(encoding="utf-8")
    run = services.database.run
    before = run(catalogue.load, budget_s=DATABASE_BUDGET_S)
    try:
        after = reader.parse(text, known=before)
    except reader.InvalidCatalogue as invalid:
        print("\n".join(invalid.errors), file=sys.stderr)
        print(f"{len(invalid.errors)} faults; nothing was changed", file=sys.stderr)
        return 1
    changes = diff.compare(before, after, prune=args.prune)
    print("\n".join(changes.lines) or "nothing to change")
    if args.dry_run:
        print("dry run: nothing was changed")
        return 0
    if not changes.lines:
        return 0
    run(lambda c: catalogue.store(c, after, changes), budget_s=DATABASE_BUDGET_S)
    print(f"{len(changes.changed_products)} products kept, {len(changes.removed_slugs)} removed")
    return catalogue_purge(services, args)


def catalogue_export(services: Services, args: argparse.Namespace) -> int:
    """Write the catalogue to standard output: JSON, which is all of it, or CSV, the products."""
    stored = services.database.run(catalogue.load, budget_s=DATABASE_BUDGET_S)
    sys.stdout.write(writer.to_csv(stored) if args.csv else writer.to_json(stored))
    return 0


def catalogue_purge(services: Services, _args: argparse.Namespace) -> int:
    """Let no cache answer with an older catalogue. Exit 1 when one could not be purged."""
    results = cache_invalidation.invalidate_all(services)
    print("\n".join(f"{cache}: {result.message}" for cache, result in results.items()))
    return 0 if all(result.ok for result in results.values()) else 1


def add_commands(areas: Any) -> None:
    verbs = command.group(areas, "catalogue", "the products: import, export, purge caches")
    verb = command.command(
        verbs,
        "import",
        catalogue_import,
        "python3 -m ops catalogue import --dry-run products.csv",
        dry_run=True,
    )
    verb.add_argument("file", help="JSON or CSV, as `export` writes it; - for standard input")
    verb.add_argument("--prune", action="store_true", help="remove products the file leaves out")
    verb = command.command(
        verbs, "export", catalogue_export, "python3 -m ops catalogue export > catalogue.json"
    )
    verb.add_argument("--csv", action="store_true", help="products alone, for a spreadsheet")
    command.command(verbs, "purge", catalogue_purge, "python3 -m ops catalogue purge")
