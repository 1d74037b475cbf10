-- Privacy: requests of persons and their clock, tombstones, and a plain DELETE that goes everywhere.

-- ---------------------------------------------------------------- the register

create table public.erasure_requests (
  id uuid primary key,
  receipt text not null unique check (receipt ~ '^(ERASE|ACCESS)-[0-9]{8}-[0-9a-f]{8}$'),
  kind text not null check (kind in ('erasure', 'access')),
  asked_by text not null check (asked_by in ('api', 'command', 'sql', 'restore')),
  marks text[] not null,
  received_at timestamptz not null,
  due_at timestamptz not null,
  answered_at timestamptz,
  sweep_at timestamptz,
  finished_at timestamptz
);
comment on table public.erasure_requests is
  'What persons asked for (UU PDP 27/2022: 72 hours). Holds nothing of theirs: marks are keyed hashes.';
comment on column public.erasure_requests.answered_at is
  'When the rows were deleted, or the person''s data shown; null while it waits for somebody';
comment on column public.erasure_requests.sweep_at is
  'When Redis must be looked through (again): what was on its way during the erasure has landed by then';
create index erasure_requests_open on public.erasure_requests (due_at) where finished_at is null;

create table public.erasure_steps (
  request_id uuid not null references public.erasure_requests (id) on delete cascade,
  place text not null,
  state text not null check (state in ('done', 'waiting', 'instruction', 'expires')),
  count integer not null default 0,
  due_at timestamptz,
  done_at timestamptz,
  facts jsonb not null default '{}',
  primary key (request_id, place)
);
comment on column public.erasure_steps.facts is
  'Ids that whoever follows an instruction needs; emptied when the step is done';

create table public.erasure_tombstones (
  mark text primary key,
  erased_at timestamptz not null
);
comment on table public.erasure_tombstones is
  'Keyed hashes (ERASURE_KEY, kept elsewhere) of who was erased: nothing of theirs from before erased_at may come back. A second copy is in Redis, for this table is as old as the backup it is restored from.';
create index erasure_tombstones_by_time on public.erasure_tombstones (erased_at);

-- What may still lie elsewhere of a lead that was deleted. The address and the number are there only
-- after a DELETE by hand, which cannot know ERASURE_KEY: the next round makes marks of them.
create table public.erasure_remains (
  lead_id uuid primary key,
  request_id uuid references public.erasure_requests (id) on delete cascade,
  ref text not null,
  email text,
  phone text,
  identity text not null,
  text_sha256 text not null,
  client inet,
  provider_ids text[] not null,
  deleted_at timestamptz not null
);
create index erasure_remains_by_request on public.erasure_remains (request_id);

-- ---------------------------------------------------------------- beside the leads

create index spam_by_email on public.spam ((submission ->> 'email'));
create index spam_by_phone on public.spam ((submission ->> 'phone_whatsapp'));
create index leads_with_origin on public.leads (created_at)
  where ip_address is not null or user_agent is not null;
create index outbox_by_time on public.outbox (created_at);

-- Whether a text speaks of one of these words, or holds one of these numbers however it is written.
create function public.speaks_of(given text, words text[], phones text[]) returns boolean
language sql immutable set search_path = ''
return exists (
  select from unnest(words) as word where strpos(lower(given), lower(word)) > 0
) or exists (
  select from unnest(phones) as phone
  where strpos(regexp_replace(given, '[^0-9]', '', 'g'), regexp_replace(phone, '^\+(62)?', '')) > 0
);

create function public.erase_beside_leads(
  emails text[], phones text[], words text[], until timestamptz, out spam bigint, out notes bigint
)
language plpgsql set search_path = ''
as $$
begin
  with gone as (
    delete from public.spam as s
    where (s.submission ->> 'email' = any(emails) or s.submission ->> 'phone_whatsapp' = any(phones))
      and s.received_at <= until
    returning 1
  )
  select count(*) into spam from gone;
  -- Of the timeline only a note's text may go; its hash stays.
  with gone as (
    update public.incident_events as e set note = null
    where e.note is not null and e.at <= until and public.speaks_of(e.note, emails || words, phones)
    returning 1
  )
  select count(*) into notes from gone;
end
$$;

-- ---------------------------------------------------------------- DELETE FROM leads, by hand too

-- Says what of a lead lies elsewhere, before its mails go with it. Retention and the canary are no
-- erasures: alfa.deleting says so, for one transaction.
create function public.note_deleted_lead() returns trigger
language plpgsql set search_path = ''
as $$
declare
  request constant uuid := nullif(current_setting('alfa.erasure', true), '')::uuid;
  said constant text := coalesce(old.message, old.id::text);
begin
  insert into public.erasure_remains (
    lead_id, request_id, ref, email, phone, identity, text_sha256, client, provider_ids, deleted_at
  ) values (
    old.id, request, old.ref,
    case when request is null then old.email end,
    case when request is null then old.phone_whatsapp end,
    encode(old.identity, 'hex'),
    -- As lib/leads.py names a text at the door.
    encode(sha256(convert_to('4:text' || char_length(said) || ':' || said, 'UTF8')), 'hex'),
    old.ip_address,
    -- A mail that may be out under no id we know is found by its idempotency key.
    array(
      select coalesce(provider_id, kind || '/' || lead_id) from public.outbox
      where lead_id = old.id and attempts > 0
    ),
    statement_timestamp()
  )
  on conflict (lead_id) do update set
    request_id = excluded.request_id, email = excluded.email, phone = excluded.phone,
    identity = excluded.identity, text_sha256 = excluded.text_sha256, client = excluded.client,
    provider_ids = public.erasure_remains.provider_ids || excluded.provider_ids,
    deleted_at = excluded.deleted_at;
  return old;
end
$$;

create trigger note_erasure before delete on public.leads
  for each row
  when (not old.canary and current_setting('alfa.deleting', true) is distinct from 'retention')
  execute function public.note_deleted_lead();

-- After a DELETE by hand: whose last lead it was is erased beside the leads at once. Where others of
-- the same address or number stay, single leads were removed, and no person.
create function public.erase_with_leads() returns trigger
language plpgsql set search_path = ''
as $$
declare
  emails text[];
  phones text[];
begin
  if coalesce(current_setting('alfa.erasure', true), '') <> ''
    or current_setting('alfa.deleting', true) = 'retention' then
    return null;
  end if;
  update public.erasure_remains as r set email = null
  where r.lead_id in (select id from gone)
    and exists (select from public.leads as l where l.email = r.email);
  update public.erasure_remains as r set phone = null
  where r.lead_id in (select id from gone)
    and exists (select from public.leads as l where l.phone_whatsapp = r.phone);
  select array_agg(distinct r.email) filter (where r.email is not null),
    array_agg(distinct r.phone) filter (where r.phone is not null)
  into emails, phones
  from public.erasure_remains as r where r.lead_id in (select id from gone where not canary);
  perform public.erase_beside_leads(
    coalesce(emails, '{}'), coalesce(phones, '{}'),
    array(select ref from gone where not canary), statement_timestamp()
  );
  return null;
end
$$;

create trigger erase_everywhere after delete on public.leads
  referencing old table as gone
  for each statement execute function public.erase_with_leads();

-- ---------------------------------------------------------------- who may what

do $$
declare
  ours text;
begin
  foreach ours in array array['erasure_requests', 'erasure_steps', 'erasure_tombstones',
      'erasure_remains'] loop
    execute format('alter table public.%I enable row level security', ours);
    execute format('revoke all on public.%I from public, anon, authenticated', ours);
    execute format('grant select, insert, update, delete on public.%I to alfa_app', ours);
    execute format('create policy alfa_app_all on public.%I to alfa_app using (true) with check (true)', ours);
  end loop;
end
$$;

revoke execute on function public.speaks_of(text, text[], text[]),
  public.erase_beside_leads(text[], text[], text[], timestamptz),
  public.note_deleted_lead(), public.erase_with_leads()
  from public, anon, authenticated;
grant execute on function public.speaks_of(text, text[], text[]),
  public.erase_beside_leads(text[], text[], text[], timestamptz) to alfa_app;
