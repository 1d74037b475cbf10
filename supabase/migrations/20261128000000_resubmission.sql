-- The same words are the same lead under whatever key they come; what they give otherwise is
-- corrected and sales are told once. And leads that wait for a person's look before sales hear.

alter table public.leads
  add column content_identity bytea,
  add column key_span int8range,
  add column corrections smallint not null default 0,
  add column corrected_at timestamptz,
  add column review text,
  -- Without a key the span is everything, with one it is a point: the same words under two keys
  -- are two leads, and otherwise one. Both are null, and hinder nothing, in rows of before.
  add constraint leads_same_words_once exclude using gist (
    content_identity with =,
    tstzrange(created_at, same_until) with &&,
    key_span with &&
  );
comment on column public.leads.content_identity is 'SHA-256 of phone, business and message';
comment on column public.leads.key_span is
  'Everything without an Idempotency-Key, a point made of it with one';
comment on column public.leads.corrections is
  'How often the same words came again with other values, which were taken over';
comment on column public.leads.review is
  'Why no mail was written yet: a person has to look (python3 -m ops review list), or `dismissed` by one; null for nearly all';

create index leads_in_review on public.leads (created_at) where review <> 'dismissed';

alter table public.outbox drop constraint outbox_kind_check;
alter table public.outbox add constraint outbox_kind_check
  check (kind in ('sales', 'acknowledgement') or kind ~ '^correction-[0-9]+$');

-- An erasure forgets the idempotency record of the same words too.
alter table public.erasure_remains add column content_identity text;

create or replace function public.note_deleted_lead() returns trigger
language plpgsql set search_path = ''
as $$
declare
  request constant uuid := nullif(current_setting('alfa.erasure', true), '')::uuid;
  said constant text := coalesce(old.message, old.id::text);
begin
  insert into public.erasure_remains (
    lead_id, request_id, ref, email, phone, identity, text_sha256, client, provider_ids, deleted_at,
    content_identity
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
    statement_timestamp(),
    encode(old.content_identity, 'hex')
  )
  on conflict (lead_id) do update set
    request_id = excluded.request_id, email = excluded.email, phone = excluded.phone,
    identity = excluded.identity, text_sha256 = excluded.text_sha256, client = excluded.client,
    provider_ids = public.erasure_remains.provider_ids || excluded.provider_ids,
    deleted_at = excluded.deleted_at, content_identity = excluded.content_identity;
  return old;
end
$$;
