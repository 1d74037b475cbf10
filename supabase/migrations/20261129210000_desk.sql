-- The sales desk: a search that folds both sides, and the mark of an answered lead.

-- Letters and digits alone, without case, accents, spaces or punctuation: "Ma’ruf  & Café" is
-- "marufcafe". Lines stay, so that one text may hold several. The ranges are those of punctuation
-- and invisible characters; letters of any other script stay.
create function public.search_key(given text) returns text
language sql immutable strict parallel safe set search_path = ''
as $$
  select regexp_replace(
    lower(extensions.unaccent('extensions.unaccent'::regdictionary, normalize(given, nfkc))),
    '[\u0001-\u0009\u000b-\u002f\u003a-\u0040\u005b-\u0060\u007b-\u00bf\u0300-\u036f'
    '\u02b0-\u02ff\u2000-\u206f\u2190-\u21ff\u2212\u3000-\u303f\ufe00-\ufe0f\ufeff]+', '', 'g')
$$;

-- One line a field. Its results are in an index: changing this function or the one above needs
-- `reindex index leads_by_words`.
create function public.lead_search_key(
  ref text, business_name text, contact_name text, phone_whatsapp text, city text, email text,
  specialization text, current_brands_used text, message text
) returns text
language sql immutable parallel safe cost 2000 set search_path = ''
as $$
  select public.search_key(
    ref || E'\n' || business_name || E'\n' || contact_name || E'\n' || phone_whatsapp || E'\n'
    || city || E'\n' || coalesce(email, '') || E'\n' || coalesce(specialization, '') || E'\n'
    || coalesce(current_brands_used, '') || E'\n' || replace(coalesce(message, ''), E'\n', ' '))
$$;

-- Of a column of any type: `alter column … type` rebuilds the index, and would fail on a function
-- that takes text alone.
create function public.as_search_text(field anynonarray) returns text
language sql immutable parallel safe set search_path = ''
as $$ select field::text $$;

revoke execute on function public.search_key(text), public.as_search_text(anynonarray),
  public.lead_search_key(text, text, text, text, text, text, text, text, text)
  from public, anon, authenticated;
-- Whoever writes a lead computes its key for the index.
grant execute on function public.search_key(text), public.as_search_text(anynonarray),
  public.lead_search_key(text, text, text, text, text, text, text, text, text) to alfa_app;

-- A short list of pending entries: the lead that must merge it waits a few ms and not 100.
create index leads_by_words on public.leads using gin (public.lead_search_key(
  public.as_search_text(ref), public.as_search_text(business_name),
  public.as_search_text(contact_name), public.as_search_text(phone_whatsapp),
  public.as_search_text(city), public.as_search_text(email),
  public.as_search_text(specialization), public.as_search_text(current_brands_used),
  public.as_search_text(message)) extensions.gin_trgm_ops) with (gin_pending_list_limit = 256);

-- A mark of sales, no state of the mails. A lead that is corrected later waits again.
alter table public.leads
  add column answered_at timestamptz,
  add column answered_by text;
comment on column public.leads.answered_at is 'When sales marked it as answered (`ops leads done`)';

create index leads_unanswered on public.leads (created_at, id)
  where not canary and review is null and (answered_at is null or corrected_at > answered_at);
