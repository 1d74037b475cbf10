// Submissions on their way: written down before the first try, tried again by any tab or visit with
// the same Idempotency-Key and words, so that the API can tell a repeat from a second lead. Each
// has its own name in storage, lest tabs overwrite each other's. A record is "waiting", "sent"
// (its words are gone), "refused" (for good, with faults) or "lost" (not delivered in time).

import * as store from "./store.js";

const NAME = "alfa.lead.";
const HOUR_MS = 3600e3;
const DEADLINE_MS = 12e3; // the API answers within 8 s
const GIVE_UP_MS = 23 * HOUR_MS; // the API knows a key for 24 h; then a repeat is a double
const TOLD_MS = 24 * HOUR_MS;
const LOST_MS = 168 * HOUR_MS;
const FIRST_WAIT_MS = 3000; // then doubling: 4 tries in the first minute, the API allows 5
const LONGEST_WAIT_MS = 300e3;
const GAP_MS = 2000; // between tries on events, which come in swarms

const FINAL = [400, 403, 413, 415, 422];

const TAB = newKey();
let changed = () => {};
let timer;

function newKey() {
  const words = crypto.getRandomValues(new Uint32Array(4)); // older phones lack randomUUID()
  return [...words].map((word) => word.toString(16).padStart(8, "0")).join("");
}

/** One try. Never rejects: {state: "sent", ref}, {"refused", faults} or {"waiting", retryAfter}. */
async function send(payload, key, seconds) {
  const abort = new AbortController();
  const deadline = setTimeout(() => abort.abort(), DEADLINE_MS);
  let retryAfter = 0;
  try {
    const response = await fetch("/api/leads", {
      method: "POST",
      headers: {
        "Content-Type": "application/json",
        Accept: "application/json",
        "Accept-Language": document.documentElement.lang,
        "Idempotency-Key": key,
        ...(seconds >= 0 && { "X-Form-Seconds": String(seconds) }),
      },
      body: JSON.stringify(payload),
      signal: abort.signal,
      keepalive: true, // outlives a tab closed just now
    });
    retryAfter = Number(response.headers.get("Retry-After")) || 0;
    const answer = await response.json();
    if (response.ok && answer.success) return { state: "sent", ref: answer.ref };
    if (FINAL.includes(response.status) && answer.error) return { state: "refused", faults: answer.details ?? {} };
  } catch {} // no line, the deadline, or a Wi-Fi login page in our place
  finally {
    clearTimeout(deadline);
  }
  return { state: "waiting", retryAfter };
}

export const get = (key) => store.get(NAME + key);
export const isFleeting = (key) => store.isFleeting(NAME + key);

/** [key, record] of everything kept, the newest first. */
export function all() {
  const pairs = store.names(NAME).map((name) => [name.slice(NAME.length), store.get(name)]);
  return pairs.filter(([, record]) => record).sort(([, a], [, b]) => b.first - a.first);
}

const waiting = () => all().filter(([, { state }]) => state === "waiting");

/** Tell of a change once it is whole. */
function note() {
  plan();
  queueMicrotask(() => changed());
}

export function put(key, record) {
  store.set(NAME + key, record);
  note();
}

/** What the visitor took away stays away. */
export function update(key, changes) {
  const record = get(key);
  if (record) put(key, { ...record, ...changes });
}

export function drop(key) {
  store.remove(NAME + key);
  note();
}

/** Write a submission down; `attempt` sends it. Its Idempotency-Key. */
export function add(payload, seconds) {
  const key = newKey();
  const first = Date.now();
  put(key, { state: "waiting", payload, seconds, first, tries: 0, nextAt: first, notBefore: 0, until: first + LOST_MS });
  return key;
}

/** One try, unless another tab is at it. Resolves when the record says how it went. */
export async function attempt(key) {
  giveUp();
  await alone(key, async () => {
    const record = get(key);
    if (record?.state !== "waiting") return;
    const triedAt = Date.now();
    const busyUntil = triedAt + DEADLINE_MS + 1000; // if this tab dies, another goes on then
    const tries = record.tries + 1;
    update(key, { tries, triedAt, busyUntil, nextAt: busyUntil });
    settle(key, tries, await send(record.payload, key, record.seconds));
  });
}

function settle(key, tries, { state, ref, faults, retryAfter }) {
  const now = Date.now();
  // Even if it was taken back meanwhile: it has arrived.
  if (state === "sent") return put(key, { state, ref, first: now, until: now + TOLD_MS });
  if (state === "refused") return update(key, { state, faults, until: now + TOLD_MS });
  const wait = Math.min(FIRST_WAIT_MS * 2 ** (tries - 1), LONGEST_WAIT_MS);
  const notBefore = now + retryAfter * 1000;
  const nextAt = Math.max(notBefore, now + wait * (0.75 + Math.random() / 2));
  update(key, { notBefore, nextAt, busyUntil: 0 });
}

/** Do `work` while no other tab does. Where Web Locks are missing or forbidden, by a lease. */
async function alone(key, work) {
  try {
    return await navigator.locks.request(NAME + key, { ifAvailable: true }, (lock) => lock && work());
  } catch {}
  if (get(key)?.lease?.until > Date.now()) return;
  update(key, { lease: { tab: TAB, until: Date.now() + DEADLINE_MS + 1000 } });
  await new Promise((resolve) => setTimeout(resolve, 100)); // the last tab to write has it
  if (get(key)?.lease?.tab !== TAB) return;
  await work();
  if (get(key)?.lease) update(key, { lease: undefined });
}

/** Neither the old nor, after the clock was set, the ageless can be repeated safely. */
function giveUp() {
  for (const [key, { first }] of waiting()) {
    const age = Date.now() - first;
    if (age > GIVE_UP_MS || age < -HOUR_MS) update(key, { state: "lost" });
  }
}

function tryAll(isDue) {
  giveUp();
  for (const [key, record] of waiting()) if (isDue(record, Date.now())) attempt(key);
  plan();
}

/** The line may be back. The time that the API named holds all the same. */
const wake = () => tryAll(({ notBefore, triedAt }, now) => notBefore <= now && !(now - triedAt < GAP_MS));

function plan() {
  clearTimeout(timer);
  const times = waiting().map(([, { nextAt, first }]) => Math.min(nextAt, first + GIVE_UP_MS));
  const tick = () => tryAll(({ nextAt }, now) => nextAt <= now);
  if (times.length) timer = setTimeout(tick, Math.max(1000, Math.min(...times) - Date.now() + 1));
}

/** `whenChanged` is called after every change, by this tab or another. */
export function start(whenChanged) {
  changed = whenChanged;
  addEventListener("storage", note);
  addEventListener("online", wake);
  addEventListener("pageshow", wake);
  document.addEventListener("visibilitychange", () => document.hidden || wake());
  tryAll(({ notBefore }, now) => notBefore <= now);
}
