"""Brings the stored catalogue to what a file says: compared, shown, and stored in one transaction.

The rule a newcomer would break: what is stored is compared anew under a lock, and stored only if
the difference is the one that a person saw. Two imports at once, or an edit meanwhile, lose
nothing.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ops.products import catalogue, diff
from ops.products.model import CatalogueFile, InvalidCatalogue

if TYPE_CHECKING:
    from psycopg import Connection

LOCK_IMPORTS = "select pg_advisory_xact_lock(hashtextextended('ops catalogue import', 0))"
LOCK_PRODUCTS = """
select slug from products where slug = any(%(slugs)s) order by slug for update
"""


class ChangedMeanwhile(Exception):
    """The catalogue is not what the difference was made of."""


def store(
    connection: "Connection[Any]",
    file: CatalogueFile,
    shown: diff.CatalogueDiff,
    *,
    prune: bool,
    progress: Callable[[int], object] = lambda _stored: None,
) -> None:
    """All or nothing. Raises ChangedMeanwhile. Once done, doing it again changes nothing."""
    slugs = [row["slug"] for row in shown.changed_products] + shown.removed_slugs
    with connection.transaction():
        connection.execute(LOCK_IMPORTS)
        connection.execute(LOCK_PRODUCTS, {"slugs": slugs})
        try:
            current = diff.compare(catalogue.load(connection), file, prune=prune)
        except InvalidCatalogue as invalid:
            raise ChangedMeanwhile from invalid
        if not current.lines:
            return
        if current.lines != shown.lines:
            raise ChangedMeanwhile
        catalogue.store(connection, current, progress)
