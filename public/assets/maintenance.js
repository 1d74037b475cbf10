// Tells of maintenance, and of nothing else: a quiet line at the foot of the window, which moves
// nothing on the page. Asked for when the page is done with everything else, once a minute at most;
// if there is no answer there is nothing to say.

const lang = document.documentElement.lang === "en" ? "en" : "id";
const form = document.getElementById("lead-form") !== null;
const TEXT = {
  id: {
    told: form
      ? "Sedang ada pemeliharaan. Kirim formulir seperti biasa: kami simpan dan jawab sesudahnya."
      : "Sedang ada pemeliharaan. Daftar produk mungkin sedikit lebih lama dari biasanya.",
    more: "Status layanan", close: "Tutup", status: "/status",
  },
  en: {
    told: form
      ? "We are doing maintenance. Send the form as usual: we keep it and reply later."
      : "We are doing maintenance. The product list may be a little older than usual.",
    more: "Service status", close: "Close", status: "/status?lang=en",
  },
}[lang];
const ASKED = "alfa.health", CLOSED = "alfa.maintenance-closed";
const EVERY_MS = 60_000, PATIENCE_MS = 5000;
const idle = window.requestIdleCallback ?? ((work) => setTimeout(work, 200));

// What another page of this visit was told counts here too.
const memory = {};
function recall(name) {
  try {
    return JSON.parse(sessionStorage.getItem(name)) ?? memory[name];
  } catch {
    return memory[name]; // forbidden
  }
}
function remember(name, value) {
  memory[name] = value;
  try {
    sessionStorage.setItem(name, JSON.stringify(value));
  } catch {}
}

async function look() {
  if (document.hidden) return;
  const known = recall(ASKED);
  if (known && Date.now() - known.at < EVERY_MS) return tell(known.status);
  let status = null;
  try {
    const answer = await fetch("/api/health", { cache: "no-store", priority: "low", signal: AbortSignal.timeout?.(PATIENCE_MS) });
    if (answer.ok) ({ status } = await answer.json());
  } catch {} // then nothing is known, and nothing said
  remember(ASKED, { at: Date.now(), status });
  tell(status);
}

function tell(status) {
  const bar = document.querySelector(".maintenance");
  if (status !== "maintenance") {
    if (status === "ok") remember(CLOSED, null);
    bar?.remove();
  } else if (!bar && !recall(CLOSED)) document.body.append(made());
}

function made() {
  const bar = document.createElement("aside");
  bar.className = "maintenance";
  bar.setAttribute("aria-label", TEXT.more);
  const words = document.createElement("p");
  words.textContent = TEXT.told;
  words.setAttribute("aria-hidden", "true");
  const spoken = document.createElement("span"); // of no size: what comes late moves nothing
  spoken.setAttribute("role", "status");
  const more = document.createElement("a");
  more.href = TEXT.status;
  more.textContent = TEXT.more;
  const close = document.createElement("button");
  close.type = "button";
  close.textContent = TEXT.close;
  close.addEventListener("click", () => {
    remember(CLOSED, true);
    bar.remove();
  });
  bar.append(words, spoken, more, close);
  setTimeout(() => spoken.append(TEXT.told)); // after its live region stands, or it is not read out
  return bar;
}

const start = () => idle(() => look(), { timeout: 2000 }); // a busy phone may never be idle
if (document.readyState === "complete") start();
else addEventListener("load", start);
setInterval(() => document.querySelector(".maintenance") && look(), EVERY_MS); // to take it away again
document.addEventListener("visibilitychange", look);
