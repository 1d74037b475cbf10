-- Real-user vitals: sketches, by the hour for some days and by the day for good. No raw rows.
-- Size goes with pages x devices x releases x time, not with traffic.

create table public.rum_hours (
  hour timestamptz not null,
  path text not null,
  device text not null,
  metric text not null,
  release text not null,
  buckets smallint[] not null,
  counts integer[] not null,
  primary key (hour, path, device, metric, release),
  check (cardinality(buckets) = cardinality(counts))
);
comment on table public.rum_hours is
  'Sketches of closed and open hours: counts[i] values in bucket number buckets[i] (lib/sketch.py)';

create table public.rum_days (
  day date not null,
  path text not null,
  device text not null,
  metric text not null,
  release text not null,
  buckets smallint[] not null,
  counts integer[] not null,
  primary key (day, path, device, metric, release),
  check (cardinality(buckets) = cardinality(counts))
);
comment on table public.rum_days is 'The hours of a day in Indonesia''s western time (WIB), added up';

create table public.rum_releases (
  release text primary key,
  first_at timestamptz not null
);
comment on table public.rum_releases is 'The hour in which a release was first heard of';

create table public.rum_folds (
  batch text primary key,
  at timestamptz not null
);
comment on table public.rum_folds is
  'Batches of counts already taken over from Redis: a batch may be offered again after a crash';

create table public.rum_lasts (
  id text primary key,
  at bigint not null,
  hour timestamptz not null,
  path text not null,
  device text not null,
  metric text not null,
  release text not null,
  bucket smallint not null,
  bucket_before smallint,
  seen_at timestamptz not null
);
comment on table public.rum_lasts is
  'While Redis is down: where the last value of a metric''s id was counted. id is a hash. Handed back to Redis and deleted within the day.';

create index rum_lasts_by_time on public.rum_lasts (seen_at);

do $$
declare
  ours text;
begin
  foreach ours in array array['rum_hours', 'rum_days', 'rum_releases', 'rum_folds', 'rum_lasts'] loop
    execute format('alter table public.%I enable row level security', ours);
    execute format('revoke all on public.%I from public, anon, authenticated', ours);
    execute format('grant select, insert, update, delete on public.%I to alfa_app', ours);
    execute format('create policy alfa_app_all on public.%I to alfa_app using (true) with check (true)', ours);
  end loop;
end
$$;

create function public.rum_sum(
  buckets smallint[], counts integer[], more_buckets smallint[], more_counts integer[],
  out total_buckets smallint[], out total_counts integer[]
)
language sql immutable parallel safe set search_path = ''
return (
  select (coalesce(array_agg(bucket order by bucket), '{}'), coalesce(array_agg(n order by bucket), '{}'))
  from (
    select bucket, sum(n)::integer as n from (
      select * from unnest(buckets, counts)
      union all
      select * from unnest(more_buckets, more_counts)
    ) as given (bucket, n)
    group by bucket having sum(n) <> 0
  ) as added
);
comment on function public.rum_sum is 'Two sketches as one; a bucket that comes to nothing is left out';

revoke all on function public.rum_sum from public, anon, authenticated;
grant execute on function public.rum_sum to alfa_app;
