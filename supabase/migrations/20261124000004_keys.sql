-- What a rollback and a key rotation must know: builds as they presented themselves, keys retired.

create table public.deployments (
  deployment text primary key,
  commit text not null,
  schema_min text not null check (schema_min ~ '^\d{14}$'),
  schema_max text not null check (schema_max ~ '^\d{14}$'),
  maintenance_mode text not null default '',
  first_seen_at timestamptz not null,
  last_seen_at timestamptz not null,
  canary_passed boolean,
  canary_at timestamptz,
  check ((canary_passed is null) = (canary_at is null))
);
comment on table public.deployments is
  'Builds that served production, as each said of itself (lib/deployments.py). The schema range: the oldest migration it works with, and the newest it knew.';
comment on column public.deployments.maintenance_mode is
  'MAINTENANCE_MODE as it was baked into the build; empty when it was off';

-- A row a rotation. step: the last one that was finished (ops/rotation.py); never a value.
create table public.key_rotations (
  id bigint generated always as identity primary key,
  name text not null,
  reason text not null check (reason in ('scheduled', 'offboarding', 'leak')),
  step text not null,
  started_at timestamptz not null,
  old_fingerprint text check (old_fingerprint ~ '^[0-9a-f]{12}$'),
  new_fingerprint text check (new_fingerprint ~ '^[0-9a-f]{12}$'),
  deployed_at timestamptz,
  revoked_at timestamptz,
  finished_at timestamptz,
  facts jsonb not null default '{}'
);
comment on table public.key_rotations is
  'Key rotations: after revoked_at every deployment older than deployed_at is unsafe to roll back to. facts hold vendors'' ids, never values.';
create unique index key_rotations_open on public.key_rotations (name) where finished_at is null;

-- The record of `supabase db push` belongs to the tables' owner: this is the part others may read.
create function public.applied_migrations() returns table (version text, statements text[])
language sql stable security definer set search_path = ''
as $$
  select version, statements from supabase_migrations.schema_migrations order by version
$$;

do $$
declare
  ours text;
begin
  foreach ours in array array['deployments', 'key_rotations'] loop
    execute format('alter table public.%I enable row level security', ours);
    execute format('revoke all on public.%I from public, anon, authenticated', ours);
    execute format('grant select, insert, update, delete on public.%I to alfa_app', ours);
    execute format('create policy alfa_app_all on public.%I to alfa_app using (true) with check (true)', ours);
  end loop;
end
$$;

revoke all on sequence public.key_rotations_id_seq from public, anon, authenticated;
revoke execute on function public.applied_migrations() from public, anon, authenticated;
grant execute on function public.applied_migrations() to alfa_app;
