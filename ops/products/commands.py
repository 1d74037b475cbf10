"""Commands about the catalogue: import, export, purge of the caches."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ops import command, progress
from ops.command import Args
from ops.products import cache_invalidation, catalogue, diff, importing, reader, sheet, writer
from ops.products.model import CatalogueFile, InvalidCatalogue
from ops.settings import OperatorServices

if TYPE_CHECKING:
    from psycopg import Connection

catalogue_commands = command.group("catalogue", "the products: import, export, purge caches")

DATABASE_BUDGET_S = 120
STORE_BUDGET_S = 600  # 10,000 products, of which each word of search is stored anew
MAX_UNASKED_SHARE = 0.1  # of the products, removed by --prune


@catalogue_commands.command(
    "import",
    examples=("python3 -m ops catalogue import --dry-run products.csv",),
    dry_run=True,
    confirms=True,
)
@command.argument("file", help="JSON or CSV, as `export` writes it; - for standard input")
@click.option("--prune", is_flag=True, help="remove products the file leaves out")
def catalogue_import(services: OperatorServices, args: Args) -> int:
    """Update the catalogue from a file (all or nothing), then purge every cache.

    What the file leaves out stays as it is: columns, keys, products. An empty cell, or null,
    empties a field; `published` changes only by a word (true, false).
    Exit 1 when the file is refused or a cache was not purged.
    """
    data = sys.stdin.buffer.read() if args.file == "-" else Path(args.file).read_bytes()
    started = time.monotonic()
    try:
        with progress.Waiting("the file is read and compared"):
            file = reader.read(data)
            before = services.database.run(catalogue.load, budget_s=DATABASE_BUDGET_S)
            changes = diff.compare(before, file, prune=args.prune)
    except InvalidCatalogue as invalid:
        return _print_faults(args, invalid)
    read_s = time.monotonic() - started
    print(f"{args.file} is {file.description}", file=sys.stderr)
    document: dict[str, Any] = {
        "file": file.description, "changes": changes.lines, "untouched": changes.untouched,
        "changed": False,
    }  # fmt: skip
    if not args.json:
        print("\n".join([*(changes.lines or ["nothing to change"]), *changes.untouched]))
    print(f"{len(file.products)} products read and compared in {read_s:.1f} s", file=sys.stderr)
    if args.dry_run or not changes.lines:
        words = ("dry run: nothing was changed",) if args.dry_run else ()
        command.print_result(args, document, *words)
        return 0
    if not _is_confirmed(args, before, changes):
        return 1
    _store(services, file, changes, prune=args.prune)
    results = cache_invalidation.invalidate_all(services)
    document |= {"changed": True, "caches": _as_json(results)}
    command.print_result(
        args, document,
        f"{len(changes.changed_products)} products written, {len(changes.removed_slugs)} removed",
        *(f"{cache}: {result.message}" for cache, result in results.items()),
    )  # fmt: skip
    return 0 if all(result.ok for result in results.values()) else 1


def _print_faults(args: Args, invalid: InvalidCatalogue) -> int:
    if args.json:
        command.print_json({"faults": invalid.errors})
    print("\n".join(invalid.errors), file=sys.stderr)
    count = len(invalid.errors)
    print(f"{count} fault{'s' if count != 1 else ''}; nothing was changed", file=sys.stderr)
    return 1


def _is_confirmed(args: Args, before: catalogue.Catalogue, changes: diff.CatalogueDiff) -> bool:
    """Asked once more where --prune removes more than a tenth."""
    if not command.confirm(args, f"Make these {len(changes.lines)} changes to the products?"):
        return False
    removed, stored = len(changes.removed_slugs), len(before.products)
    if removed <= stored * MAX_UNASKED_SHARE:
        return True
    share = round(100 * removed / stored)
    return command.confirm(
        args, f"--prune removes {removed} of {stored} products ({share} %). Remove them?"
    )


def _store(
    services: OperatorServices, file: CatalogueFile, changes: diff.CatalogueDiff, *, prune: bool
) -> None:
    total = len(changes.changed_products)
    started = time.monotonic()
    with progress.Waiting("the catalogue is stored") as waiting:

        def write(connection: "Connection[Any]") -> None:
            importing.store(
                connection, file, changes, prune=prune,
                progress=lambda stored: waiting.update(f"{stored} of {total} products"),
            )  # fmt: skip

        try:
            services.database.run(write, budget_s=STORE_BUDGET_S)
        except importing.ChangedMeanwhile:
            raise command.Failed(
                "The catalogue was changed by somebody else meanwhile: nothing was changed by this "
                "import. Run it again and read the new difference."
            ) from None
    print(f"stored in {time.monotonic() - started:.1f} s", file=sys.stderr)


def _as_json(results: dict[str, cache_invalidation.InvalidationResult]) -> dict[str, Any]:
    return {cache: {"ok": r.ok, "message": r.message} for cache, r in results.items()}


@catalogue_commands.command(
    "export",
    examples=(
        "python3 -m ops catalogue export > catalogue.json",
        "python3 -m ops catalogue export --excel > products.csv",
    ),
)
@click.option("--csv", is_flag=True, help="products alone, for a spreadsheet")
@click.option("--excel", is_flag=True, help="the same for Excel: with a BOM and semicolons")
def catalogue_export(services: OperatorServices, args: Args) -> int:
    """Write the catalogue to standard output: JSON, which is all of it, or CSV, the products."""
    if (args.csv or args.excel) and args.json:
        raise command.Failed(
            "choose one: --csv or --json (JSON is what it writes anyway)", status=2
        )
    with progress.Waiting("the catalogue is read"):
        stored = services.database.run(catalogue.load, budget_s=DATABASE_BUDGET_S)
    if args.csv or args.excel:
        sys.stdout.write(sheet.write(stored.products, excel=args.excel))
    else:
        sys.stdout.write(writer.to_json(stored))
    return 0


@catalogue_commands.command("purge", examples=("python3 -m ops catalogue purge",))
def catalogue_purge(services: OperatorServices, args: Args) -> int:
    """Purge every product cache. Exit 1 when one could not be purged."""
    results = cache_invalidation.invalidate_all(services)
    lines = [f"{cache}: {result.message}" for cache, result in results.items()]
    command.print_result(args, _as_json(results), *lines)
    return 0 if all(result.ok for result in results.values()) else 1
