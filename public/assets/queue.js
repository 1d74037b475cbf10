// Submissions on their way. One is written down before its first try and stays until its outcome
// is known: every tab, and every later visit, tries it again with the same Idempotency-Key and
// the same words, so that the API can tell a repeat from a second lead.
//
// A record's `state`:
//   waiting  {payload, seconds, first, tries, triedAt, busyUntil, nextAt, notBefore}
//   sent     {ref, told}: the words are gone the moment they are delivered
//   refused  {payload, faults}: final, for the visitor to mend
//   lost     {payload}: not delivered in time, for the visitor to decide
// Each has a name of its own in storage, so that two tabs never overwrite each other's.

import { DEADLINE_MS, send } from "./send.js";
import * as store from "./store.js";

const HOUR_MS = 3600e3;
const GIVE_UP_MS = 23 * HOUR_MS; // the API knows a key for 24 h; after that a repeat is a double
const TOLD_MS = 24 * HOUR_MS; // how long an outcome is kept for tabs and visits to come
const LOST_MS = 7 * 24 * HOUR_MS; // how long undelivered words are kept for their owner to return
const FIRST_WAIT_MS = 3000; // doubles each time: 4 tries in the first minute, the API allows 5
const LONGEST_WAIT_MS = 300e3;
const GAP_MS = 2000; // between tries on events, which can come in swarms

const TAB = newKey();
let changed = () => {};
let telling = false;
let timer;

/** 128 random bits in hexadecimal. */
function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // older phones lack randomUUID()
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Plan the next try; tell of the change, once however many are made in one go. */
function note() {
  plan();
  if (telling) return;
  telling = true;
  queueMicrotask(() => {
    telling = false;
    changed();
  });
}

export const get = (key) => store.get(`lead.${key}`);
export const lasting = (key) => store.lasting(`lead.${key}`);

/** [key, record] of everything kept, the newest first. */
export function all() {
  const keys = store.names("lead.").map((name) => name.slice(5));
  const found = keys.map((key) => [key, get(key)]).filter(([, record]) => record);
  return found.sort(([, a], [, b]) => b.first - a.first);
}

export function put(key, record) {
  store.set(`lead.${key}`, record);
  note();
}

/** Change what is there. What is no longer there was taken away by the visitor and stays away. */
export function update(key, changes) {
  const record = get(key);
  if (record) put(key, { ...record, ...changes });
}

export function drop(key) {
  store.remove(`lead.${key}`);
  note();
}

/** Write a submission down; `attempt` sends it. Its Idempotency-Key. */
export function add(payload, seconds) {
  const key = newKey();
  const first = Date.now();
  const state = "waiting";
  put(key, { state, payload, seconds, first, tries: 0, nextAt: first, notBefore: 0, until: first + LOST_MS });
  return key;
}

/** One try, unless another tab is at it or was faster. Resolves when the record says how it went. */
export async function attempt(key) {
  giveUp();
  await alone(key, async () => {
    const record = get(key);
    if (record?.state !== "waiting") return;
    const triedAt = Date.now();
    const tries = record.tries + 1;
    const busyUntil = triedAt + DEADLINE_MS + 1000; // if this tab dies, another goes on then
    update(key, { tries, triedAt, busyUntil, nextAt: busyUntil });
    settle(key, tries, await send(record.payload, key, record.seconds));
  });
}

function settle(key, tries, outcome) {
  const now = Date.now();
  const until = now + TOLD_MS;
  // Told even to who took it back meanwhile: it has arrived.
  if (outcome.kind === "sent") return put(key, { state: "sent", ref: outcome.ref, first: now, until });
  if (outcome.kind === "refused") return update(key, { state: "refused", faults: outcome.faults, until });
  const wait = Math.min(FIRST_WAIT_MS * 2 ** (tries - 1), LONGEST_WAIT_MS);
  const notBefore = now + outcome.retryAfter * 1000;
  const nextAt = Math.max(notBefore, now + wait * (0.75 + Math.random() / 2)); // not all phones at once
  update(key, { notBefore, nextAt, busyUntil: 0 });
}

/** Do `work` while no other tab does it. Without the Web Locks API, by a lease in the record. */
async function alone(key, work) {
  try {
    return await navigator.locks.request(`lead.${key}`, { ifAvailable: true }, (lock) => lock && work());
  } catch {} // no such API, or forbidden together with storage
  const record = get(key);
  if (!record || record.lease?.until > Date.now()) return;
  update(key, { lease: { by: TAB, until: Date.now() + DEADLINE_MS + 1000 } });
  await new Promise((resolve) => setTimeout(resolve, 100)); // the last tab to write has it
  if (get(key)?.lease?.by !== TAB) return;
  await work();
  if (get(key)?.lease) update(key, { lease: undefined });
}

const waiting = () => all().filter(([, { state }]) => state === "waiting");

/** What is too old to be repeated safely waits no more; nor what a changed clock makes ageless. */
function giveUp() {
  for (const [key, { first }] of waiting()) {
    const age = Date.now() - first;
    if (age > GIVE_UP_MS || age < -HOUR_MS) update(key, { state: "lost" });
  }
}

/** Try again now what waits, for the line may be back. Never before the time the API named. */
function wake(gap = GAP_MS) {
  giveUp();
  const now = Date.now();
  for (const [key, { notBefore, triedAt }] of waiting()) {
    if (notBefore <= now && !(now - triedAt < gap)) attempt(key);
  }
  plan();
}

function plan() {
  clearTimeout(timer);
  const times = waiting().map(([, { nextAt, first }]) => Math.min(nextAt, first + GIVE_UP_MS));
  if (times.length) timer = setTimeout(tick, Math.max(1000, Math.min(...times) - Date.now() + 1));
}

function tick() {
  giveUp();
  for (const [key, { nextAt }] of waiting()) if (nextAt <= Date.now()) attempt(key);
  plan();
}

/** Begin. `whenChanged` is called after every change, by this tab or another. */
export function start(whenChanged) {
  changed = whenChanged;
  store.watch(note);
  addEventListener("online", () => wake());
  addEventListener("pageshow", ({ persisted }) => persisted && wake());
  document.addEventListener("visibilitychange", () => document.hidden || wake());
  wake(0);
}
