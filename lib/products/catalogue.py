"""Product queries in Postgres, one statement each, and the JSON that callers read.

No price, ever: the table has no column for one. A text missing in the language asked for is given
in the other. Names are the brands' own and have no translation.
"""

import hashlib
import json
import time
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypedDict, cast

from lib.interfaces import RunQuery
from lib.problems import NotFound
from lib.products.query import LOCALES, CursorPosition, Query

type Row = dict[str, Any]

# A function's response may have 4.5 MB; a product takes about 1 KB. `Link` leads to the rest.
MAX_UNPAGED = 3000


class Image(TypedDict):
    url: str | None
    alt: str | None
    caption: str | None


class Product(TypedDict, total=False):
    """A product as callers read it: these fields, or those they asked for. There is no price."""

    slug: str
    name: str
    brand: str
    audience: list[Literal["SALON", "BARBER"]]
    functions: list[str]
    categories: list[str]
    summary: str
    benefits: list[str]
    howToUse: str
    image: Image


AUDIENCE_LABELS = {"SALON": "Salon", "BARBER": "Barbershop"}

FIND_PRODUCTS = """
with parsed as materialized (
  select public.product_query(%(q)s::text) as words where %(q)s::text is not null
),
matched as materialized (
  select p.slug, p.name_key, p.newness, p.brand, p.categories, p.functions, p.audience,
    -(case when p.name_key = %(q)s::text then 3000000
           when starts_with(p.name_key, %(q)s::text) then 2000000
           else 0 end
      + (1000000 * ts_rank('{0.05, 0.2, 0.4, 1.0}', p.search,
                           (select words from parsed)))::bigint) as relevance
  from products as p
  where %(q)s::text is not null and p.published
    and p.search @@ (select words from parsed)
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
    """The slugs that the database published at read_at (time.time()).

    changed_at: when the catalogue had last changed.
    """

    slugs: frozenset[str]
    changed_at: datetime
    read_at: float


class QueryResult(NamedTuple):
    """rows: in order, with columns as in the table and `rank`. has_more: there is a further page.

    facets: {facet, value, label_id, label_en, n} each. changed_at: when the catalogue last
    changed; None where that is unknown, and this is no answer: there is no catalogue yet, or its
    rows cannot be seen, as without a policy of row level security. published: None where it is
    known already.
    """

    rows: list[Row]
    has_more: bool
    total: int
    facets: list[Row]
    changed_at: datetime | None
    published: PublishedSlugs | None = None


class RenderedAnswer(NamedTuple):
    """The same bytes whatever the source. slugs: its products, in order."""

    body: bytes
    slugs: tuple[str, ...]
    changed_at: datetime
    next_cursor: str | None

    @property
    def etag(self) -> str:
        """A hash of the body: the same from every instance, deployment and source."""
        return hashlib.sha256(self.body).hexdigest()[:32]


def find(run: RunQuery, query: Query, published: PublishedSlugs | None = None) -> QueryResult:
    """Ask Postgres, in one statement. Raises DatabaseDown.

    published: what is known; it is read again where the catalogue changed since.
    """
    statement = FIND_PRODUCTS if query.slug is None else FIND_BY_SLUG
    values = _parameters(query) | {"known": published and published.changed_at}
    result = run(lambda connection: connection.execute(statement, values).fetchone())
    products, total, facets, changed_at, sees_all, slugs = result
    rows = sorted(products or [], key=sort_key, reverse=query.sort == "-name")
    size = page_size(query)
    if not sees_all:
        changed_at = None
    newly_published = None
    if changed_at is not None and slugs is not None:
        newly_published = PublishedSlugs(frozenset(slugs), changed_at, time.time())
    return QueryResult(
        rows[:size], len(rows) > size, total, facets or [], changed_at, newly_published
    )


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


def render(query: Query, result: QueryResult, changed_at: datetime) -> RenderedAnswer:
    """The JSON of the contract. Raises NotFound when the one product asked for is not there."""
    rows = result.rows
    items = [to_json(row, query) for row in rows]
    next_cursor = None
    if result.has_more:
        next_cursor = query.encode_cursor(CursorPosition(*sort_key(rows[-1])))
    value: object = items
    if query.slug is not None:
        if not items:
            raise NotFound
        value = items[0]
    elif query.limit is not None:
        value = {
            "items": items,
            "next_cursor": next_cursor,
            "total": result.total if query.total else None,
            "facets": _render_facets(query, result.facets) if query.facets else None,
        }
    slugs = tuple(row["slug"] for row in rows)
    return RenderedAnswer(_encode(value), slugs, changed_at, next_cursor)


def remove_withdrawn(answer: RenderedAnswer, published: frozenset[str]) -> RenderedAnswer:
    """An older answer without the products that are not published any more.

    Raises NotFound when it was one product.
    """
    if published.issuperset(answer.slugs):
        return answer
    value = json.loads(answer.body)
    if isinstance(value, dict) and "items" not in value:
        raise NotFound
    items = value["items"] if isinstance(value, dict) else value
    slugs = tuple(slug for slug in answer.slugs if slug in published)
    remaining = [item for item, slug in zip(items, answer.slugs, strict=True) if slug in published]
    cursor = answer.next_cursor if slugs else None
    if isinstance(value, dict):
        value |= {"items": remaining, "next_cursor": cursor}
        if value["total"] is not None:
            withdrawn = len(items) - len(remaining)
            value["total"] = value["total"] - withdrawn if published else 0
        for values in (value["facets"] or {}).values() if not published else ():
            for counted in values:
                counted["count"] = 0
    else:
        value = remaining
    return RenderedAnswer(_encode(value), slugs, answer.changed_at, cursor)


def to_json(row: Row, query: Query) -> Product:
    """A product as callers read it: the fields asked for, in the language asked for."""
    other = next(locale for locale in LOCALES if locale != query.locale)

    def text(column: str) -> Any:
        return row.get(f"{column}_{query.locale}") or row.get(f"{column}_{other}")

    product: Product = {
        "slug": row["slug"],
        "name": row["name"],
        "brand": row["brand"],
        "audience": row["audience"],
        "functions": row["functions"],
        "categories": row["categories"],
        "summary": text("summary"),
        "benefits": text("benefits") or [],
        "howToUse": text("how_to_use") or "",
        "image": {
            "url": row.get("image_url"),
            "alt": text("image_alt"),
            "caption": text("image_caption"),
        },
    }
    if len(query.fields) == len(product):
        return product
    return cast("Product", {name: value for name, value in product.items() if name in query.fields})


def _render_facets(query: Query, rows: list[Row]) -> dict[str, list[dict[str, object]]]:
    """Each facet's values with their labels and counts; a facet ignores its own filter."""
    facets: dict[str, list[dict[str, object]]] = {name: [] for name in query.facets}
    for row in rows:
        label = row.get(f"label_{query.locale}") or AUDIENCE_LABELS.get(row["value"], row["value"])
        facets[row["facet"]].append({"value": row["value"], "label": label, "count": int(row["n"])})
    return facets


def _encode(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
