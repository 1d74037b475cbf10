#!/usr/bin/env bash
# npm vercel 64.0.2, seen 2026-11-28: `vercel deploy` of a git work tree sends files that .gitignore
# leaves out (secrets.env, .env, .env.operators, data/); only .env.local and the CLI's own list stay
# at home. .vercelignore is read, .gitignore is not. Seen: "sent: .env .env.operators data/keys.json
# secrets.env"; with the same lines as .vercelignore: "sent: nothing that git ignores".
# Exit 0 while this is so, 1 when it has changed. Needs npm, node, git; no account.
set -euo pipefail
work=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"

mkdir cli && cat > cli/package.json <<'JSON'
{"private": true, "dependencies": {"vercel": "64.0.2"}, "overrides": {"sandbox": "4.5.0"}}
JSON
(cd cli && npm install --no-audit --no-fund --loglevel=error)

# The reads that come before a deployment; the list of its files is written down, then refused.
cat > api.mjs <<'JS'
import { createServer } from "node:http";
import { writeFileSync } from "node:fs";
const known = {
  "/v2/user": { user: { id: "u", email: "a@b.co", username: "a", version: "northstar", defaultTeamId: "team_1" } },
  "/teams/team_1": { id: "team_1", slug: "t", name: "T" },
  "/v9/projects/prj_1": { id: "prj_1", name: "p", accountId: "team_1", framework: null },
};
const server = createServer((request, response) => {
  let body = "";
  request.on("data", (piece) => (body += piece)).on("end", () => {
    const path = request.url.split("?")[0];
    if (path === "/v13/deployments") writeFileSync("files.json", JSON.stringify(JSON.parse(body).files.map((one) => one.file)));
    response.writeHead(known[path] ? 200 : 400, { "Content-Type": "application/json" });
    response.end(JSON.stringify(known[path] ?? { error: { code: "bad_request", message: "no" } }));
  });
});
server.listen(0, "127.0.0.1", () => writeFileSync("port", String(server.address().port)));
JS
node api.mjs & server=$!
for _ in $(seq 50); do [ -s port ] && break; sleep 0.1; done

mkdir site && cd site
git init -q .
mkdir data
echo '<h1>x</h1>' > index.html
for file in .env .env.local .env.operators secrets.env data/keys.json; do echo 'KEY=1' > "$file"; done
printf '%s\n' '.env' '.env.*' '*.env' 'data/' > .gitignore
[ -z "$(git ls-files --others --exclude-standard | grep -v -e index.html -e .gitignore)" ]

sent() {
  HOME=$work CI=1 VERCEL_TELEMETRY_DISABLED=1 VERCEL_ORG_ID=team_1 VERCEL_PROJECT_ID=prj_1 \
    ../cli/node_modules/.bin/vercel deploy --token x --api "http://127.0.0.1:$(cat ../port)" > /dev/null 2>&1 || true
  node -e 'const sent = require("../files.json").filter((one) => /env|keys/.test(one)).sort();
           console.log("sent:", sent.join(" ") || "nothing that git ignores")'
}
first=$(sent)
cp .gitignore .vercelignore
second=$(sent)
printf '%s\n' "$first" "$second"
[ "$first" = "sent: .env .env.operators data/keys.json secrets.env" ]
[ "$second" = "sent: nothing that git ignores" ]
