// A product that a visitor comes from (/?produk=…) is carried into the message, for them to change.
// Beside lead-form.js, after it: what was typed before is in the form already, and stays.

const product = new URLSearchParams(location.search).get(document.documentElement.lang === "en" ? "product" : "produk");
const message = document.getElementById("message");
const name = [...(product ?? "").replace(/[\p{Cc}\p{Cs}]/gu, "").trim()].slice(0, 160).join("");

if (name && !message.value.includes(name)) {
  const words = document.documentElement.lang === "en" ? "I am interested in: " : "Saya tertarik dengan: ";
  message.value = `${message.value}${message.value && "\n"}${words}${name}`;
  message.closest("details").open = true;
  message.dispatchEvent(new Event("input", { bubbles: true }));
}
