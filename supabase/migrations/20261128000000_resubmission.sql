-- Resubmission: a submission with the same content is the same lead under any Idempotency-Key; its
-- other fields are corrected and sales get one e-mail. Review: leads that a person must see before
-- sales get an e-mail.

alter table public.leads
  add column content_identity bytea,
  add column key_span int8range,
  add column corrections smallint not null default 0,
  add column corrected_at timestamptz,
  add column review text,
  -- Without a key the range is unbounded, with one it is a point: equal content under two keys is
  -- two leads, and otherwise one. In older rows both are null and exclude nothing.
  add constraint leads_same_words_once exclude using gist (
    content_identity with =,
    tstzrange(created_at, same_until) with &&,
    key_span with &&
  );
comment on column public.leads.content_identity is 'SHA-256 of phone, business and message';
comment on column public.leads.key_span is
  'Unbounded without an Idempotency-Key; with one, a point derived from it';
comment on column public.leads.corrections is
  'How often the same content came again with other values, which replaced the old ones';
comment on column public.leads.review is
  'Why no e-mail was sent yet: a person must decide (python3 -m ops review list), or `dismissed`; null for most';

create index leads_in_review on public.leads (created_at) where review <> 'dismissed';

alter table public.outbox drop constraint outbox_kind_check;
alter table public.outbox add constraint outbox_kind_check
  check (kind in ('sales', 'acknowledgement') or kind ~ '^correction-[0-9]+$');

-- An erasure deletes the idempotency record of the same content too.
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
    -- The same hash as in lib/leads/repository.py.
    encode(sha256(convert_to('4:text' || char_length(said) || ':' || said, 'UTF8')), 'hex'),
    old.ip_address,
    -- A mail that may have been sent and has no provider_id is found by its idempotency key.
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
