-- When every product is withdrawn, the catalogue says so: its one row of state stays, with the
-- moment of the change. No row means that nobody can tell, and older copies are served.

create or replace function public.count_products() returns trigger
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
  return null;
end
$$;

comment on table public.catalogue_state is
  'When the catalogue last changed: one row; none before the first product';

-- All withdrawn already: the row is not there, and nothing would bring it back.
insert into public.catalogue_state (changed_at)
select clock_timestamp() where exists (select from public.products)
on conflict (one) do nothing;
