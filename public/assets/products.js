// The product page: what is typed and chosen is the address, and the address is what is shown.
//
// Searching is the server's work (/api/products). When it cannot be reached, the last whole list
// that this device saw is searched instead, more simply, and the page says so.

const lang = document.documentElement.lang === "en" ? "en" : "id";
const TEXT = {
  id: {
    count: (n) => (n === 1 ? "1 produk" : `${n} produk`),
    searching: "Mencari…",
    none: "Tidak ada produk yang cocok.",
    offline: (when) => `Anda sedang luring. Ini daftar terakhir yang tersimpan di perangkat ini, ${when}.`,
    failed: "Daftar produk tidak dapat dimuat. Periksa koneksi Anda.",
    gone: "Produk ini tidak ada, atau tidak lagi kami jual.",
    audience: "Untuk",
    remove: (label) => `Hapus ${label}`,
    forms: "/",
    enquiry: "produk",
    page: "/produk",
    other: "/en/products",
  },
  en: {
    count: (n) => (n === 1 ? "1 product" : `${n} products`),
    searching: "Searching…",
    none: "No product matches.",
    offline: (when) => `You are offline. This is the last list kept on this device, of ${when}.`,
    failed: "The products could not be loaded. Please check your connection.",
    gone: "This product does not exist, or we no longer sell it.",
    audience: "For",
    remove: (label) => `Remove ${label}`,
    forms: "/en",
    enquiry: "product",
    page: "/en/products",
    other: "/produk",
  },
}[lang];
const AUDIENCES = { SALON: "Salon", BARBER: "Barbershop" };
const FACETS = ["category", "brand", "function", "audience"];
const PLACES = { category: "categories", function: "functions", audience: "audience" };
const COPY = `products-${lang}`;
const COPY_MS = 12 * 3600e3; // how old the kept list may grow before it is fetched again
const PAGE = 24;
const TYPING_MS = 160;

const find = (name) => document.querySelector(`[data-${name}]`);
const [list, card, detail, form, status, notice, more, chips, empty, retry, title] = [
  "list", "card", "detail", "search", "status", "notice", "more", "chips", "empty", "retry", "title",
].map(find);
const listing = find("listing");
find("plain").remove(); // the list for whoever has no JavaScript
const language = document.querySelector(".language");
const pageTitle = document.title;

let shown = ""; // the search that the list shows
let cursor = null;
let asking = null; // AbortController of the search under way
let labels = {}; // by facet and value, as last told
let opener = null; // the card that a detail was opened from

// What is asked: the address

const asked = () => new URLSearchParams(location.search);

/** The search in an address, in one order; nothing else of it. */
function searchOf(params) {
  const kept = new URLSearchParams();
  const q = params.get("q")?.trim();
  if (q) kept.set("q", q);
  for (const facet of FACETS) for (const value of params.getAll(facet)) if (value) kept.append(facet, value);
  if (["-name", "newest"].includes(params.get("sort"))) kept.set("sort", params.get("sort"));
  return kept;
}

function searchOfForm() {
  const params = new URLSearchParams();
  for (const [name, value] of new FormData(form)) params.append(name, value);
  return searchOf(params);
}

const addressOf = (params) => `${TEXT.page}${String(params) && `?${params}`}`;

// Getting it

async function get(query, signal) {
  const answer = await fetch(`/api/products?${query}`, { signal, headers: { Accept: "application/json" } });
  if (answer.status === 404) return null;
  if (!answer.ok) throw new Error(answer.status);
  return answer.json();
}

async function look(search, from) {
  const query = new URLSearchParams(search);
  query.set("locale", lang);
  query.set("limit", PAGE);
  query.set("total", 1);
  if (from) query.set("cursor", from);
  else query.set("facets", 1);
  asking?.abort();
  asking = new AbortController();
  return get(query, asking.signal);
}

function kept() {
  try {
    return JSON.parse(localStorage.getItem(COPY));
  } catch {
    return null; // forbidden, or not ours
  }
}

/** Nothing is sold any more: what this device kept must not be shown without a line. */
function forget() {
  try {
    localStorage.removeItem(COPY);
  } catch {} // forbidden: then nothing is kept
}

/** Keep the whole list for a time without a line, once nothing else is to be done. */
async function keep() {
  if (Date.now() - (kept()?.at ?? 0) < COPY_MS) return;
  try {
    const products = await get(new URLSearchParams({ locale: lang }));
    localStorage.setItem(COPY, JSON.stringify({ at: Date.now(), products, labels }));
  } catch {} // it would only have been for later
}

const fold = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();

/** Whether a value of an address means a known one; a plus typed there by hand arrives as a space. */
function means(given, known) {
  const [one, other] = [given.toLowerCase(), known.toLowerCase()];
  return one === other || (one.includes(" ") && one.replaceAll("+", " ") === other.replaceAll("+", " "));
}

const valuesOf = (product, facet) => (facet === "brand" ? [product.brand] : product[PLACES[facet]]);

function passes(product, search, but) {
  return FACETS.every((facet) => {
    const wanted = search.getAll(facet);
    return facet === but || !wanted.length || valuesOf(product, facet).some((value) => wanted.some((given) => means(given, value)));
  });
}

/** The kept list searched here: filters as ever, words as they are spelled. */
function lookInCopy(search, copy) {
  const words = fold(search.get("q") ?? "").split(/\s+/).filter(Boolean);
  const named = copy.labels ?? {};
  const matching = copy.products.filter((product) => {
    const codes = [...product.categories, ...product.functions];
    const terms = codes.map((code) => named.category?.[code] ?? named.function?.[code] ?? code);
    const text = fold([product.name, product.brand, product.summary, ...product.benefits, ...codes, ...terms].join(" "));
    return words.every((word) => text.includes(word));
  });
  const items = matching.filter((product) => passes(product, search));
  if (search.get("sort") === "-name") items.reverse();
  const facets = {};
  for (const facet of FACETS) {
    const known = [...new Set(copy.products.flatMap((product) => valuesOf(product, facet)))];
    facets[facet] = known.map((value) => ({
      value,
      label: named[facet]?.[value] ?? AUDIENCES[value] ?? value,
      count: matching.filter((product) => passes(product, search, facet) && valuesOf(product, facet).includes(value)).length,
    }));
  }
  return { items, next_cursor: null, total: items.length, facets };
}

// Showing the list

function say(text) {
  if (status.textContent !== text) status.textContent = text; // or it is read out once more
}

function tellOffline(copy) {
  const when = copy && new Date(copy.at).toLocaleString(lang === "en" ? "en-GB" : "id-ID", { dateStyle: "long", timeStyle: "short" });
  notice.hidden = !copy;
  notice.textContent = copy ? TEXT.offline(when) : "";
}

function linkTo(product) {
  const params = searchOf(asked());
  params.set("slug", product.slug);
  return addressOf(params);
}

const enquiryAbout = (product) => `${TEXT.forms}?${new URLSearchParams({ [TEXT.enquiry]: product.name })}#lead-form`;

function picture(image, product) {
  image.src = product.image?.url ?? "/assets/strands.svg";
  image.alt = product.image?.alt ?? "";
}

function cardOf(product) {
  const made = card.content.cloneNode(true);
  const link = made.querySelector("a");
  link.href = linkTo(product);
  link.dataset.slug = product.slug;
  link.textContent = product.name;
  picture(made.querySelector("img"), product);
  made.querySelector("[data-brand]").textContent = product.brand;
  made.querySelector("[data-summary]").textContent = product.summary;
  return made;
}

/** Checkboxes of a facet; those that would find nothing are quiet, the chosen ones stay. */
function showFacets(facets, search) {
  for (const facet of FACETS) {
    labels[facet] = Object.fromEntries(facets[facet].map(({ value, label }) => [value, label]));
    const box = form.querySelector(`[data-facet=${facet}]`);
    const given = search.getAll(facet);
    const chosen = (value) => given.some((each) => means(each, value));
    const focused = box.contains(document.activeElement) && document.activeElement.value;
    box.replaceChildren(
      ...facets[facet]
        .filter(({ value, count }) => count || chosen(value))
        .map(({ value, label, count }) => option(facet, value, label, count, chosen(value))),
    );
    if (focused) [...box.querySelectorAll("input")].find((input) => input.value === focused)?.focus();
    box.closest("fieldset").hidden = !box.children.length;
  }
}

function option(facet, value, label, count, checked) {
  const made = document.createElement("label");
  const input = Object.assign(document.createElement("input"), { type: "checkbox", name: facet, value, checked });
  const words = Object.assign(document.createElement("span"), { textContent: label });
  const number = Object.assign(document.createElement("span"), { className: "count", textContent: count });
  made.append(input, words, number);
  return made;
}

function showChips(search) {
  const chosen = FACETS.flatMap((facet) => search.getAll(facet).map((value) => [facet, value]));
  chips.replaceChildren(
    ...chosen.map(([facet, value]) => {
      const known = Object.keys(labels[facet] ?? {}).find((each) => means(value, each));
      const label = labels[facet]?.[known] ?? value;
      const button = Object.assign(document.createElement("button"), { type: "button", className: "chip", textContent: label });
      button.setAttribute("aria-label", TEXT.remove(label));
      button.addEventListener("click", () => {
        const rest = searchOf(asked());
        rest.delete(facet, value);
        go(rest);
        form.elements.q.focus();
      });
      return button;
    }),
  );
  find("clear").hidden = !chosen.length;
  find("chosen").textContent = chosen.length ? `(${chosen.length})` : "";
}

function showFound(found, search, { added = false } = {}) {
  if (!added) list.replaceChildren();
  list.append(...found.items.map(cardOf));
  cursor = found.next_cursor;
  more.hidden = !cursor;
  if (found.facets) showFacets(found.facets, search);
  showChips(search);
  empty.hidden = found.total > 0;
  say(found.total ? TEXT.count(found.total) : TEXT.none);
}

async function showList() {
  const search = searchOf(asked());
  detail.hidden = true;
  listing.hidden = false;
  document.title = pageTitle;
  keepLanguage();
  if (shown === String(search) && list.children.length) return;
  shown = String(search);
  fillForm(search);
  retry.hidden = true;
  const slow = setTimeout(() => say(TEXT.searching), 400);
  try {
    const found = await look(search);
    tellOffline(null);
    showFound(found, search);
    if (!found.total && !String(search)) forget();
    else (window.requestIdleCallback ?? setTimeout)(keep);
  } catch (fault) {
    if (fault.name === "AbortError") return;
    showWithoutLine(search);
  } finally {
    clearTimeout(slow);
  }
}

function showWithoutLine(search) {
  shown = ""; // the next look asks again
  const copy = kept();
  retry.hidden = false;
  if (!copy) return say(TEXT.failed);
  tellOffline(copy);
  showFound(lookInCopy(search, copy), search);
}

async function showMore() {
  more.setAttribute("aria-disabled", "true");
  const first = list.children.length;
  try {
    showFound(await look(shown, cursor), searchOf(asked()), { added: true });
    list.children[first]?.querySelector("a").focus();
  } catch (fault) {
    if (fault.name !== "AbortError") say(TEXT.failed);
  } finally {
    more.removeAttribute("aria-disabled");
  }
}

// Showing one product

async function showDetail(slug) {
  let product;
  try {
    product = await get(new URLSearchParams({ slug, locale: lang }));
    tellOffline(null);
  } catch {
    const copy = kept();
    product = copy?.products.find((each) => each.slug === slug);
    if (!product) {
      listing.hidden = false;
      retry.hidden = false;
      return say(TEXT.failed);
    }
    tellOffline(copy);
    labels = copy.labels ?? labels;
  }
  if (asked().get("slug") !== slug) return; // gone elsewhere meanwhile
  fillDetail(product);
  listing.hidden = true;
  detail.hidden = false;
  keepLanguage();
  scrollTo(0, 0);
  title.focus();
}

function fillDetail(product) {
  const back = searchOf(asked());
  detail.querySelector("[data-back]").href = addressOf(back);
  const part = (name) => detail.querySelector(`[data-${name}]`);
  title.textContent = product?.name ?? TEXT.gone;
  document.title = `${product?.name ?? TEXT.gone} · Alfa Beauty`;
  detail.classList.toggle("gone", !product);
  part("enquire").hidden = !product;
  for (const name of ["picture", "benefits", "use"]) part(name).hidden = !product;
  part("detail-brand").textContent = product?.brand ?? "";
  part("detail-summary").textContent = product?.summary ?? "";
  part("detail-audience").textContent = product ? `${TEXT.audience} ${product.audience.map((each) => AUDIENCES[each]).join(" · ")}` : "";
  if (!product) return;
  picture(part("picture").querySelector("img"), product);
  part("benefits").querySelector("ul").replaceChildren(
    ...product.benefits.map((text) => Object.assign(document.createElement("li"), { textContent: text })),
  );
  part("benefits").hidden = !product.benefits.length;
  part("use").querySelector("p").textContent = product.howToUse;
  part("use").hidden = !product.howToUse;
  part("enquire").href = enquiryAbout(product);
}

// The address and what is shown keep in step

function show() {
  const slug = asked().get("slug");
  if (slug) showDetail(slug);
  else showList();
}

/** Change the search: the address at once, in place of the one before. */
function go(search) {
  history.replaceState(history.state, "", addressOf(search));
  showList();
}

function fillForm(search) {
  const q = search.get("q") ?? "";
  if (form.elements.q.value.trim() !== q) form.elements.q.value = q;
  form.elements.sort.value = search.get("sort") ?? "";
}

/** The other language shows the same. */
function keepLanguage() {
  language.href = `${TEXT.other}${location.search}`;
}

let typing;
form.addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(typing);
  go(searchOfForm());
});
form.addEventListener("input", ({ target }) => {
  clearTimeout(typing);
  if (target.name === "q") typing = setTimeout(() => go(searchOfForm()), TYPING_MS);
  else go(searchOfForm());
});
for (const button of document.querySelectorAll("[data-clear], [data-reset]")) {
  button.addEventListener("click", () => {
    const search = searchOf(asked());
    for (const facet of FACETS) search.delete(facet);
    if ("reset" in button.dataset) search.delete("q");
    go(search);
    form.elements.q.focus();
  });
}
more.addEventListener("click", () => more.ariaDisabled === "true" || showMore());
retry.addEventListener("click", show);
addEventListener("online", () => notice.hidden || show());

/** Open a product, or go back to the list, without loading the page anew. */
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-slug], a[data-back]");
  if (!link || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey || event.button) return;
  event.preventDefault();
  if ("back" in link.dataset && history.state?.opened) return history.back();
  history.replaceState({ ...history.state, y: scrollY }, "");
  opener = link;
  history.pushState({ opened: "slug" in link.dataset }, "", link.href);
  show();
});
addEventListener("popstate", async ({ state }) => {
  clearTimeout(typing);
  await show();
  if (asked().get("slug")) return;
  scrollTo(0, state?.y ?? 0);
  if (opener?.isConnected) opener.focus({ preventScroll: true });
});
history.scrollRestoration = "manual";

show();
// Lets this page open without a line, the second time.
navigator.serviceWorker?.register("/products-worker.js", { scope: TEXT.page }).catch(() => {});
