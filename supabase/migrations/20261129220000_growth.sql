-- What the monitor asks each minute read these tables whole: with a million leads, more each day.
create index leads_canary on public.leads (created_at) where canary;
create index outbox_unsent on public.outbox (created_at) where sent_at is null;
