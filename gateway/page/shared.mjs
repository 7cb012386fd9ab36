// What the pages of Sluice have in common. What a server or a peer says becomes text, never HTML.

export const byId = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

/** What the server says went wrong, in words; `keyField`: where a key is given, told where one is missing. */
export async function errorOf(response, keyField) {
  const wait = response.headers.get("retry-after");
  let text = `${response.status} ${response.statusText}`;
  try {
    text = (await response.json()).error.message;
  } catch { /* no JSON: the status has to do */ }
  if (response.status === 401) { text += ` (${keyField})`; }
  return wait ? `${text} (come again in ${wait} s)` : text;
}

/** From light to dark, or back, whatever the system says. */
export function switchTheme() {
  const root = document.documentElement;
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
}
