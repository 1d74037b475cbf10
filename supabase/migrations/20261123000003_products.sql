-- The product catalogue, and what makes it quick to find: words, counts, synonyms.
-- Edit products, labels and synonyms wherever you like (`ops catalogue import`, Supabase's table
-- editor): triggers keep everything derived in step. Nothing here holds a price, ever.

create schema if not exists extensions;
create extension if not exists pg_trgm with schema extensions;
create extension if not exists unaccent with schema extensions;
create extension if not exists btree_gin with schema extensions;
create extension if not exists fuzzystrmatch with schema extensions;

grant usage on schema extensions to alfa_app;

-- A text as it is searched and sorted: lower case, without accents, words of a-z and 0-9.
create function public.fold(given text) returns text
language sql immutable strict parallel safe set search_path = ''
as $$
  select trim(regexp_replace(
    lower(extensions.unaccent('extensions.unaccent'::regdictionary, normalize(given, nfkc))),
    '[^a-z0-9]+', ' ', 'g'))
$$;

create table public.brands (
  name text primary key check (length(name) between 1 and 80),
  position integer not null default 0
);

create table public.categories (
  code text primary key check (code ~ '^[a-z0-9]+(-[a-z0-9]+)*$'),
  label_id text not null,
  label_en text not null,
  position integer not null default 0
);

create table public.functions (
  code text primary key check (code ~ '^[a-z0-9]+(-[a-z0-9]+)*$'),
  label_id text not null,
  label_en text not null,
  position integer not null default 0
);

create table public.synonyms (
  term text not null check (term <> ''),
  same_as text not null check (same_as <> ''),
  primary key (term, same_as)
);
comment on table public.synonyms is
  'What a visitor may type (term, in any language) and words of the catalogue that it means as well';

create table public.products (
  slug text collate "C" primary key
    check (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$' and length(slug) <= 100),
  name text not null check (length(name) between 1 and 160),
  brand text not null references public.brands (name) on update cascade,
  audience text[] not null
    check (audience <@ array['SALON', 'BARBER'] and cardinality(audience) between 1 and 2),
  categories text[] not null check (cardinality(categories) > 0),
  functions text[] not null default '{}',
  summary_id text,
  summary_en text,
  benefits_id text[],
  benefits_en text[],
  how_to_use_id text,
  how_to_use_en text,
  image_url text,
  image_alt_id text,
  image_alt_en text,
  image_caption_id text,
  image_caption_en text,
  published boolean not null default true,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  name_key text collate "C" not null,
  brand_key text collate "C" not null,
  newness bigint not null,
  search tsvector not null,
  check (summary_id is not null or summary_en is not null)
);
comment on column public.products.name_key is 'Derived: the folded name, which lists are sorted by';
comment on column public.products.brand_key is 'Derived: the brand in lower case, which filters compare';
comment on column public.products.newness is 'Derived: minus the microseconds of created_at, so that newest comes first ascending';
comment on column public.products.search is
  'Derived: folded words of both languages; A name, B brand, categories and functions, C summary, D benefits';

create index products_by_name on public.products (name_key, slug) where published;
create index products_by_newness on public.products (newness, name_key, slug) where published;
create index products_by_search on public.products using gin (search) where published;
create index products_by_facet on public.products
  using gin (brand_key, categories, functions, audience) where published;

-- How many published products share brand, categories, functions and audience: counting facets
-- reads these few rows, not the products.
create table public.product_groups (
  brand text not null,
  categories text[] not null,
  functions text[] not null,
  audience text[] not null,
  n bigint not null,
  primary key (brand, categories, functions, audience)
);

-- Every word of every published product, once: what a typing error is compared with. A word that
-- no product holds any more is harmless, and swept by the next import.
create table public.search_words (word text collate "C" primary key);
create index search_words_alike on public.search_words
  using gin (word extensions.gin_trgm_ops);

create table public.catalogue_state (
  one boolean primary key default true check (one),
  changed_at timestamptz not null
);
comment on table public.catalogue_state is 'When the catalogue last changed: one row, or none while no product is published';

-- ---------------------------------------------------------------- derived columns

create function public.derive_product() returns trigger
language plpgsql set search_path = ''
as $$
declare
  labels text;
begin
  select string_agg(label, ' ') into labels
  from (
    select code || ' ' || label_id || ' ' || label_en as label
    from public.categories where code = any(new.categories)
    union all
    select code || ' ' || label_id || ' ' || label_en
    from public.functions where code = any(new.functions)
  ) as named;
  new.name_key := public.fold(new.name);
  new.brand_key := lower(new.brand);
  new.newness := -(extract(epoch from new.created_at) * 1000000)::bigint;
  new.search :=
    setweight(to_tsvector('pg_catalog.simple', public.fold(new.name)), 'A')
    || setweight(to_tsvector('pg_catalog.simple',
         public.fold(concat_ws(' ', new.brand, labels))), 'B')
    || setweight(to_tsvector('pg_catalog.simple',
         public.fold(concat_ws(' ', new.summary_id, new.summary_en))), 'C')
    || setweight(to_tsvector('pg_catalog.simple',
         public.fold(concat_ws(' ', array_to_string(new.benefits_id, ' '),
                                    array_to_string(new.benefits_en, ' ')))), 'D');
  return new;
end
$$;

create trigger derive before insert or update on public.products
  for each row execute function public.derive_product();

create function public.fold_synonym() returns trigger
language plpgsql set search_path = ''
as $$
begin
  new.term := public.fold(new.term);
  new.same_as := public.fold(new.same_as);
  return new;
end
$$;

create trigger fold before insert or update on public.synonyms
  for each row execute function public.fold_synonym();

create function public.relabel_products() returns trigger
language plpgsql set search_path = ''
as $$
begin
  -- An upsert that changed no label fires as well, with nothing in `made`.
  update public.products set name = name
  where categories && array(select code from made) or functions && array(select code from made);
  return null;
end
$$;

create trigger relabel after update on public.categories
  referencing new table as made
  for each statement execute function public.relabel_products();
create trigger relabel after update on public.functions
  referencing new table as made
  for each statement execute function public.relabel_products();

-- ---------------------------------------------------------------- counts, words, the last change

create function public.count_products() returns trigger
language plpgsql set search_path = ''
as $$
begin
  if tg_op = 'TRUNCATE' then
    delete from public.product_groups;
  elsif tg_op = 'INSERT' then
    insert into public.product_groups as held (brand, categories, functions, audience, n)
    select brand, categories, functions, audience, count(*) from made
    where published group by 1, 2, 3, 4
    on conflict (brand, categories, functions, audience) do update set n = held.n + excluded.n;
  elsif tg_op = 'DELETE' then
    insert into public.product_groups as held (brand, categories, functions, audience, n)
    select brand, categories, functions, audience, -count(*) from gone
    where published group by 1, 2, 3, 4
    on conflict (brand, categories, functions, audience) do update set n = held.n + excluded.n;
  else
    insert into public.product_groups as held (brand, categories, functions, audience, n)
    select brand, categories, functions, audience, sum(step)
    from (
      select brand, categories, functions, audience, 1 as step from made where published
      union all
      select brand, categories, functions, audience, -1 from gone where published
    ) as changed
    group by 1, 2, 3, 4 having sum(step) <> 0
    on conflict (brand, categories, functions, audience) do update set n = held.n + excluded.n;
  end if;
  delete from public.product_groups where n = 0;
  if tg_op in ('INSERT', 'UPDATE') then
    insert into public.search_words (word)
    select distinct unnest(tsvector_to_array(search)) from made where published
    on conflict do nothing;
  end if;
  insert into public.catalogue_state (changed_at) values (clock_timestamp())
  on conflict (one) do update set changed_at = excluded.changed_at;
  delete from public.catalogue_state where not exists (select from public.product_groups);
  return null;
end
$$;

create trigger count_insert after insert on public.products
  referencing new table as made
  for each statement execute function public.count_products();
create trigger count_update after update on public.products
  referencing old table as gone new table as made
  for each statement execute function public.count_products();
create trigger count_delete after delete on public.products
  referencing old table as gone
  for each statement execute function public.count_products();
create trigger count_truncate after truncate on public.products
  for each statement execute function public.count_products();

-- ---------------------------------------------------------------- what was typed, as a query

-- Every word must be met: by words that begin with it; where there is none, by those that are a
-- slip away (one from 4 letters, two from 6); and by what a synonym of it means.
create function public.product_query(given text) returns tsquery
language plpgsql stable parallel safe set search_path = ''
as $$
declare
  little constant text[] := array['dan', 'untuk', 'yang', 'dengan', 'di', 'and', 'for', 'the',
                                  'of', 'with', 'a'];
  typed text[] := string_to_array(public.fold(given), ' ');
  words text[] := array(select w from unnest(typed) with ordinality as t (w, at)
                        where w <> all(little) order by at);
  whole text;
  token text;
  slips integer;
  part tsquery;
  meant tsquery;
  found tsquery;
begin
  if cardinality(words) = 0 then
    words := typed;
  end if;
  words := words[1:8];
  whole := ' ' || array_to_string(words, ' ') || ' ';
  foreach token in array words loop
    slips := case when length(token) < 4 then 0 when length(token) < 6 then 1 else 2 end;
    part := (token || ':*')::tsquery;
    if slips > 0 and not exists (
      select from public.search_words where word >= token and word < token || '~'
    ) then
      select to_tsquery('pg_catalog.simple', string_agg(near.word, ' | ')) into meant
      from (
        select word from public.search_words
        where (word operator(extensions.%) token
               or (word >= left(token, 1) and word < left(token, 1) || '~'))
          and length(word) <= 100
          and (extensions.levenshtein_less_equal(word, token, slips) <= slips
               or extensions.levenshtein_less_equal(left(word, length(token)), token, 1) <= 1)
        order by word limit 50
      ) as near;
      part := coalesce(part || meant, part);
    end if;
    for meant in
      select plainto_tsquery('pg_catalog.simple', same_as) from public.synonyms
      where (position(' ' || term || ' ' in whole) > 0 and token = any(string_to_array(term, ' ')))
         or (position(' ' in term) = 0 and length(token) >= 3
             and (term like token || '%'
                  or (slips > 0 and length(term) > 3 and length(term) <= 100
                      and extensions.levenshtein_less_equal(term, token, 1) <= 1)))
    loop
      part := part || meant;
    end loop;
    found := coalesce(found && part, part);
  end loop;
  return coalesce(found, ''::tsquery);
end
$$;

-- ---------------------------------------------------------------- who may what

alter table public.brands enable row level security;
alter table public.categories enable row level security;
alter table public.functions enable row level security;
alter table public.synonyms enable row level security;
alter table public.products enable row level security;
alter table public.product_groups enable row level security;
alter table public.search_words enable row level security;
alter table public.catalogue_state enable row level security;

revoke all on public.brands, public.categories, public.functions, public.synonyms,
  public.products, public.product_groups, public.search_words, public.catalogue_state
  from public, anon, authenticated;
grant select, insert, update, delete on public.brands, public.categories, public.functions,
  public.synonyms, public.products, public.product_groups, public.search_words,
  public.catalogue_state to alfa_app;
create policy alfa_app_all on public.brands to alfa_app using (true) with check (true);
create policy alfa_app_all on public.categories to alfa_app using (true) with check (true);
create policy alfa_app_all on public.functions to alfa_app using (true) with check (true);
create policy alfa_app_all on public.synonyms to alfa_app using (true) with check (true);
create policy alfa_app_all on public.products to alfa_app using (true) with check (true);
create policy alfa_app_all on public.product_groups to alfa_app using (true) with check (true);
create policy alfa_app_all on public.search_words to alfa_app using (true) with check (true);
create policy alfa_app_all on public.catalogue_state to alfa_app using (true) with check (true);

revoke execute on function public.fold(text), public.derive_product(), public.fold_synonym(),
  public.relabel_products(), public.count_products(), public.product_query(text)
  from public, anon, authenticated;
grant execute on function public.fold(text), public.product_query(text) to alfa_app;
