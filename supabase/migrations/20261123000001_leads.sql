-- Leads, the mails that tell of them, and what was taken for spam.
-- Readable and writable by the functions' role alone: Supabase publishes this schema over REST,
-- so row level security is on everywhere and nothing is granted to anon or authenticated.

do $$
begin
  if not exists (select from pg_roles where rolname = 'alfa_app') then
    -- Rights live here; the roles that log in are members and are rotated (runbook: keys).
    create role alfa_app nologin;
  end if;
end
$$;

create table public.leads (
  id uuid primary key,
  ref text not null unique check (ref ~ '^ALFA-[0-9A-Z]{5,13}$'),
  created_at timestamptz not null,
  business_name text not null,
  contact_name text not null,
  phone_whatsapp text not null check (phone_whatsapp ~ '^\+[0-9]{10,15}$'),
  city text not null,
  salon_type text not null check (salon_type in ('SALON', 'BARBER', 'BRIDAL', 'UNISEX', 'OTHER')),
  email text check (email = lower(email)),
  chair_count integer check (chair_count between 1 and 10000),
  specialization text,
  current_brands_used text,
  monthly_spend_range text,
  message text,
  page_url_initial text,
  page_url_current text,
  referrer text,
  utm_source text,
  utm_medium text,
  utm_campaign text,
  utm_term text,
  utm_content text,
  locale text not null check (locale in ('id', 'en')),
  consent_at timestamptz not null,
  consent_version text not null,
  consent_locale text not null,
  consent_sha256 text,
  ip_address inet,
  user_agent text
);
comment on column public.leads.consent_sha256 is
  'SHA-256 of the consent sentence shown, of that version and language; null when the version is not known to us';

create index leads_by_time on public.leads (created_at desc, id desc);
create index leads_by_email on public.leads (email) where email is not null;
create index leads_by_phone on public.leads (phone_whatsapp);

create table public.outbox (
  id uuid primary key default gen_random_uuid(),
  lead_id uuid not null references public.leads (id) on delete cascade,
  kind text not null check (kind in ('sales', 'acknowledgement')),
  sender text not null,
  recipients text[] not null,
  reply_to text,
  subject text not null,
  body_text text not null,
  body_html text not null,
  created_at timestamptz not null,
  attempts integer not null default 0,
  first_attempt_at timestamptz,
  next_attempt_at timestamptz not null,
  leased_until timestamptz,
  uncertain boolean not null default false,
  sent_at timestamptz,
  provider_id text,
  dead_at timestamptz,
  last_error text,
  unique (lead_id, kind),
  check (sent_at is null or dead_at is null)
);
comment on table public.outbox is
  'One row a mail, written with its lead. Rendered once: a retry must repeat the same bytes or Resend refuses its idempotency key.';

comment on column public.outbox.uncertain is
  'An attempt is under way or ended without an answer, so the mail may be out: never tried again once its idempotency key has run out.';

create index outbox_waiting on public.outbox (next_attempt_at) where sent_at is null and dead_at is null;

create table public.spam (
  id uuid primary key,
  ref text not null,
  received_at timestamptz not null,
  reason text not null,
  submission jsonb not null,
  locale text not null,
  ip_address inet,
  user_agent text
);
comment on table public.spam is 'Submissions that looked like spam: kept 30 days, restorable, nobody was mailed.';

create index spam_by_time on public.spam (received_at);

alter table public.leads enable row level security;
alter table public.outbox enable row level security;
alter table public.spam enable row level security;

revoke all on public.leads, public.outbox, public.spam from public, anon, authenticated;
grant usage on schema public to alfa_app;
grant select, insert, update, delete on public.leads, public.outbox, public.spam to alfa_app;
create policy alfa_app_all on public.leads to alfa_app using (true) with check (true);
create policy alfa_app_all on public.outbox to alfa_app using (true) with check (true);
create policy alfa_app_all on public.spam to alfa_app using (true) with check (true);
