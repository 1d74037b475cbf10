-- A lead is decided about and stored by one call: accept_lead. Beside it stand the clients' recent
-- leads, by which their rate limits are kept, and the maintenance switch as Postgres sees it.

create table public.lead_clients (
  client bytea primary key,
  moments timestamptz[] not null,
  last_at timestamptz not null
) with (fillfactor = 70);
comment on table public.lead_clients is
  'The leads of each client within the last hour. It may be emptied at any time.';
comment on column public.lead_clients.client is
  'A keyed hash of the IPv4 address or the IPv6 network of 64 bits; the key is no row of this database';
create index lead_clients_by_time on public.lead_clients (last_at);

create table public.maintenance_window (
  one boolean primary key default true check (one),
  mode text not null check (mode in ('intake', 'read_only')),
  until timestamptz not null
);
comment on table public.maintenance_window is
  'The window that `ops maintenance` opened, beside its copy in Redis: until then accept_lead stores no lead of a visitor. No row: none was opened.';

-- How often a text came within a day; only the hash of a message is looked up.
create index leads_by_text on public.leads (md5(message), created_at) where message is not null;
create index spam_by_text on public.spam (md5(submission ->> 'message'), received_at)
  where submission ->> 'message' is not null;

do $$
declare
  ours text;
begin
  foreach ours in array array['lead_clients', 'maintenance_window'] loop
    execute format('alter table public.%I enable row level security', ours);
    execute format('revoke all on public.%I from public, anon, authenticated', ours);
    execute format('grant select, insert, update, delete on public.%I to alfa_app', ours);
    execute format('create policy alfa_app_all on public.%I to alfa_app using (true) with check (true)', ours);
  end loop;
end
$$;

-- The limit that one more lead would exceed, and when it may come; null where it may come now.
create function public.exceeded_rate(
  moments timestamptz[], moment timestamptz, minute_limit integer, hour_limit integer,
  out rate_limit integer, out retry_at timestamptz
)
language plpgsql immutable set search_path = ''
as $$
begin
  select l.most, r.at + l.span into rate_limit, retry_at
  from (
    select at, row_number() over (order by at desc) as newest from unnest(moments) as at
  ) as r
  join (
    values (hour_limit, interval '1 hour'), (minute_limit, interval '1 minute')
  ) as l (most, span) on r.newest = l.most and r.at > moment - l.span
  order by r.at + l.span desc
  limit 1;
end
$$;

-- Count one lead of a client, unless that exceeds a limit. A refused call writes nothing: it reads
-- first, and takes the row only where there was room. The row is held until the commit, so of many
-- at once exactly as many are let in as the limits allow.
create function public.count_client(
  client_hash bytea, moment timestamptz, minute_limit integer, hour_limit integer,
  out rate_limit integer, out retry_at timestamptz
)
language plpgsql set search_path = ''
as $$
begin
  for attempt in 1 .. 2 loop
    select e.rate_limit, e.retry_at into rate_limit, retry_at
    from public.lead_clients as c,
      public.exceeded_rate(c.moments, moment, minute_limit, hour_limit) as e
    where c.client = client_hash;
    exit when rate_limit is not null;
    insert into public.lead_clients as c (client, moments, last_at)
    values (client_hash, array[moment], moment)
    on conflict (client) do update set
      moments = array(
        select at from unnest(c.moments) as at where at > moment - interval '1 hour' order by at
      ) || moment,
      last_at = greatest(c.last_at, excluded.last_at)
    where (public.exceeded_rate(c.moments, moment, minute_limit, hour_limit)).rate_limit is null;
    exit when found;
    -- Others of this client came between: what they left is read now.
  end loop;
end
$$;

-- Whether `ceiling` leads and spam came within a minute: counted in an index, so that no row counts
-- for everybody and one lead waits for no other.
create function public.is_flooded(moment timestamptz, ceiling integer) returns boolean
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select count(*) >= ceiling
    from (
      (
        select from public.leads where created_at > moment - interval '1 minute'
        order by created_at desc limit ceiling
      )
      union all
      (
        select from public.spam where received_at > moment - interval '1 minute'
        order by received_at desc limit ceiling
      )
    ) as recent
  );
end
$$;

-- How often a message came within a day, from anybody, up to `most`.
create function public.count_text(sent text, moment timestamptz, most integer) returns bigint
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select count(*)
    from (
      (
        select from public.leads
        where md5(message) = md5(sent) and message is not null
          and created_at > moment - interval '1 day'
        limit most
      )
      union all
      (
        select from public.spam
        where md5(submission ->> 'message') = md5(sent) and submission ->> 'message' is not null
          and received_at > moment - interval '1 day'
        limit most
      )
    ) as recent
  );
end
$$;

-- Decide about a lead and store it with its mails, or find the lead that it is already.
--
-- new_lead: the columns of its row; `spam`, why it goes to the table of spam instead, and then its
-- `submission`. new_mails: rows of outbox. sales_sent: sales have it already, by that mail.
-- client_hash: whose limits apply; null where none do, and then no table of limits is touched.
-- ceiling: leads a minute of all clients, above which one waits for review. most_repeats: how often
-- a text may have come within a day. heed_maintenance: false for copies and for operators.
--
-- decision:
--   stored, spam      stored; `stored` has the review it waits for, if any
--   stored_before     it is the lead in `stored`, which stays as it is
--   differs           the same words as the lead in `stored`, under another key or with other fields
--   key_reused        its key belongs to another lead
--   rate_limited      rate_limit and retry_at say why and until when
--   repeated_text     nothing is stored: the caller screens it once more
--   closed            maintenance
--   erased            its person was erased after it was sent
--   reference_taken   nothing is stored: the caller chooses a longer reference
-- Only what is stored, and a lead that differs, counts against a client's limits.
--
-- Its search path is that of every session, for a trigger on leads or outbox runs under it.
-- It is volatile plpgsql: a statement in it sees what the one before it waited for, so a lead that
-- comes twice at the same moment waits for the first and then finds it.
create function public.accept_lead(
  new_lead jsonb, new_mails jsonb, moment timestamptz, lease_until timestamptz,
  sales_sent timestamptz, erased_marks text[],
  client_hash bytea default null, minute_limit integer default null,
  hour_limit integer default null, ceiling integer default null,
  most_repeats integer default null, heed_maintenance boolean default false,
  out decision text, out stored jsonb, out rate_limit integer, out retry_at timestamptz
)
language plpgsql volatile set search_path = public, extensions, pg_temp
as $$
declare
  lead public.leads := jsonb_populate_record(null::public.leads, new_lead);
  spam_reason constant text := new_lead ->> 'spam';
  earlier public.leads;
  is_counted boolean := false;
  is_same_key boolean;
  is_same_body boolean;
begin
  if heed_maintenance and exists (
    select from public.maintenance_window as w where w.until > now()
  ) then
    decision := 'closed';
    return;
  end if;
  if most_repeats is not null and lead.message is not null
    and public.count_text(lead.message, moment, most_repeats) >= most_repeats then
    decision := 'repeated_text';
  end if;
  if client_hash is not null and decision is null then
    select c.rate_limit, c.retry_at into rate_limit, retry_at
    from public.count_client(client_hash, moment, minute_limit, hour_limit) as c;
    is_counted := rate_limit is null;
  end if;

  if spam_reason is null and rate_limit is null and decision is null then
    if ceiling is not null and public.is_flooded(moment, ceiling) then
      lead.review := coalesce(lead.review, 'flood');
    end if;
    insert into public.leads (
      id, ref, created_at, business_name, contact_name, phone_whatsapp, city, salon_type, email,
      chair_count, specialization, current_brands_used, monthly_spend_range, message,
      page_url_initial, page_url_current, referrer,
      utm_source, utm_medium, utm_campaign, utm_term, utm_content,
      locale, consent_at, consent_version, consent_locale, consent_sha256, ip_address, user_agent,
      identity, same_until, body_sha256, arrival, canary, content_identity, key_span, review
    )
    select
      lead.id, lead.ref, lead.created_at, lead.business_name, lead.contact_name,
      lead.phone_whatsapp, lead.city, lead.salon_type, lead.email,
      lead.chair_count, lead.specialization, lead.current_brands_used, lead.monthly_spend_range,
      lead.message, lead.page_url_initial, lead.page_url_current, lead.referrer,
      lead.utm_source, lead.utm_medium, lead.utm_campaign, lead.utm_term, lead.utm_content,
      lead.locale, lead.consent_at, lead.consent_version, lead.consent_locale,
      lead.consent_sha256, lead.ip_address, lead.user_agent,
      lead.identity, lead.same_until, lead.body_sha256, lead.arrival, lead.canary,
      lead.content_identity, lead.key_span, lead.review
    where not exists (
      select from public.erasure_tombstones as t
      where t.mark = any(erased_marks) and t.erased_at >= lead.created_at
    )
    on conflict do nothing;
    if found then
      -- lease_until leases the mails to the instance that took the lead, which sends them right
      -- after its answer.
      insert into public.outbox (
        lead_id, kind, sender, recipients, reply_to, subject, body_text, body_html, created_at,
        attempts, first_attempt_at, next_attempt_at, leased_until, uncertain, sent_at
      )
      select lead.id, m.kind, m.sender, m.recipients, m.reply_to, m.subject, m.body_text,
        m.body_html, moment, case when lease_until is null then 0 else 1 end,
        case when lease_until is not null then moment end, moment, lease_until,
        lease_until is not null, case when m.kind = 'sales' then sales_sent end
      from jsonb_to_recordset(new_mails) as m (
        kind text, sender text, recipients text[], reply_to text,
        subject text, body_text text, body_html text
      )
      where lead.review is null;
      decision := 'stored';
      stored := jsonb_build_object('review', lead.review);
      return;
    end if;
    if exists (
      select from public.erasure_tombstones as t
      where t.mark = any(erased_marks) and t.erased_at >= lead.created_at
    ) then
      decision := 'erased';
      return;
    end if;
  end if;

  -- A repeat is answered as before, whatever its client's limits and its text say.
  select * into earlier from public.leads as l
  where l.id = lead.id or (
    tstzrange(l.created_at, l.same_until) && tstzrange(lead.created_at, lead.same_until)
    and (
      l.identity = lead.identity
      or (l.content_identity = lead.content_identity and l.key_span && lead.key_span)
    )
  )
  order by l.identity = lead.identity desc, l.created_at
  limit 1;
  if found then
    is_same_key := lead.identity <> lead.content_identity and earlier.identity = lead.identity;
    is_same_body := earlier.body_sha256 = lead.body_sha256
      and (earlier.identity = lead.identity or earlier.corrections = 0);
    decision := case
      when is_same_key and not is_same_body then 'key_reused'
      -- A key that comes to the words of before is told to the caller, who keeps it.
      when is_same_body and (is_same_key or lead.identity = lead.content_identity)
        then 'stored_before'
      when rate_limit is not null and not is_same_body then 'rate_limited'
      when decision is not null and not is_same_body then decision
      else 'differs'
    end;
    stored := to_jsonb(earlier);
  elsif rate_limit is not null then
    decision := 'rate_limited';
  elsif spam_reason is not null and decision is null then
    insert into public.spam (
      id, ref, received_at, reason, submission, locale, ip_address, user_agent
    )
    select lead.id, lead.ref, lead.created_at, spam_reason, new_lead -> 'submission', lead.locale,
      lead.ip_address, lead.user_agent
    where not exists (
      select from public.erasure_tombstones as t
      where t.mark = any(erased_marks) and t.erased_at >= lead.created_at
    )
    on conflict (id) do nothing;
    decision := 'spam';
    if found then
      return;
    end if;
  elsif decision is null then
    -- A rule that makes nothing of the insert leaves a plan which the session keeps when the rule is
    -- gone: an error ends the session.
    if not exists (select from public.leads as l where l.ref = lead.ref) then
      raise no_data_found using message = 'the lead is neither stored nor found';
    end if;
    decision := 'reference_taken';
  end if;

  -- What is no lead of its own gives back the place that it took: the last, for the row is held.
  if is_counted and (decision <> 'differs' or is_same_body) then
    update public.lead_clients as c
    set moments = c.moments[: cardinality(c.moments) - 1]
    where c.client = client_hash;
  end if;
end
$$;

revoke execute on function
  public.exceeded_rate(timestamptz[], timestamptz, integer, integer),
  public.count_client(bytea, timestamptz, integer, integer),
  public.is_flooded(timestamptz, integer),
  public.count_text(text, timestamptz, integer),
  public.accept_lead(
    jsonb, jsonb, timestamptz, timestamptz, timestamptz, text[], bytea, integer, integer, integer,
    integer, boolean
  )
  from public, anon, authenticated;
grant execute on function
  public.exceeded_rate(timestamptz[], timestamptz, integer, integer),
  public.count_client(bytea, timestamptz, integer, integer),
  public.is_flooded(timestamptz, integer),
  public.count_text(text, timestamptz, integer),
  public.accept_lead(
    jsonb, jsonb, timestamptz, timestamptz, timestamptz, text[], bytea, integer, integer, integer,
    integer, boolean
  )
  to alfa_app;
