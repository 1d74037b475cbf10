// Makes the partnership form kinder on a weak line. The form works without this file, by a plain
// post to /api/leads; nothing here may become the only way to do a thing. What a visitor typed
// lives in the page alone, never in storage.

const DEADLINE_MS = 12000;
// The wait before each further try, by outcome. Outcomes not listed here are final.
const WAITS_MS = { busy: [1000, 2000, 4000], unreachable: [1000, 2000] };

const lang = document.documentElement.lang === "en" ? "en" : "id";
const TEXT = {
  id: {
    required: "Mohon diisi.",
    radio: "Pilih salah satu.",
    checkbox: "Centang kotak ini agar kami boleh menghubungi Anda.",
    phone: "Periksa nomor ini. Contoh: 0812 3456 7890.",
    sending: "Mengirim…",
    trying: "Sinyal lemah, kami coba lagi…",
    sent: "Terkirim. Kode referensi Anda:",
    again: "Coba lagi",
    failed: "Belum terkirim. Isian Anda tetap ada di sini. Periksa sambungan internet, atau coba lagi sebentar lagi.",
    limited: (m) => `Belum terkirim: terlalu banyak kiriman. Coba lagi dalam ${m} menit; isian Anda tetap ada di sini.`,
    hello: "Halo Alfa Beauty, saya ingin bermitra.",
    thanks: "/terima-kasih",
  },
  en: {
    required: "Please fill this in.",
    radio: "Please choose one.",
    checkbox: "Tick this box so that we may contact you.",
    phone: "Please check this number. For example 0812 3456 7890.",
    sending: "Sending…",
    trying: "Weak signal, trying again…",
    sent: "Sent. Your reference code:",
    again: "Try again",
    failed: "Not sent yet. What you typed is still here. Check your connection, or try again in a moment.",
    limited: (m) => `Not sent yet: too many requests. Try again in ${m} min; what you typed is still here.`,
    hello: "Hello Alfa Beauty, I would like to become a partner.",
    thanks: "/en/thank-you",
  },
}[lang];

const form = document.getElementById("lead-form");
const find = (selector) => form.querySelector(selector);
const button = find("[data-submit]");
const status = find("[data-status]");
const failure = find("[data-failure]");
const whatsapp = find("[data-whatsapp-fallback]");
const summary = find("[data-errors-summary]");
const list = find("[data-errors-list]");
let sending = false;
let attempt = {};

/** Of an address's query only campaign marks stay; the rest is nobody's business. */
function clean(address) {
  if (!address) return "";
  const url = new URL(address);
  for (const name of [...url.searchParams.keys()]) {
    if (!/^(utm_\w+|gclid|fbclid)$/.test(name)) url.searchParams.delete(name);
  }
  url.hash = "";
  return url.href.slice(0, 2048);
}

/** How the visit began, remembered for this tab, goes along in the hidden fields. */
function fillOrigin() {
  let origin = { page_url_initial: clean(location.href), referrer: clean(document.referrer) };
  try {
    origin = JSON.parse(sessionStorage.getItem("origin")) ?? origin;
  } catch {} // storage may be forbidden; each page then begins a visit
  for (const [name, value] of new URLSearchParams(location.search)) {
    if (/^utm_(source|medium|campaign|term|content)$/.test(name)) origin[name] = value.slice(0, 200);
  }
  try {
    sessionStorage.setItem("origin", JSON.stringify(origin));
  } catch {}
  origin.page_url_current = clean(location.href);
  for (const name in origin) form.elements[name].value = origin[name];
}

function read() {
  const payload = {};
  for (const [name, value] of new FormData(form)) if (value.trim()) payload[name] = value.trim();
  payload.consent = form.elements.consent.checked;
  return payload;
}

/** Only what saves a wasted trip; the server has the last word on every field. */
function check(payload) {
  const faults = {};
  for (const { name, type } of form.querySelectorAll("[required]")) {
    if (!payload[name]) faults[name] = [TEXT[type] ?? TEXT.required];
  }
  const phone = payload.phone_whatsapp?.replace(/[\s().+-]/g, "").replace(/^0/, "62");
  if (phone !== undefined && !/^\d{10,15}$/.test(phone)) faults.phone_whatsapp = [TEXT.phone];
  return faults;
}

/**
 * One try. Never rejects; the outcome is a value: {kind: "sent", ref}, {kind: "faulty", faults},
 * {kind: "limited", minutes}, or a bare {kind: "busy" | "unreachable" | "refused"}.
 */
async function send(payload, key) {
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), DEADLINE_MS);
  try {
    const response = await fetch("/api/leads", {
      method: "POST",
      headers: {
        "Content-Type": "application/json",
        Accept: "application/json",
        "Accept-Language": lang,
        "Idempotency-Key": key,
      },
      body: JSON.stringify(payload),
      signal: abort.signal,
    });
    if (response.status === 429) {
      return { kind: "limited", minutes: Math.ceil((response.headers.get("Retry-After") || 60) / 60) };
    }
    const answer = await response.json();
    if (answer.success) return { kind: "sent", ref: answer.ref };
    if (answer.details) return { kind: "faulty", faults: answer.details };
    if (answer.error === "idempotency_in_progress") return { kind: "busy" };
    return { kind: response.status < 500 ? "refused" : "unreachable" };
  } catch {
    return { kind: "unreachable" }; // no line, the deadline, or a Wi-Fi login page in our place
  } finally {
    clearTimeout(timer);
  }
}

async function sendPatiently(payload, key) {
  for (let tries = 0; ; tries += 1) {
    const outcome = await send(payload, key);
    const wait = WAITS_MS[outcome.kind]?.[tries];
    if (!wait) return outcome;
    status.textContent = TEXT.trying;
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

/** The same text keeps its key, so that a try whose answer got lost is never stored twice. */
function keyFor(payload) {
  const text = JSON.stringify(payload);
  if (attempt.text !== text) {
    const bytes = crypto.getRandomValues(new Uint8Array(16)); // older phones lack randomUUID()
    attempt = { text, key: [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("") };
  }
  return attempt.key;
}

/** The message beside a field; none when `text` is empty. */
function mark(name, text) {
  document.getElementById(`${name}-error`).textContent = text;
  for (const control of form.querySelectorAll(`[name=${name}]`)) {
    if (text) control.setAttribute("aria-invalid", "true");
    else control.removeAttribute("aria-invalid");
  }
}

/** Each message beside its field, all of them in the summary, the focus on the first. */
function showFaults(faults) {
  const rest = { ...faults };
  let first;
  list.textContent = "";
  for (const { dataset: { errorFor: name } } of form.querySelectorAll(".field [data-error-for]")) {
    const control = find(`[name=${name}]`);
    const text = (rest[name] ?? []).join(" ");
    delete rest[name];
    mark(name, text);
    if (!text) continue;
    const label = control.closest("fieldset")?.querySelector("legend") ?? control.labels[0];
    const link = document.createElement("a");
    link.href = `#${control.id}`;
    link.textContent = `${label.textContent}: ${text}`;
    list.appendChild(document.createElement("li")).append(link);
    control.closest("details")?.setAttribute("open", "");
    first ??= control;
  }
  // What is left has no field to stand beside: the whole body's faults and hidden fields'.
  find("[data-error-for=_]").textContent = Object.values(rest).flat().join(" ");
  summary.hidden = !Object.keys(faults).length;
  if (!summary.hidden) (first ?? summary).focus();
}

/** The summary keeps its height while a visitor mends a field below it: the page must not jump. */
function forgive({ target }) {
  if (!target.closest(".field")) return;
  mark(target.name, "");
  list.querySelector(`[href^="#${target.name}"]`)?.toggleAttribute("data-done", true);
}

function showFailure({ minutes }) {
  failure.textContent = minutes ? TEXT.limited(minutes) : TEXT.failed;
  button.textContent = TEXT.again;
  const number = document.querySelector("[name=sales-whatsapp]").content.replace(/\D/g, "");
  if (number) {
    const text = `${TEXT.hello}\n${form.elements.business_name.value}, ${form.elements.city.value}`;
    whatsapp.href = `https://wa.me/${number}?text=${encodeURIComponent(text)}`;
    whatsapp.hidden = false;
  }
  form.lastElementChild.scrollIntoView({ block: "nearest" });
}

function setSending(now) {
  sending = now;
  button.setAttribute("aria-disabled", now); // `disabled` would throw the keyboard's focus away
  status.textContent = now ? TEXT.sending : "";
}

async function submit(event) {
  event.preventDefault();
  if (sending) return;
  const payload = read();
  const faults = check(payload);
  failure.textContent = "";
  whatsapp.hidden = true;
  showFaults(faults);
  if (!summary.hidden) return;
  setSending(true);
  const outcome = await sendPatiently(payload, keyFor(payload));
  if (outcome.kind === "sent") {
    // The code is told here as well: the next page may be slow to come.
    status.textContent = `${TEXT.sent} ${outcome.ref}`;
    location.assign(`${TEXT.thanks}?ref=${encodeURIComponent(outcome.ref)}`);
    return;
  }
  setSending(false);
  if (outcome.kind === "faulty") showFaults(outcome.faults);
  else showFailure(outcome);
}

form.noValidate = true;
form.addEventListener("submit", submit);
form.addEventListener("input", forgive);
// Coming back from the thank-you page finds this one as it was left: still sending.
addEventListener("pageshow", ({ persisted }) => persisted && setSending(false));
// Faults that the server found before this file was there.
if (!summary.hidden) summary.focus();
fillOrigin();
