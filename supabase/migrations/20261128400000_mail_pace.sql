-- The pace at which mails are handed to Resend, shared by every instance: one row.

create table public.mail_pace (
  one boolean primary key default true check (one),
  next_at timestamptz not null,
  held_until timestamptz,
  held_for text
);
comment on table public.mail_pace is
  'When the next mail may be sent, by anybody, and until when none may: Resend asked for a pause, or takes none (key, quota). It may be emptied at any time.';

alter table public.mail_pace enable row level security;
revoke all on public.mail_pace from public, anon, authenticated;
grant select, insert, update, delete on public.mail_pace to alfa_app;
create policy alfa_app_all on public.mail_pace to alfa_app using (true) with check (true);

-- A lead that nobody at sales has heard of does not end by age: its mail was tried and not sent, or
-- given up, or it waits for a person's look (a column that not every schema has).
create function public.sales_never_heard(lead public.leads) returns boolean
language sql stable set search_path = ''
return not lead.canary and (
  exists (
    select from public.outbox where lead_id = lead.id and kind = 'sales' and sent_at is null
      and (dead_at is not null or attempts > 0 or last_error is not null)
  )
  or coalesce(to_jsonb(lead) ->> 'review', 'dismissed') <> 'dismissed'
);

revoke execute on function public.sales_never_heard(public.leads) from public, anon, authenticated;
grant execute on function public.sales_never_heard(public.leads) to alfa_app;
