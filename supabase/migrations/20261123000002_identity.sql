-- A lead's identity: the same submission within 24 hours is the same lead, whatever is repeated.

create schema if not exists extensions;
create extension if not exists btree_gist with schema extensions;

alter table public.leads
  add column identity bytea,
  add column same_until timestamptz,
  add column body_sha256 bytea,
  add column arrival text not null default 'direct' check (arrival in ('direct', 'queue', 'mail')),
  add column journaled boolean not null default false,
  add column canary boolean not null default false;

update public.leads set
  identity = decode(replace(id::text, '-', ''), 'hex'),
  same_until = created_at + interval '24 hours',
  body_sha256 = '';

alter table public.leads
  alter column identity set not null,
  alter column same_until set not null,
  alter column body_sha256 set not null,
  -- Two of the same at the same moment: the second waits for the first, then does nothing.
  add constraint leads_once exclude using gist (
    identity with =,
    tstzrange(created_at, same_until) with &&
  );
comment on column public.leads.identity is
  'SHA-256 of the Idempotency-Key, or of phone, business and message where none was given';
comment on column public.leads.arrival is
  'direct: stored by the request; queue, mail: stored later from that copy, and answered 202';
comment on column public.leads.journaled is 'A sealed copy was put into the 48-hour journal';
comment on column public.leads.canary is 'A synthetic lead that proves the path; it removes itself';

create index leads_to_journal on public.leads (created_at) where not journaled;
