// The form's fields: what is in them, what is wrong with them.

import { TEXT } from "./texts.js";

export const form = document.getElementById("lead-form");
export const find = (selector) => form.querySelector(selector);
export const summary = find("[data-errors-summary]");
const list = find("[data-errors-list]");
const phoneHint = find("[data-phone-hint]");
const PHONE_EXAMPLE = phoneHint.textContent;

// What a visitor types or chooses. Consent is not among it: it is given anew each time.
const TYPED = [...new Set([...form.querySelectorAll(".field [name]:not([name=consent])")].map(({ name }) => name))];

/** Of an address's query only campaign marks stay; the rest is nobody's business. */
function clean(address) {
  if (!address) return "";
  const url = new URL(address);
  for (const name of [...url.searchParams.keys()]) {
    if (!/^(utm_\w+|gclid|fbclid)$/.test(name)) url.searchParams.delete(name);
  }
  url.hash = "";
  if (url.href.length > 2048) url.search = "";
  return url.href.slice(0, 2048);
}

/** 200 characters that the API takes: no long link may cost a lead. Half of an emoji is none. */
const cut = (text) => [...text.normalize("NFC").replace(/[\p{Cc}\p{Cs}]/gu, "")].slice(0, 200).join("");

/** How the visit began, remembered for this tab, goes along in the hidden fields. */
export function fillOrigin() {
  let origin = { page_url_initial: clean(location.href), referrer: clean(document.referrer) };
  try {
    origin = JSON.parse(sessionStorage.getItem("origin")) ?? origin;
  } catch {} // storage may be forbidden; each page then begins a visit
  for (const [name, value] of new URLSearchParams(location.search)) {
    if (/^utm_(source|medium|campaign|term|content)$/.test(name)) origin[name] = cut(value);
  }
  try {
    sessionStorage.setItem("origin", JSON.stringify(origin));
  } catch {}
  origin.page_url_current = clean(location.href);
  for (const name in origin) form.elements[name].value = origin[name];
}

export function read() {
  const payload = {};
  for (const [name, value] of new FormData(form)) if (value.trim()) payload[name] = value.trim();
  payload.consent = form.elements.consent.checked;
  return payload;
}

export function typed(payload) {
  return Object.fromEntries(TYPED.filter((name) => payload[name]).map((name) => [name, payload[name]]));
}

export const isBlank = () => !Object.keys(typed(read())).length;
export const sameWords = (a, b) => TYPED.every((name) => (a[name] ?? "") === (b[name] ?? ""));

/** Whether filling in `payload` overwrites nothing. */
export const mayFill = (payload) => Object.entries(typed(read())).every(([name, value]) => payload[name] === value);

export function fill(payload) {
  for (const name of TYPED) if (payload[name]) form.elements[name].value = payload[name];
  form.elements.consent.checked = Boolean(payload.consent);
  const details = find("details");
  details.open ||= TYPED.some((name) => payload[name] && details.contains(find(`[name=${name}]`)));
  showStoredPhone();
}

/** An Indonesian mobile number as it will be stored, E.164 with spaces; "" where only the server knows. */
function storedPhone(text) {
  // As in lib/leads/validators.py; a test holds the two in step.
  const [, mobile] = /^(?:\+?620?|0)?(8[1-35-9][0-9]{7,10})$/.exec(text.trim().replace(/[ .()-]/g, "")) ?? [];
  return mobile ? `+62 ${mobile.slice(0, 3)} ${mobile.slice(3, 7)} ${mobile.slice(7)}` : "";
}

/** In the hint's own line, so that nothing below it moves. */
export function showStoredPhone() {
  const stored = storedPhone(form.elements.phone_whatsapp.value);
  const hint = stored ? `${TEXT.storedAs} ${stored}` : PHONE_EXAMPLE;
  if (phoneHint.textContent !== hint) phoneHint.textContent = hint; // else it is read out again
}

/** What is not filled in saves a wasted trip. Every other rule is the server's alone. */
export function check(payload) {
  const faults = {};
  for (const { name, type } of form.querySelectorAll("[required]")) {
    if (!payload[name]) faults[name] = [TEXT[type] ?? TEXT.required];
  }
  return faults;
}

function mark(name, text) {
  document.getElementById(`${name}-error`).textContent = text;
  for (const control of form.querySelectorAll(`[name=${name}]`)) {
    if (text) control.setAttribute("aria-invalid", "true");
    else control.removeAttribute("aria-invalid");
  }
}

function label(control) {
  return (control.closest("fieldset")?.querySelector("legend") ?? control.labels[0]).textContent;
}

/** Each message beside its field, all of them in the summary, which gets the focus. */
export function showFaults(faults) {
  const rest = { ...faults };
  list.textContent = "";
  for (const { dataset: { errorFor: name } } of form.querySelectorAll(".field [data-error-for]")) {
    const control = find(`[name=${name}]`);
    const text = (rest[name] ?? []).join(" ");
    delete rest[name];
    mark(name, text);
    if (!text) continue;
    const link = document.createElement("a");
    link.href = `#${control.id}`;
    link.textContent = `${label(control)}: ${text}`;
    list.appendChild(document.createElement("li")).append(link);
    control.closest("details")?.setAttribute("open", "");
  }
  // What is left has no field to stand beside: the whole body's faults and hidden fields'.
  find("[data-error-for=_]").textContent = Object.values(rest).flat().join(" ");
  summary.hidden = !Object.keys(faults).length;
  if (!summary.hidden) summary.focus();
  return !summary.hidden;
}

/** The summary keeps its height while a visitor mends a field below it: the page must not jump. */
export function forgive({ target }) {
  if (!target.closest(".field")) return;
  mark(target.name, "");
  list.querySelector(`[href^="#${target.name}"]`)?.toggleAttribute("data-done", true);
}

/** For a chat with sales. */
export function describe(payload) {
  const given = Object.entries(typed(payload));
  const lines = given.map(([name, value]) => `${label(find(`[name=${name}]`))}: ${value}`);
  return [...[TEXT.hello, ...lines].join("\n")].slice(0, 1500).join(""); // as much as a link bears
}
