"""The catalogue's answers: the one statement a question costs, and the shape callers read.

No price, ever: the table has no column for one. A text missing in the language asked for is given
in the other. Names are the brands' own and have no translation.
"""

import json
import time
from datetime import datetime
from typing import Any, NamedTuple

from lib.interfaces import RunQuery
from lib.problems import NotFound
from lib.products.query import LOCALES, CursorPosition, Query

type Row = dict[str, Any]

# A function's answer may have 4.5 MB; a product takes about 1 KB. Beyond it, `Link` leads on.
MAX_UNPAGED = 3000

AUDIENCE_LABELS = {"SALON": "Salon", "BARBER": "Barbershop"}

FIND_PRODUCTS = """
with matched as materialized (
  select p.slug, p.name_key, p.newness, p.brand, p.categories, p.functions, p.audience,
    -(case when p.name_key = %(q)s::text then 3000000
           when starts_with(p.name_key, %(q)s::text) then 2000000
           else 0 end
      + (1000000 * ts_rank('{0.05, 0.2, 0.4, 1.0}', p.search,
                           (select public.product_query(%(q)s::text))))::bigint) as relevance
  from products as p
  where %(q)s::text is not null and p.published
    and p.search @@ (select public.product_query(%(q)s::text))
),
by_name as (
  select p.slug, 0::bigint as rank from products as p
  where %(q)s::text is null and %(sort)s::text = 'name' and p.published
    and (%(brands)s::text[] is null or p.brand_key = any(%(brands)s::text[]))
    and (%(categories)s::text[] is null or p.categories && %(categories)s::text[])
    and (%(functions)s::text[] is null or p.functions && %(functions)s::text[])
    and (%(audiences)s::text[] is null or p.audience && %(audiences)s::text[])
    and (%(slug)s::text is null
         or (p.name_key, p.slug) > (%(name_key)s::text, %(slug)s::text))
  order by p.name_key, p.slug limit %(take)s::int
),
by_name_down as (
  select p.slug, 0::bigint as rank from products as p
  where %(q)s::text is null and %(sort)s::text = '-name' and p.published
    and (%(brands)s::text[] is null or p.brand_key = any(%(brands)s::text[]))
    and (%(categories)s::text[] is null or p.categories && %(categories)s::text[])
    and (%(functions)s::text[] is null or p.functions && %(functions)s::text[])
    and (%(audiences)s::text[] is null or p.audience && %(audiences)s::text[])
    and (%(slug)s::text is null
         or (p.name_key, p.slug) < (%(name_key)s::text, %(slug)s::text))
  order by p.name_key desc, p.slug desc limit %(take)s::int
),
newest as (
  select p.slug, p.newness as rank from products as p
  where %(q)s::text is null and %(sort)s::text = 'newest' and p.published
    and (%(brands)s::text[] is null or p.brand_key = any(%(brands)s::text[]))
    and (%(categories)s::text[] is null or p.categories && %(categories)s::text[])
    and (%(functions)s::text[] is null or p.functions && %(functions)s::text[])
    and (%(audiences)s::text[] is null or p.audience && %(audiences)s::text[])
    and (%(slug)s::text is null
         or (p.newness, p.name_key, p.slug)
            > (%(rank)s::bigint, %(name_key)s::text, %(slug)s::text))
  order by p.newness, p.name_key, p.slug limit %(take)s::int
),
ranked as (
  select m.*, case %(sort)s::text when 'relevance' then m.relevance
                                  when 'newest' then m.newness else 0 end as rank
  from matched as m
  where (%(brands)s::text[] is null or lower(m.brand) = any(%(brands)s::text[]))
    and (%(categories)s::text[] is null or m.categories && %(categories)s::text[])
    and (%(functions)s::text[] is null or m.functions && %(functions)s::text[])
    and (%(audiences)s::text[] is null or m.audience && %(audiences)s::text[])
),
upward as (
  select slug, rank from ranked
  where %(sort)s::text <> '-name'
    and (%(slug)s::text is null
         or (rank, name_key, slug) > (%(rank)s::bigint, %(name_key)s::text, %(slug)s::text))
  order by ranked.rank, name_key, slug limit %(take)s::int
),
downward as (
  select slug, rank from ranked
  where %(sort)s::text = '-name'
    and (%(slug)s::text is null
         or (name_key, slug) < (%(name_key)s::text, %(slug)s::text))
  order by name_key desc, slug desc limit %(take)s::int
),
page as (
  select * from by_name union all select * from by_name_down union all select * from newest
  union all select * from upward union all select * from downward
),
pool as materialized (
  select brand, categories, functions, audience, n from product_groups
  where %(q)s::text is null and %(counted)s::boolean
  union all
  select brand, categories, functions, audience, 1 from matched where %(counted)s::boolean
),
counts as (
  select 'brand' as facet, brand as value, sum(n) as n from pool
  where (%(categories)s::text[] is null or categories && %(categories)s::text[])
    and (%(functions)s::text[] is null or functions && %(functions)s::text[])
    and (%(audiences)s::text[] is null or audience && %(audiences)s::text[])
  group by brand
  union all
  select 'category', code, sum(n) from pool, unnest(categories) as code
  where (%(brands)s::text[] is null or lower(brand) = any(%(brands)s::text[]))
    and (%(functions)s::text[] is null or functions && %(functions)s::text[])
    and (%(audiences)s::text[] is null or audience && %(audiences)s::text[])
  group by code
  union all
  select 'function', code, sum(n) from pool, unnest(functions) as code
  where (%(brands)s::text[] is null or lower(brand) = any(%(brands)s::text[]))
    and (%(categories)s::text[] is null or categories && %(categories)s::text[])
    and (%(audiences)s::text[] is null or audience && %(audiences)s::text[])
  group by code
  union all
  select 'audience', code, sum(n) from pool, unnest(audience) as code
  where (%(brands)s::text[] is null or lower(brand) = any(%(brands)s::text[]))
    and (%(categories)s::text[] is null or categories && %(categories)s::text[])
    and (%(functions)s::text[] is null or functions && %(functions)s::text[])
  group by code
),
labels as (
  select 'brand' as facet, name as value, name as label_id, name as label_en, position from brands
  union all select 'category', code, label_id, label_en, position from categories
  union all select 'function', code, label_id, label_en, position from functions
  union all select 'audience', value, null, null, 0
    from unnest(array['SALON', 'BARBER']) as value
)
select
  (select jsonb_agg(to_jsonb(p) - 'search' || jsonb_build_object('rank', page.rank))
   from page join products as p using (slug)),
  (select coalesce(sum(n), 0)::bigint from pool
   where (%(brands)s::text[] is null or lower(brand) = any(%(brands)s::text[]))
     and (%(categories)s::text[] is null or categories && %(categories)s::text[])
     and (%(functions)s::text[] is null or functions && %(functions)s::text[])
     and (%(audiences)s::text[] is null or audience && %(audiences)s::text[])),
  (select jsonb_agg(jsonb_build_object('facet', facet, 'value', value, 'label_id', label_id,
                                       'label_en', label_en, 'n', coalesce(counts.n, 0))
                    order by position, value)
   from labels left join counts using (facet, value)
   where facet = any(%(facets)s::text[])),
  (select changed_at from catalogue_state),
  (select exists (select from product_groups) = exists (select from products where published)),
  (select array(select slug from products where published) from catalogue_state
   where changed_at is distinct from %(known)s::timestamptz)
"""

FIND_BY_SLUG = """
select
  (select jsonb_build_array(to_jsonb(p) - 'search' || jsonb_build_object('rank', 0))
   from products as p where p.slug = %(slug)s::text and p.published),
  0, null,
  (select changed_at from catalogue_state),
  (select exists (select from product_groups) = exists (select from products where published)),
  (select array(select slug from products where published) from catalogue_state
   where changed_at is distinct from %(known)s::timestamptz)
"""


class PublishedSlugs(NamedTuple):
    """The slugs that were published when the database was last heard, at heard_at (time.time()).

    changed_at: when the catalogue had last changed.
    """

    slugs: frozenset[str]
    changed_at: datetime
    read_at: float


class QueryResult(NamedTuple):
    """What a source knows in answer to a question.

    rows: in order, with columns as in the table and `rank`; more: there is a further page.
    facets: {facet, value, label_id, label_en, n} each. changed_at: when the catalogue last
    changed; None where nobody can tell: there is none yet, or its rows cannot be seen, as without
    a policy of row level security. That is no answer. published: None where it is known already.
    """

    rows: list[Row]
    has_more: bool
    total: int
    facets: list[Row]
    changed_at: datetime | None
    published: PublishedSlugs | None = None


class RenderedAnswer(NamedTuple):
    """An answer's meaning: the same bytes wherever it was found. slugs: its products, in order."""

    body: bytes
    slugs: tuple[str, ...]
    changed_at: datetime
    next_cursor: str | None


def find(run: RunQuery, query: Query, known: PublishedSlugs | None = None) -> QueryResult:
    """Ask Postgres, in one statement. Raises DatabaseDown.

    known: what is known to be published; it is read again where the catalogue changed since.
    """
    values, statement = _parameters(query), FIND_PRODUCTS if query.slug is None else FIND_BY_SLUG
    values["known"] = known and known.changed_at
    row = run(lambda connection: connection.execute(statement, values).fetchone())
    found, total, facets, changed_at, sees_all, slugs = row
    rows = sorted(found or [], key=sort_key, reverse=query.sort == "-name")
    kept, more = rows[: page_size(query)], len(rows) > page_size(query)
    if not sees_all:
        changed_at = None
    published = None
    if changed_at is not None and slugs is not None:
        published = PublishedSlugs(frozenset(slugs), changed_at, time.time())
    return QueryResult(kept, more, total, facets or [], changed_at, published)


def page_size(query: Query) -> int:
    return query.limit or MAX_UNPAGED


def sort_key(row: Row) -> tuple[int, str, str]:
    return row["rank"], row["name_key"], row["slug"]


def _parameters(query: Query) -> dict[str, object]:
    if query.slug is not None:
        return {"slug": query.slug}
    after = query.after
    return {
        "q": query.q,
        "sort": query.sort,
        # None, not an empty list: the planner then drops the condition.
        "brands": list(query.brands) or None,
        "categories": list(query.categories) or None,
        "functions": list(query.functions) or None,
        "audiences": list(query.audiences) or None,
        "rank": after and after.rank,
        "name_key": after and after.name_key,
        "slug": after and after.slug,
        "take": page_size(query) + 1,
        "facets": list(query.facets),
        "counted": query.total or bool(query.facets),
    }


def render(query: Query, found: QueryResult, changed_at: datetime) -> RenderedAnswer:
    """The contract's JSON. Raises NotFound when the one product asked for is not there."""
    items = [to_json(row, query) for row in found.rows]
    next_cursor = (
        query.encode_cursor(CursorPosition(*sort_key(found.rows[-1]))) if found.has_more else None
    )
    value: object = items
    if query.slug is not None:
        if not items:
            raise NotFound
        value = items[0]
    elif query.limit is not None:
        value = {
            "items": items,
            "next_cursor": next_cursor,
            "total": found.total if query.total else None,
            "facets": _render_facets(query, found.facets) if query.facets else None,
        }
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return RenderedAnswer(body, tuple(row["slug"] for row in found.rows), changed_at, next_cursor)


def remove_withdrawn(body: bytes, slugs: tuple[str, ...], published: PublishedSlugs) -> bytes:
    """An older answer without what is not published any more. slugs: its products, in order.

    Raises NotFound when it was one product.
    """
    withdrawn = [slug not in published.slugs for slug in slugs]
    if not any(withdrawn):
        return body
    value = json.loads(body)
    if isinstance(value, dict) and "items" not in value:
        raise NotFound
    items = value["items"] if isinstance(value, dict) else value
    kept = [item for item, gone in zip(items, withdrawn, strict=True) if not gone]
    if isinstance(value, dict):
        value["items"] = kept
        if value["total"] is not None:
            value["total"] -= sum(withdrawn)
        for facet in (value["facets"] or {}).values() if not published.slugs else ():
            for each in facet:
                each["count"] = 0
        if not published.slugs:
            value |= {"next_cursor": None, "total": None if value["total"] is None else 0}
    else:
        value = kept
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def to_json(row: Row, query: Query) -> dict[str, object]:
    """A product as callers read it: the fields asked for, in the language asked for."""
    first, second = (query.locale, next(each for each in LOCALES if each != query.locale))

    def told(name: str) -> Any:
        return row.get(f"{name}_{first}") or row.get(f"{name}_{second}")

    whole: dict[str, object] = {
        "slug": row["slug"],
        "name": row["name"],
        "brand": row["brand"],
        "audience": row["audience"],
        "functions": row["functions"],
        "categories": row["categories"],
        "summary": told("summary"),
        "benefits": told("benefits") or [],
        "howToUse": told("how_to_use") or "",
        "image": {
            "url": row.get("image_url"),
            "alt": told("image_alt"),
            "caption": told("image_caption"),
        },
    }
    return {name: whole[name] for name in query.fields}


def _render_facets(query: Query, counted: list[Row]) -> dict[str, list[dict[str, object]]]:
    """Each facet's values with their labels and counts; a facet ignores its own filter."""
    shown: dict[str, list[dict[str, object]]] = {name: [] for name in query.facets}
    for row in counted:
        label = row.get(f"label_{query.locale}") or AUDIENCE_LABELS.get(row["value"], row["value"])
        shown[row["facet"]].append({"value": row["value"], "label": label, "count": int(row["n"])})
    return shown
