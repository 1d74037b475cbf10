// Lets the product pages open without a line: pages and their files as they were last seen.
// The network comes first, always; the products themselves are kept by the page (products.js).

const KEPT = "products-1";
const SHELL = [
  "/assets/site.css", "/assets/products.css", "/assets/products.js", "/assets/maintenance.js", "/assets/strands.svg", "/assets/chevron.svg",
];
const PAGE = /^\/(produk|en\/products)$/;
const FILE = /^\/(assets\/|favicon)/;

self.addEventListener("install", (event) => {
  const pages = self.registration.scope.includes("/en/") ? ["/en/products"] : ["/produk"];
  event.waitUntil(caches.open(KEPT).then((cache) => cache.addAll([...SHELL, ...pages])).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  const old = (name) => name.startsWith("products-") && name !== KEPT;
  event.waitUntil(
    caches.keys()
      .then((names) => Promise.all(names.filter(old).map((name) => caches.delete(name))))
      .then(() => self.clients.claim()),
  );
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const { origin, pathname } = new URL(request.url);
  if (request.method !== "GET" || origin !== location.origin) return;
  if (PAGE.test(pathname) || FILE.test(pathname)) event.respondWith(fresh(request, pathname));
});

/** From the network, kept under the path alone; without a line what was kept. */
async function fresh(request, path) {
  const cache = await caches.open(KEPT);
  try {
    const answer = await fetch(request);
    if (answer.ok) await cache.put(path, answer.clone());
    return answer;
  } catch (fault) {
    const kept = await cache.match(path);
    if (kept) return kept;
    throw fault;
  }
}
