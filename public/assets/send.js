// One try at POST /api/leads. It never rejects: what happened is a value, so that no caller can
// forget a kind of failure.

export const DEADLINE_MS = 12000; // the API answers within 8 s; a weak line needs the rest

// Answers that say "not now". Any other 4xx is final: the same words would be refused again.
const PASSING = [408, 409, 425, 429];

/**
 * {kind: "sent", ref}; {kind: "refused", faults}, final, with the messages by field if the API
 * gave any; {kind: "failed", retryAfter}, worth trying again, in seconds if the API said when.
 */
export async function send(payload, key, seconds) {
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), DEADLINE_MS);
  const headers = {
    "Content-Type": "application/json",
    Accept: "application/json",
    "Accept-Language": document.documentElement.lang,
    "Idempotency-Key": key,
  };
  if (seconds !== undefined) headers["X-Form-Seconds"] = String(seconds);
  try {
    const response = await fetch("/api/leads", {
      method: "POST",
      headers,
      body: JSON.stringify(payload),
      signal: abort.signal,
      keepalive: true, // a tab closed just now does not take the request with it
    });
    const retryAfter = Number(response.headers.get("Retry-After")) || 0;
    if (response.status >= 500 || PASSING.includes(response.status)) return { kind: "failed", retryAfter };
    const answer = await response.json();
    if (response.ok && answer.success) return { kind: "sent", ref: answer.ref };
    if (!response.ok && answer.error) return { kind: "refused", faults: answer.details ?? {} };
  } catch {} // no line, the deadline, or a Wi-Fi login page in our place
  finally {
    clearTimeout(timer);
  }
  return { kind: "failed", retryAfter: 0 };
}
