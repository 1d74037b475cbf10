-- Search finds a word however it is joined, split or inflected.
--
-- Joined: neighbouring words of a name, brand, label or summary are searched as one word as well,
-- stored with a plus (`+oxido` for "Oxi d O"), and neighbouring words of a query likewise.
-- Inflected: words that share an Indonesian root are one family (merawat, dirawat, perawatan).
-- The roots are a list: a stemmer without one either joins words that differ or parts relatives.
-- Measured by `python3 -m dev bench search`.

-- The roots of a word: the longest one in the list that remains without its affixes; of a word that
-- is not in it, everything that may remain, from five letters on. Changing this function needs
-- `update search_words set word = word` and the same for synonyms: they store its results.
create function public.search_roots(word text) returns text[]
language plpgsql immutable strict parallel safe set search_path = ''
as $$
declare
  known constant text[] := '{
    acak, ahli, akar, alami, alat, alis, ampul, angkat, aroma, asah, atur, awet, bahan, baik,
    bakar, balsem, barber, basah, batang, bawah, bayang, bebas, bedak, belah, bening, bentuk,
    berantak, berat, beri, berminyak, bersih, besar, bilas, bleaching, blow, bodi, bola, botak,
    brewok, bubuk, buka, buruk, busa, cabang, cabut, cahaya, cair, cambang, campur, cantik, cat,
    catok, cegah, cek, cepat, cerah, cuci, cukur, daya, dermis, dingin, disisir, ekstrak, elastis,
    emas, encer, fungsi, gatal, gaya, gel, gelap, gelombang, gimbal, goda, gosok, gulung, gunting,
    habis, halus, hangat, hangus, harum, hasil, hias, hidrasi, highlight, higienis, hilang, hitam,
    ikal, ikat, iritasi, isi, jaga, jambang, jambul, janggut, jatuh, jenggot, jepit, jernih, kaku,
    kasar, kelapa, kembang, kencang, kepala, keramas, keratin, kering, keringkan, keriting,
    ketombe, kilap, kilau, kimia, klimis, koil, kolagen, kondisi, krim, kuas, kuat, kuku, kulit,
    kumis, kunci, kuning, kusam, kusut, kutikula, lapis, larut, lebat, lekat, lembap, lembek,
    lembut, lengkap, lentur, lepek, licin, lilin, lindung, listrik, logam, losion, luka, lurus,
    mandi, manfaat, masker, matang, mekar, mengatasi, mengembang, menipiskan, merah, merata,
    mesin, minyak, muda, mudah, mulus, murni, musim, natural, netral, nutrisi, oksidan, olah,
    oles, padat, pakai, panas, pangkas, panjang, parfum, patah, pecah, pelihara, pengembang,
    pengering, penipis, peras, perawat, perm, permanen, peroksida, pijat, pirang, pisau, pomade,
    potong, produk, profesional, proses, pucat, pudar, pulih, pusat, putih, putus, racik, rambut,
    ramping, ramu, rapat, rapi, rapuh, rasa, rata, rawat, redam, regenerasi, rekonstruksi, rendam,
    retak, ringan, rontok, rusak, sabun, salon, sanggul, sasak, sebum, segar, sehat, sejuk, semir,
    semprot, sensitif, serap, serat, serum, setrika, sikat, silau, sisir, smoothing, stabil,
    statis, stimulasi, subur, sulam, suntik, susut, tahan, tajam, tambah, tampil, tarik, tata,
    tebal, tegas, tekan, tekstur, tempel, tenaga, tenang, terang, terapi, terbaik, timbul, tipis,
    toning, tumbuh, tumbuhan, tutup, uap, uban, ukur, ulang, urai, urut, vitamin, volume, wajah,
    wangi, warna, warni, wax}';
  -- Prefix and the letter it replaces: meny-isir is sisir. The last row is spoken Indonesian.
  prefixes constant text[] := '{
    meng-,meng-k,menge-,meny-s,mem-,mem-p,men-,men-t,me-,peng-,peng-k,penge-,peny-s,pem-,pem-p,
    pen-,pen-t,pe-,ber-,be-,ter-,per-,di-,ke-,se-,anti-,
    nge-,ng-,ng-k,ny-s,ny-c}';
  formal constant integer := 26;
  endings constant text[] := '{"",kan,an,i,in}';
  whole text;
  ending text;
  bare text;
  prefix text;
  stem text;
  inner_prefix text;
  bare_stem text;
  remaining text[] := '{}';
  root text := '';
begin
  if word !~ '^[a-z]{3,40}$' then
    return '{}';
  end if;
  word := replace(word, 'lembab', 'lembap');
  foreach whole in array array[word, regexp_replace(word, '(nya|lah|kah|pun)$', '')] loop
    foreach ending in array endings loop
      continue when right(whole, length(ending)) <> ending and ending <> '';
      bare := left(whole, length(whole) - length(ending));
      if bare = any(known) and length(bare) > length(root) then
        root := bare;
      end if;
      remaining := case when ending <> 'in' then remaining || bare else remaining end;
      for number in 1 .. cardinality(prefixes) loop
        prefix := split_part(prefixes[number], '-', 1);
        continue when left(bare, length(prefix)) <> prefix;
        stem := split_part(prefixes[number], '-', 2) || substr(bare, length(prefix) + 1);
        if stem = any(known) and length(stem) > length(root) then
          root := stem;
        end if;
        if number <= formal and ending <> 'in' then
          remaining := remaining || stem;
        end if;
        foreach inner_prefix in array array['per', 'ber', 'ter', 'ke'] loop
          continue when left(stem, length(inner_prefix)) <> inner_prefix;
          bare_stem := substr(stem, length(inner_prefix) + 1);
          if bare_stem = any(known) and length(bare_stem) > length(root) then
            root := bare_stem;
          end if;
        end loop;
      end loop;
    end loop;
  end loop;
  if root <> '' then
    return array[case root when 'perawat' then 'rawat' when 'keringkan' then 'pengering'
                           else root end];
  end if;
  return array(select distinct w from unnest(remaining) as w where length(w) >= 5 order by w);
end
$$;

alter table public.search_words
  add column roots text[] not null generated always as (public.search_roots(word)) stored;
create index search_words_roots on public.search_words using gin (roots);
comment on column public.search_words.roots is 'Derived: the roots that the word shares with others';

alter table public.synonyms
  add column roots text[] not null generated always as (public.search_roots(term)) stored;
comment on column public.synonyms.roots is 'Derived: the roots of a term of one word';

-- Each two neighbouring words of a folded text as one, and each three where `three`.
create function public.joined_words(given text, weight "char", three boolean) returns tsvector
language sql immutable strict parallel safe set search_path = ''
as $$
  select coalesce(
    string_agg(distinct format('''+%s'':1%s', pair || rest, weight), ' '), '')::tsvector
  from (
    select w || lead(w) over words as pair, lead(w, 2) over words as third
    from unnest(string_to_array(given, ' ')) with ordinality as t (w, at)
    window words as (order by at)
  ) as neighbours, unnest(case when three then array['', third] else array[''] end) as rest
  where length(pair || rest) between 4 and 60
$$;

create or replace function public.derive_product() returns trigger
language plpgsql set search_path = ''
as $$
declare
  labels text;
begin
  select public.fold(string_agg(label, ' ')) into labels
  from (
    select code || ' ' || label_id || ' ' || label_en as label
    from public.categories where code = any(new.categories)
    union all
    select code || ' ' || label_id || ' ' || label_en
    from public.functions where code = any(new.functions)
  ) as named;
  new.name_key := public.fold(new.name);
  new.brand_key := lower(new.brand);
  new.newness := -(extract(epoch from new.created_at) * 1000000)::bigint;
  new.search :=
    setweight(to_tsvector('pg_catalog.simple', new.name_key), 'A')
    || setweight(to_tsvector('pg_catalog.simple',
         concat_ws(' ', public.fold(new.brand), labels)), 'B')
    || setweight(to_tsvector('pg_catalog.simple',
         public.fold(concat_ws(' ', new.summary_id, new.summary_en))), 'C')
    || setweight(to_tsvector('pg_catalog.simple',
         public.fold(concat_ws(' ', array_to_string(new.benefits_id, ' '),
                                    array_to_string(new.benefits_en, ' ')))), 'D')
    || public.joined_words(new.name_key, 'A', true)
    || public.joined_words(public.fold(new.brand), 'B', true)
    || coalesce(public.joined_words(labels, 'B', false), '')
    || coalesce(public.joined_words(public.fold(new.summary_id), 'C', false), '')
    || coalesce(public.joined_words(public.fold(new.summary_en), 'C', false), '');
  return new;
end
$$;

-- Every word must be met: by words that begin with it, those of its family, or neighbours that are
-- joined or split otherwise; where there is none, by words that are a slip away (one from 4
-- letters, two from 6); and by what a synonym of it means.
create or replace function public.product_query(given text) returns tsquery
language plpgsql stable parallel safe set search_path = ''
as $$
declare
  little constant text[] := array['dan', 'untuk', 'yang', 'dengan', 'di', 'and', 'for', 'the',
                                  'of', 'with', 'a'];
  vague constant text[] := array['rambut', 'hair', 'obat', 'produk'];
  typed text[] := string_to_array(public.fold(given), ' ');
  words text[] := array(select w from unnest(typed) with ordinality as t (w, at)
                        where w <> all(little) order by at);
  whole text;
  token text;
  at integer;
  pair text;
  slips integer;
  token_roots text[];
  part tsquery;
  meant tsquery;
  met boolean;
  found tsquery;
begin
  if cardinality(words) = 0 then
    words := typed;
  end if;
  words := words[1:8];
  whole := ' ' || array_to_string(words, ' ') || ' ';
  for at in 1 .. coalesce(cardinality(words), 0) loop
    token := words[at];
    -- Nearly every product is for hair: beside another word it decides nothing.
    continue when token = any(vague) and not words <@ vague;
    slips := case when length(token) < 4 then 0 when length(token) < 6 then 1 else 2 end;
    token_roots := public.search_roots(token);
    part := (token || ':*')::tsquery;
    met := exists (select from public.search_words where word >= token and word < token || '~');

    select string_agg(quote_literal(word), ' | ')::tsquery into meant
    from (select word from public.search_words where roots && token_roots
          order by word limit 50) as family;
    met := met or meant is not null;
    part := coalesce(part || meant, part);

    -- From five letters on: a shorter word is the beginning of too many joined ones.
    if length(token) >= 5 and exists (
      select from public.search_words where word >= '+' || token and word < '+' || token || '~'
    ) then
      met := true;
      part := part || ('''+' || token || ''':*')::tsquery;
    end if;

    if slips > 0 and not met then
      select string_agg(quote_literal(near.word), ' | ')::tsquery into meant
      from (
        select word from public.search_words
        where (word operator(extensions.%) token
               or (word >= left(token, 1) and word < left(token, 1) || '~'))
          and length(word) <= 100
          and (extensions.levenshtein_less_equal(ltrim(word, '+'), token, slips) <= slips
               or word not like '+%' and
                 extensions.levenshtein_less_equal(left(word, length(token)), token, 1) <= 1)
        order by word like '+%', word limit 50
      ) as near;
      part := coalesce(part || meant, part);
    end if;

    -- Split in the query, one word in the catalogue. Both tokens get it, so both are met.
    foreach pair in array array[words[at - 1] || token, token || words[at + 1]] loop
      if length(pair) >= 4 and (
        exists (select from public.search_words where word in (pair, '+' || pair))
        or length(pair) >= 5 and exists (
          select from public.search_words where word >= pair and word < pair || '~')
      ) then
        part := part || (pair || case when length(pair) >= 5 then ':*' else '' end)::tsquery
          || ('''+' || pair || '''')::tsquery;
      end if;
    end loop;

    for meant in
      select plainto_tsquery('pg_catalog.simple', same_as) from public.synonyms
      where (position(' ' || term || ' ' in whole) > 0 and token = any(string_to_array(term, ' ')))
         or roots && token_roots
         or (position(' ' in term) = 0 and length(token) >= 3
             and (term like token || '%'
                  or (slips > 0 and length(term) > 3 and length(term) <= 100
                      and extensions.levenshtein_less_equal(term, token, 1) <= 1)))
    loop
      part := part || meant;
    end loop;
    found := coalesce(found && part, part);
  end loop;
  return coalesce(found, ''::tsquery);
end
$$;

revoke execute on function public.search_roots(text),
  public.joined_words(text, "char", boolean) from public, anon, authenticated;
grant execute on function public.search_roots(text), public.joined_words(text, "char", boolean)
  to alfa_app;

-- Derive the products that are there again.
update public.products set name = name;
