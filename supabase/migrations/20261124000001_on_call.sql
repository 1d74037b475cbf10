-- On call: what requests were counted, incidents and their timeline, what the watch must know.

-- ---------------------------------------------------------------- measured

create table public.metric_minutes (
  minute timestamptz not null,
  service text not null,
  deployment text not null,
  class text not null check (class in ('ok', 'queued', 'refused', 'error')),
  bucket smallint not null,
  n integer not null check (n > 0),
  primary key (minute, service, deployment, class, bucket)
);
comment on table public.metric_minutes is
  'Requests answered in a minute, by latency bucket (lib/metrics.py); a copy of what Redis counted';

create table public.metric_hours (
  hour timestamptz not null,
  service text not null,
  deployment text not null,
  class text not null check (class in ('ok', 'queued', 'refused', 'error')),
  bucket smallint not null,
  n integer not null check (n > 0),
  primary key (hour, service, deployment, class, bucket)
);

create table public.service_days (
  day date not null,
  service text not null,
  n bigint not null,
  errors bigint not null,
  within_sla bigint not null,
  primary key (day, service)
);
comment on table public.service_days is 'A line a service and day (WIB), for the bars of the status page';

-- ---------------------------------------------------------------- incidents

-- An RCA: {"cause": …, "impact": …, "actions": [{"what": …, "owner": …, "due": "2026-12-01"}, …]}.
create function public.rca_is_complete(rca jsonb) returns boolean
language sql immutable set search_path = ''
return coalesce(
  length(trim(rca ->> 'cause')) > 0 and length(trim(rca ->> 'impact')) > 0
  and jsonb_typeof(rca -> 'actions') = 'array' and jsonb_array_length(rca -> 'actions') > 0
  and not exists (
    select from jsonb_array_elements(rca -> 'actions') as action
    where coalesce(trim(action ->> 'what'), '') = '' or coalesce(trim(action ->> 'owner'), '') = ''
      or coalesce(action ->> 'due', '') !~ '^\d{4}-\d{2}-\d{2}$'
  ), false
);

create table public.incidents (
  number bigint generated always as identity unique,
  id text primary key check (id ~ '^INC-[0-9]{8}-[0-9]{4}-[a-z_]+$'),
  area text not null,
  severity text not null check (severity in ('sev1', 'sev2')),
  state text not null default 'detect'
    check (state in ('detect', 'classify', 'contain', 'resolve', 'review', 'closed')),
  title text not null,
  rules text[] not null,
  started_at timestamptz not null,
  detected_at timestamptz not null,
  acknowledged_at timestamptz,
  acknowledged_by text,
  contained_at timestamptz,
  resolved_at timestamptz,
  closed_at timestamptz,
  deployment text not null,
  facts jsonb not null default '{}',
  rca jsonb,
  clean_ticks integer not null default 0,
  -- What Slack knows of it: behind while told < version.
  version integer not null default 1,
  told integer not null default 0,
  tell_at timestamptz not null,
  remind_at timestamptz,
  slack_channel text,
  slack_ts text,
  check ((closed_at is null) = (state <> 'closed')),
  check (state <> 'closed' or severity <> 'sev1' or public.rca_is_complete(rca))
);
comment on column public.incidents.version is
  'Grows with every change worth telling; told is the version Slack has. One message an incident.';

-- One at a time in an area: what else goes wrong there joins it.
create unique index incidents_open on public.incidents (area)
  where state in ('detect', 'classify', 'contain');
create index incidents_untold on public.incidents (tell_at) where told < version;
create index incidents_by_time on public.incidents (started_at desc);

create table public.incident_events (
  incident_id text not null references public.incidents (id),
  seq integer not null,
  at timestamptz not null,
  kind text not null,
  actor text not null,
  facts jsonb not null default '{}',
  note text,
  note_sha256 bytea not null,
  previous bytea not null,
  hash bytea not null,
  primary key (incident_id, seq)
);
comment on table public.incident_events is
  'The timeline: append-only, each event sealed by a hash over itself and the one before. A note''s text may be erased; its own hash stays.';

create function public.incident_event_hash(given public.incident_events) returns bytea
language sql stable set search_path = ''
return sha256(
  given.previous || given.note_sha256 || convert_to(
    jsonb_build_array(
      given.incident_id, given.seq, (extract(epoch from given.at) * 1000000)::bigint,
      given.kind, given.actor, given.facts
    )::text, 'UTF8')
);

create function public.chain_incident_event() returns trigger
language plpgsql set search_path = ''
as $$
declare
  before public.incident_events;
begin
  if tg_op = 'DELETE' then
    raise exception 'the timeline is append-only' using errcode = 'insufficient_privilege';
  end if;
  if tg_op = 'UPDATE' then
    before := old;
    before.note := new.note;
    if new.note is not null or before is distinct from new then
      raise exception 'the timeline is append-only; only a note''s text may be erased'
        using errcode = 'insufficient_privilege';
    end if;
    return new;
  end if;
  -- The incident's row is the lock: events get their numbers one after the other.
  perform from public.incidents where id = new.incident_id for update;
  select * into before from public.incident_events
  where incident_id = new.incident_id order by seq desc limit 1;
  new.seq := coalesce(before.seq, 0) + 1;
  new.previous := coalesce(before.hash, ''::bytea);
  new.note_sha256 := sha256(convert_to(coalesce(new.note, ''), 'UTF8'));
  new.hash := public.incident_event_hash(new);
  return new;
end
$$;

create trigger chain before insert or update or delete on public.incident_events
  for each row execute function public.chain_incident_event();

create function public.broken_timelines() returns table (incident_id text, seq integer)
language sql stable set search_path = ''
begin atomic
  select event.incident_id, event.seq
  from (
    select e as whole, e.incident_id, e.seq, e.hash, e.previous, e.note, e.note_sha256,
      lag(e.hash, 1, ''::bytea) over one as expected,
      row_number() over one as place
    from public.incident_events as e
    window one as (partition by e.incident_id order by e.seq)
  ) as event
  where event.seq <> event.place or event.previous <> event.expected
    or event.hash <> public.incident_event_hash(event.whole)
    or (event.note is not null and event.note_sha256 <> sha256(convert_to(event.note, 'UTF8')))
  order by 1, 2;
end;

-- ---------------------------------------------------------------- what the watch must know

create table public.job_runs (
  job text primary key,
  first_run_at timestamptz not null,
  finished_at timestamptz not null,
  facts jsonb not null default '{}'
);
comment on table public.job_runs is 'When a job first and last came to its end';

create table public.leases (
  job text primary key,
  holder text not null,
  until timestamptz not null
);
comment on table public.leases is 'Who runs a job, where Redis cannot say';

create table public.backups (
  source text not null,
  taken_at timestamptz not null,
  status text not null,
  facts jsonb not null default '{}',
  primary key (source, taken_at)
);
comment on table public.backups is
  'Backups that were seen: source supabase (its management API) or own (ops backup); status COMPLETED is a good one';

create table public.drills (
  id bigint generated always as identity primary key,
  kind text not null,
  at timestamptz not null,
  verdict text not null check (verdict in ('PASS', 'FAIL', 'COULD NOT VERIFY')),
  facts jsonb not null default '{}'
);
comment on table public.drills is 'Exercises and what they showed; facts hold figures, never personal data';
create index drills_by_kind on public.drills (kind, at desc);

create table public.key_sightings (
  name text not null,
  fingerprint text not null,
  deployment text not null,
  first_seen_at timestamptz not null,
  last_seen_at timestamptz not null,
  primary key (name, fingerprint, deployment)
);
comment on table public.key_sightings is
  'Which deployment uses which key, by a keyed fingerprint; never a value';

-- ---------------------------------------------------------------- who may what

do $$
declare
  ours text;
begin
  foreach ours in array array['metric_minutes', 'metric_hours', 'service_days', 'incidents',
      'incident_events', 'job_runs', 'leases', 'backups', 'drills', 'key_sightings'] loop
    execute format('alter table public.%I enable row level security', ours);
    execute format('revoke all on public.%I from public, anon, authenticated', ours);
    execute format('grant select, insert, update, delete on public.%I to alfa_app', ours);
    execute format('create policy alfa_app_all on public.%I to alfa_app using (true) with check (true)', ours);
  end loop;
end
$$;

revoke all on sequence public.incidents_number_seq, public.drills_id_seq from public, anon, authenticated;
revoke execute on function public.rca_is_complete(jsonb), public.chain_incident_event(),
  public.incident_event_hash(public.incident_events), public.broken_timelines()
  from public, anon, authenticated;
grant execute on function public.rca_is_complete(jsonb), public.broken_timelines(),
  public.incident_event_hash(public.incident_events) to alfa_app;
