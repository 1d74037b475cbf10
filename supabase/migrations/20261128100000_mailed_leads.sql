-- Leads that were accepted while neither Postgres nor the queue took them, and exist only in a mail.

create table public.mailed_leads (
  lead_id uuid primary key,
  ref text not null,
  accepted_at timestamptz not null,
  marks text[] not null default '{}',
  registered_at timestamptz not null,
  dismissed_at timestamptz,
  dismissed_by text,
  reason text,
  check ((dismissed_at is null) = (reason is null))
);
comment on table public.mailed_leads is
  'Open until the lead is imported (it is in leads then) or dismissed by a person. Holds ids alone: marks are keyed hashes, by which an erasure finds it.';

create index mailed_leads_open on public.mailed_leads (accepted_at) where dismissed_at is null;

-- A lead that is erased, or ends by age, was imported: its entry would be open again.
create function public.forget_mailed_leads() returns trigger
language plpgsql set search_path = ''
as $$
begin
  delete from public.mailed_leads where lead_id in (select id from gone);
  return null;
end
$$;

create trigger forget_mailed after delete on public.leads
  referencing old table as gone
  for each statement execute function public.forget_mailed_leads();

alter table public.mailed_leads enable row level security;
revoke all on public.mailed_leads from public, anon, authenticated;
grant select, insert, update, delete on public.mailed_leads to alfa_app;
create policy alfa_app_all on public.mailed_leads to alfa_app using (true) with check (true);
revoke execute on function public.forget_mailed_leads() from public, anon, authenticated;

-- A new deployment asks the database once whether it would take a lead.

alter table public.deployments
  add column asked_at timestamptz,
  add column fault text,
  add check (fault is null or asked_at is not null);
comment on column public.deployments.asked_at is
  'When an instance of it asked whether its own statements would work (lib/rehearsal.py); whoever sets it asks';
comment on column public.deployments.fault is 'What would have failed then; null when nothing would';
