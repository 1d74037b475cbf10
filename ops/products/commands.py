"""Commands about the catalogue: import, export, purge of the caches."""

import sys
from pathlib import Path
from typing import Any

import click

from ops import command, progress
from ops.command import Args
from ops.products import cache_invalidation, catalogue, diff, reader, writer
from ops.settings import OperatorServices

catalogue_commands = command.group("catalogue", "the products: import, export, purge caches")


DATABASE_BUDGET_S = 120


@catalogue_commands.command(
    "import",
    examples=("python3 -m ops catalogue import --dry-run products.csv",),
    dry_run=True,
    confirms=True,
)
@command.argument("file", help="JSON or CSV, as `export` writes it; - for standard input")
@click.option("--prune", is_flag=True, help="remove products the file leaves out")
def catalogue_import(services: OperatorServices, args: Args) -> int:
    """Bring the catalogue to what a file says, all of it or nothing; then purge every cache."""
    text = sys.stdin.read() if args.file == "-" else Path(args.file).read_text(encoding="utf-8")
    run = services.database.run
    before = run(catalogue.load, budget_s=DATABASE_BUDGET_S)
    try:
        after = reader.parse(text, known=before)
    except reader.InvalidCatalogue as invalid:
        command.print_result(args, {"faults": invalid.errors})
        print("\n".join(invalid.errors), file=sys.stderr)
        print(f"{len(invalid.errors)} faults; nothing was changed", file=sys.stderr)
        return 1
    changes = diff.compare(before, after, prune=args.prune)
    document: dict[str, Any] = {"changes": changes.lines, "changed": False}
    if not args.json:
        print("\n".join(changes.lines) or "nothing to change")
    if args.dry_run or not changes.lines:
        words = ("dry run: nothing was changed",) if args.dry_run else ()
        command.print_result(args, document, *words)
        return 0
    if not command.confirm(args, f"Make these {len(changes.lines)} changes to the products?"):
        return 1
    with progress.Waiting("the catalogue is stored"):
        run(lambda c: catalogue.store(c, after, changes), budget_s=DATABASE_BUDGET_S)
    results = cache_invalidation.invalidate_all(services)
    document |= {"changed": True, "caches": _as_json(results)}
    command.print_result(
        args, document,
        f"{len(changes.changed_products)} products written, {len(changes.removed_slugs)} removed",
        *(f"{cache}: {result.message}" for cache, result in results.items()),
    )  # fmt: skip
    return 0 if all(result.ok for result in results.values()) else 1


def _as_json(results: dict[str, cache_invalidation.InvalidationResult]) -> dict[str, Any]:
    return {cache: {"ok": r.ok, "message": r.message} for cache, r in results.items()}


@catalogue_commands.command(
    "export", examples=("python3 -m ops catalogue export > catalogue.json",)
)
@click.option("--csv", is_flag=True, help="products alone, for a spreadsheet")
def catalogue_export(services: OperatorServices, args: Args) -> int:
    """Write the catalogue to standard output: JSON, which is all of it, or CSV, the products."""
    if args.csv and args.json:
        raise command.Failed(
            "choose one: --csv or --json (JSON is what it writes anyway)", status=2
        )
    with progress.Waiting("the catalogue is read"):
        stored = services.database.run(catalogue.load, budget_s=DATABASE_BUDGET_S)
    sys.stdout.write(writer.to_csv(stored) if args.csv else writer.to_json(stored))
    return 0


@catalogue_commands.command("purge", examples=("python3 -m ops catalogue purge",))
def catalogue_purge(services: OperatorServices, args: Args) -> int:
    """Let no cache answer with an older catalogue. Exit 1 when one could not be purged."""
    results = cache_invalidation.invalidate_all(services)
    lines = [f"{cache}: {result.message}" for cache, result in results.items()]
    command.print_result(args, _as_json(results), *lines)
    return 0 if all(result.ok for result in results.values()) else 1
