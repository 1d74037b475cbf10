// Makes the partnership form kinder on a weak line. The form works without this file, by a plain
// post to /api/leads; nothing here may become the only way to do a thing.
//
// What is typed is kept on this device as a draft; what is sent, by `queue.js`. The panel tells
// which of it is true. Nothing personal stays after success.

import * as fields from "./fields.js";
import * as queue from "./queue.js";
import * as store from "./store.js";
import { TEXT } from "./texts.js";

const DRAFT = "alfa.draft";
const DRAFT_MS = 24 * 3600e3;

const { form, find } = fields;
const [button, status, panel, panelText, countdown, resendButton, clearButton, whatsapp] = [
  "submit", "status", "panel", "panel-text", "countdown", "resend", "clear", "whatsapp-fallback",
].map((name) => find(`[data-${name}]`));
const [headline, details] = panelText.children;
const submitLabel = button.textContent;
// To be filled in on the pages. A chat that leads nowhere is not offered.
const salesNumber = document.querySelector("[name=sales-whatsapp]").content.replace(/\D/g, "");

let sending = false;
let leaving = false; // for the thank-you page
let held = null; // {key, payload} of the submission whose words the form holds
let shown = null; // key of the submission that the panel tells of
let faced = null; // key of the refusal whose faults stand in the form
let restored = false; // from a draft
let cleared = false;
let started = 0; // the time of the first letter

// The panel

/** The form's own submission, the one told of so far, news, the rest. */
function pick() {
  const all = queue.all();
  return (
    all.find(([key]) => key === held?.key) ??
    all.find(([key]) => key === shown) ??
    all.find(([, { state, told }]) => state === "sent" && !told) ??
    all.find(([, { state }]) => state !== "sent")
  );
}

/** Tell what is true now. Called after every change in any tab. */
function render(opening = false) {
  if (sending || leaving) return;
  const [key, record] = pick() ?? [];
  if (record?.payload && !held && mayHold(record.payload, opening)) {
    held = { key, payload: record.payload };
    fields.fill(record.payload);
  }
  if (held && !queue.get(held.key)) held = null; // taken back in another tab
  shown = key;
  label();
  if (record?.state === "sent") celebrate(key, record);
  else if (record?.state === "refused" && key === held?.key && Object.keys(record.faults).length) {
    show("");
    if (faced !== key) fields.showFaults(record.faults);
    faced = key;
  } else if (record?.state === "waiting") {
    show("waiting", TEXT.waiting, queue.isFleeting(key) ? TEXT.stay : TEXT.leave, record.payload);
  } else if (record) show(record.state, TEXT[record.state], salesNumber ? TEXT.reach : TEXT.later, record.payload);
  else if (cleared) show("cleared", TEXT.cleared);
  else if (restored && store.get(DRAFT)) show("draft", ...TEXT.draft);
  else show("");
}

/** An empty form is filled when the page opens, not under the eyes of who looks at it. */
function mayHold(payload, opening) {
  return !store.get(DRAFT) && fields.mayFill(payload) && (opening || !fields.isBlank());
}

function show(state, head = "", rest = "", unsent = null) {
  panel.dataset.panel = state;
  if (headline.textContent !== head) headline.textContent = head; // else it is read out again
  if (details.textContent !== rest) details.textContent = rest;
  resendButton.hidden = !unsent;
  resendButton.textContent = state === "waiting" ? TEXT.now : TEXT.again;
  clearButton.hidden = !unsent && state !== "draft";
  clearButton.textContent = state === "waiting" ? TEXT.stop : TEXT.clear;
  whatsapp.hidden = !unsent || !salesNumber;
  if (unsent) whatsapp.href = `https://wa.me/${salesNumber}?text=${encodeURIComponent(fields.describe(unsent))}`;
  count();
}

/** Not in the live region: nobody wants every second read aloud. */
function count() {
  const record = panel.dataset.panel === "waiting" && queue.get(shown);
  const left = record && Math.ceil((record.nextAt - Date.now()) / 1000);
  if (!record) countdown.textContent = "";
  else if (left <= 0 || record.busyUntil > Date.now()) countdown.textContent = TEXT.trying;
  else countdown.textContent = left > 90 ? TEXT.minutes(Math.ceil(left / 60)) : TEXT.seconds(left);
}

function label() {
  const waits = held && queue.get(held.key)?.state === "waiting" && fields.sameWords(fields.read(), held.payload);
  button.textContent = waits ? TEXT.now : submitLabel;
}

/** The form is left behind, unless it holds other words by now. */
function celebrate(key, { ref, told }) {
  if (!told) queue.update(key, { told: true });
  leaving = key === held?.key && fields.sameWords(fields.read(), held.payload);
  if (key === held?.key) held = null;
  show("sent", `${TEXT.sent} ${ref}`); // the next page may be slow
  if (!leaving) return;
  forget();
  location.assign(`${TEXT.thanks}?ref=${encodeURIComponent(ref)}`);
}

// What the visitor does

function setSending(now) {
  sending = now;
  button.setAttribute("aria-disabled", now); // `disabled` would throw the keyboard's focus away
  status.textContent = now ? TEXT.sending : "";
}

/** The same words on their way keep their key. */
function keyFor(payload) {
  const twin = queue.all().find(([, one]) => one.state === "waiting" && fields.sameWords(one.payload, payload));
  if (twin) return twin[0];
  const old = held && queue.get(held.key);
  // A mended text takes the old one's place. Another person's or salon's does not.
  const mended = ["business_name", "phone_whatsapp"].every((name) => old?.payload?.[name] === payload[name]);
  if (old && (mended || old.state !== "waiting")) queue.drop(held.key);
  return queue.add(payload, started ? Math.floor((Date.now() - started) / 1000) : undefined);
}

async function submit(event) {
  event?.preventDefault();
  if (sending || leaving) return;
  const payload = fields.read();
  if (fields.showFaults(fields.check(payload))) return;
  cleared = false;
  setSending(true);
  held = { key: keyFor(payload), payload };
  store.remove(DRAFT); // the queue has it now
  if (event) {
    show("");
    find(".sending").prepend(panel); // beside the button that was pressed
  } else show("sending", TEXT.sending, "", payload);
  await queue.attempt(held.key);
  setSending(false);
  render();
  if (event) panel.parentElement.scrollIntoView({ block: "nearest" });
}

/** What the panel tells of may be another submission than the form's. */
function sendShown() {
  const record = queue.get(shown);
  if (!record || shown === held?.key) return submit();
  if (record.state !== "waiting") {
    queue.drop(shown); // its key is spent
    shown = queue.add(record.payload, record.seconds);
  }
  queue.attempt(shown);
}

/** Take what the panel tells of off this device, and out of the form. */
function clear() {
  if (!shown || shown === held?.key) {
    forget();
    fields.showFaults({});
  }
  if (shown) queue.drop(shown);
  cleared = true;
  render();
  form.elements.business_name.focus({ preventScroll: true }); // the button is gone
}

function forget() {
  form.reset();
  store.remove(DRAFT);
  held = null;
  restored = false;
  started = 0;
}

function saveDraft() {
  const words = fields.typed(fields.read());
  started ||= Date.now();
  cleared = false;
  if (Object.keys(words).length) store.set(DRAFT, { words, of: held?.key, started, until: Date.now() + DRAFT_MS });
  else store.remove(DRAFT);
  label();
}

function restore() {
  const draft = store.get(DRAFT);
  if (!draft || !fields.mayFill(draft.words)) return;
  fields.fill(draft.words);
  started = draft.started;
  restored = true;
  const record = draft.of && queue.get(draft.of);
  if (record?.payload) held = { key: draft.of, payload: record.payload };
}

form.noValidate = true;
form.addEventListener("submit", submit);
form.addEventListener("input", fields.forgive);
form.addEventListener("input", saveDraft);
form.addEventListener("input", fields.showStoredPhone);
form.addEventListener("reset", () => setTimeout(fields.showStoredPhone)); // the event comes before the reset
resendButton.addEventListener("click", sendShown);
clearButton.addEventListener("click", clear);
setInterval(count, 1000);
// Back from the thank-you page, this one is as it was left.
addEventListener("pageshow", ({ persisted }) => {
  fields.showStoredPhone(); // the browser may have filled the form in
  if (!persisted) return;
  leaving = false;
  shown = null;
  render();
});
// Only where closing the page would lose what is on its way.
addEventListener("beforeunload", (event) => {
  if (queue.all().some(([key, { state }]) => state === "waiting" && queue.isFleeting(key))) event.preventDefault();
});
fields.fillOrigin();
// Faults from the server: the page is as the visitor left it.
if (!fields.summary.hidden) fields.summary.focus();
else restore();
render(true);
queue.start(() => render());
