// Makes the partnership form kinder on a weak line. The form works without this file, by a plain
// post to /api/leads; nothing here may become the only way to do a thing.
//
// What is typed is kept on this device as a draft, what is sent by `queue.js` until its outcome
// is known; the panel tells the visitor which of it is true. Nothing personal stays after success.

import * as fields from "./fields.js";
import * as queue from "./queue.js";
import * as store from "./store.js";
import { TEXT } from "./texts.js";

const DRAFT_MS = 24 * 3600e3;

const { form, find } = fields;
const button = find("[data-submit]");
const status = find("[data-status]");
const panel = find("[data-panel]");
const panelText = find("[data-panel-text]");
const countdown = find("[data-countdown]");
const resendButton = find("[data-resend]");
const clearButton = find("[data-clear]");
const undoButton = find("[data-undo]");
const whatsapp = find("[data-whatsapp-fallback]");
const submitLabel = button.textContent;

let sending = false;
let leaving = false; // for the thank-you page
let held = null; // {key, payload}: the submission whose words the form holds
let shown = null; // the key of the submission that the panel is about
let faced = null; // the refusal whose faults stand in the form
let restored = false; // whether the form was filled from a draft
let undo = null; // puts back what was cleared last
let started = 0; // when the first letter was typed

// The panel

/** What to tell of first: the form's own submission, the one told of so far, news, the rest. */
function pick() {
  const all = queue.all();
  const own = all.find(([key]) => key === held?.key);
  const same = all.find(([key]) => key === shown);
  const news = all.find(([, { state, told }]) => state === "sent" && !told);
  return own ?? same ?? news ?? all.find(([, { state }]) => state !== "sent");
}

/** Tell what is true now. Called after every change in any tab; says nothing twice. */
function render(opening = false) {
  if (sending || leaving) return;
  const [key, record] = pick() ?? [];
  if (record?.payload && !held && mayHold(record.payload, opening)) {
    hold(key, record.payload);
    fields.fill(record.payload);
  }
  if (held && !queue.get(held.key)) held = null; // taken back in another tab
  shown = key ?? null;
  label();
  if (record?.state === "sent") return celebrate(key, record);
  if (record?.state === "refused" && key === held?.key && mend(key, record)) return;
  if (record) return show(record.state, wording(key, record), record);
  if (undo) return show("cleared", TEXT.cleared);
  if (restored && store.get("draft")) return show("draft", TEXT.draft);
  show("", "");
}

/** An empty form is filled when the page opens, not under the eyes of who looks at it. */
function mayHold(payload, opening) {
  return !store.get("draft") && fields.mayFill(payload) && (opening || !fields.isBlank());
}

function wording(key, { state }) {
  if (state === "waiting") return `${TEXT.waiting} ${queue.lasting(key) ? TEXT.closable : TEXT.notClosable}`;
  return `${TEXT[state]} ${salesNumber() ? TEXT.reach : TEXT.later}`;
}

function show(state, text, record) {
  panel.dataset.panel = state;
  if (panelText.textContent !== text) panelText.textContent = text; // or it is read out once more
  const unsent = ["sending", "waiting", "lost", "refused"].includes(state);
  resendButton.hidden = !unsent;
  resendButton.textContent = state === "waiting" ? TEXT.now : TEXT.again;
  clearButton.hidden = !(unsent || state === "draft");
  clearButton.textContent = state === "waiting" ? TEXT.stop : TEXT.clear;
  undoButton.hidden = state !== "cleared";
  whatsapp.hidden = !(unsent && salesNumber());
  if (!whatsapp.hidden) {
    whatsapp.href = `https://wa.me/${salesNumber()}?text=${encodeURIComponent(fields.describe(record.payload))}`;
  }
  count();
}

/** Beside the live region, not in it: a screen reader must not read every second aloud. */
function count() {
  const record = shown && queue.get(shown);
  const left = record?.state === "waiting" && Math.ceil((record.nextAt - Date.now()) / 1000);
  if (left === false || panel.dataset.panel !== "waiting") countdown.textContent = "";
  else if (left <= 0 || record.busyUntil > Date.now()) countdown.textContent = TEXT.trying;
  else countdown.textContent = left > 90 ? TEXT.minutes(Math.ceil(left / 60)) : TEXT.seconds(left);
}

function label() {
  const record = held && queue.get(held.key);
  const waits = record?.state === "waiting" && fields.sameWords(fields.read(), record.payload);
  button.textContent = waits ? TEXT.now : submitLabel;
}

/** The number is to be filled in on the pages; a chat that leads nowhere is not offered. */
function salesNumber() {
  return document.querySelector("[name=sales-whatsapp]").content.replace(/\D/g, "");
}

// The outcome

/** Sent. The form is emptied and left behind, unless it holds other words by now. */
function celebrate(key, { ref, told }) {
  if (!told) queue.update(key, { told: true });
  const own = held?.key === key && fields.sameWords(fields.read(), held.payload);
  if (held?.key === key) held = null;
  show("sent", `${TEXT.sent} ${ref}`);
  if (!own) return label();
  leaving = true; // the code is told here as well: the next page may be slow to come
  forget();
  location.assign(`${TEXT.thanks}?ref=${encodeURIComponent(ref)}`);
}

/** Refused for good: its faults stand beside the fields. False when there is no fault to mend. */
function mend(key, { payload, faults }) {
  const rest = fields.dropFaultyOrigin(faults);
  const names = Object.keys(faults);
  if (names.length && !Object.keys(rest).length) {
    const entries = Object.entries(payload).filter(([name]) => !names.includes(name));
    resend(key, Object.fromEntries(entries)); // nothing that a visitor could mend
    return true;
  }
  if (names.length && faced !== key) fields.showFaults(rest);
  faced = key;
  if (names.length) show("", "");
  return names.length > 0;
}

// What the visitor does

function setSending(now) {
  sending = now;
  button.setAttribute("aria-disabled", now); // `disabled` would throw the keyboard's focus away
  status.textContent = now ? TEXT.sending : "";
}

function hold(key, payload) {
  held = { key, payload };
}

/** The key under which `payload` goes: that of the same words on their way, or a new one. */
function keyFor(payload) {
  const twin = queue.all().find(([, one]) => one.state === "waiting" && fields.sameWords(one.payload, payload));
  if (twin) return twin[0];
  const old = held && queue.get(held.key);
  const key = queue.add(payload, started ? Math.max(0, Math.floor((Date.now() - started) / 1000)) : undefined);
  // A mended text takes the place of the old one. Another person's or salon's does not.
  const mended = ["business_name", "phone_whatsapp"].every((name) => old?.payload?.[name] === payload[name]);
  if (old && (mended || old.state !== "waiting")) queue.drop(held.key);
  return key;
}

async function submit(event) {
  event?.preventDefault();
  if (sending || leaving) return;
  const payload = fields.read();
  if (fields.showFaults(fields.check(payload))) return;
  undo = null;
  setSending(true);
  hold(keyFor(payload), payload);
  if (event) {
    show("", "");
    find(".sending").prepend(panel); // beside the button that was pressed
  } else show("sending", TEXT.sending, { payload });
  store.remove("draft"); // the queue has it now
  await queue.attempt(held.key);
  setSending(false);
  render();
}

/** Send a record's words again under a new key, in its place. */
async function resend(key, payload) {
  const { seconds } = queue.get(key);
  const next = queue.add(payload, seconds);
  if (held?.key === key) hold(next, payload);
  shown = next;
  queue.drop(key);
  await queue.attempt(next);
}

/** The panel's own button: for what it tells of, which may be another than the form's. */
function sendShown() {
  const record = queue.get(shown);
  if (!record || shown === held?.key) submit();
  else if (record.state === "waiting") queue.attempt(shown);
  else resend(shown, record.payload);
}

/** Take what the panel tells of off this device, and out of the form if it stands there. */
function clear() {
  const [key, record, draft] = [shown, shown && queue.get(shown), store.get("draft")];
  const words = !key || key === held?.key ? fields.read() : null;
  undo = () => {
    undo = null;
    if (words) fields.fill(words);
    if (draft) store.set("draft", draft);
    restored = Boolean(draft);
    if (key && words) hold(key, record.payload);
    if (key) queue.put(key, record);
    render();
  };
  if (words) {
    forget();
    fields.showFaults({});
    held = null;
  }
  if (key) queue.drop(key);
  render();
  undoButton.focus();
}

/** Empty the form and the draft. */
function forget() {
  form.reset();
  store.remove("draft");
  restored = false;
  started = 0;
}

function saveDraft() {
  const words = fields.typed(fields.read());
  started ||= Date.now();
  undo = null;
  if (Object.keys(words).length) store.set("draft", { words, of: held?.key, started, until: Date.now() + DRAFT_MS });
  else store.remove("draft");
  label();
}

/** Give back what was typed, unless the form holds other words already. */
function restore() {
  const draft = store.get("draft");
  if (!draft || fields.showsFaults() || !fields.mayFill(draft.words)) return;
  fields.fill(draft.words);
  started = draft.started;
  restored = true;
  const record = draft.of && queue.get(draft.of);
  if (record?.payload) hold(draft.of, record.payload);
}

form.noValidate = true;
form.addEventListener("submit", submit);
form.addEventListener("input", fields.forgive);
form.addEventListener("input", saveDraft);
resendButton.addEventListener("click", sendShown);
clearButton.addEventListener("click", clear);
undoButton.addEventListener("click", () => undo?.());
setInterval(count, 1000);
// Coming back from the thank-you page finds this one as it was left: sent.
addEventListener("pageshow", ({ persisted }) => {
  if (!persisted) return;
  leaving = false;
  shown = null;
  setSending(false);
  render();
});
addEventListener("beforeunload", (event) => {
  // Only when closing the page would lose what the visitor believes to be on its way.
  if (queue.all().some(([key, { state }]) => state === "waiting" && !queue.lasting(key))) event.preventDefault();
});
// Faults that the server found before this file was there.
if (fields.showsFaults()) fields.focusFaults();
fields.fillOrigin();
restore();
render(true);
queue.start(() => render());
