// Trees are built anew from what is known and then morphed into the page: only what says something else is touched, so that
// a reader's place, selection, focus and open details stay. Every text goes through text nodes: what somebody signed or named
// is never markup.

const SVG = "http://www.w3.org/2000/svg";

const fill = (node, attributes, children) => {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(9).filter((child) => child !== undefined && child !== null && child !== false));
  return node;
};

/** An element: `h("p", { class: "small" }, "text", more)`. */
export const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
/** The same of SVG. */
export const s = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

export const byId = (id) => document.getElementById(id);

/** Says a text in a live region: once, when it changes. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Puts `children` into `node`, changing as little as possible. */
export function render(node, ...children) {
  const fresh = node.cloneNode(false);
  fill(fresh, {}, children);
  morph(node, fresh);
}

// What people set by themselves is not the page's to set.
const THEIRS = new Set(["open", "tabindex", "role", "aria-label"]);

function morph(old, fresh) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && !THEIRS.has(name)) old.removeAttribute(name);
  const children = [...fresh.childNodes];
  children.forEach((child, at) => {
    const there = old.childNodes[at];
    if (!there) old.append(child);
    else if (there.nodeName === child.nodeName && there.dataset?.key === child.dataset?.key) morph(there, child);
    else there.replaceWith(child);
  });
  while (old.childNodes.length > children.length) old.lastChild.remove();
}

/** A table in a frame that scrolls where it is too wide. Cells are texts or nodes; the first of a row is its heading. */
export function table(caption, heads, rows, none) {
  if (!rows.length) return h("p", { class: "none" }, none);
  // Numbers stand under each other.
  const isNumber = (one) =>
    one instanceof HTMLDataElement || (typeof one === "string" && /^(–|(< )?\d[\d.,]*( ?[%a-zµ/]+)?)$/.test(one));
  const numbers = heads.map((_, at) => at > 0 && rows.every((row) => isNumber(row[at])));
  const kind = (at) => ({ class: numbers[at] ? "number" : undefined });
  const cell = (one, at) => (one instanceof Node && ["TD", "TH"].includes(one.nodeName) ? one : h("td", kind(at), one));
  return h(
    "div",
    { class: "scroll", "data-label": caption },
    h(
      "table",
      {},
      h("caption", {}, h("span", {}, caption)),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          heads.map((one, at) => h("th", { scope: "col", ...kind(at) }, one)),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map(([first, ...rest]) =>
          h(
            "tr",
            {},
            first instanceof Node ? cell(first, 0) : h("th", { scope: "row" }, first),
            rest.map((one, at) => cell(one, at + 1)),
          ),
        ),
      ),
    ),
  );
}

/** Frames that scroll can be reached by the keyboard, and only those. */
export function reachScrolling() {
  for (const frame of document.querySelectorAll(".scroll")) {
    const scrolls = frame.scrollWidth > frame.clientWidth + 1;
    if (scrolls === frame.hasAttribute("tabindex")) continue;
    const set = { tabindex: "0", role: "group", "aria-label": frame.dataset.label };
    for (const [name, value] of Object.entries(set)) {
      if (scrolls) frame.setAttribute(name, value);
      else frame.removeAttribute(name);
    }
  }
}

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

/** A count as people read it; the exact one is in `value`. With `series` it says which of `/metrics` it is. */
export const count = (value, series) => h("data", { value: value ?? 0, "data-series": series }, whole.format(value ?? 0));

/** So many a second. */
export function perSecond(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0/s";
  if (value < 0.1) return "< 0.1/s";
  return `${value < 100 ? value.toFixed(1) : whole.format(value)}/s`;
}

/** A time in the unit that suits it. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return "–";
  const units = [
    ["ns", 1e-9],
    ["µs", 1e-6],
    ["ms", 1e-3],
    ["s", 1],
  ];
  const [unit, size] = units.findLast(([, least]) => seconds >= least) ?? units[0];
  const value = seconds / size;
  return `${value >= 100 || Number.isInteger(value) ? value.toFixed(0) : value.toPrecision(3)} ${unit}`;
}

/** How long ago or how long: `3 min`, `2 h 5 min`. */
export function span(seconds) {
  const all = Math.max(0, Math.round(seconds));
  const [days, hours, minutes] = [Math.floor(all / 86400), Math.floor(all / 3600) % 24, Math.floor(all / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min` : `${all} s`;
}

export const percent = (value, digits = 2) => `${(value ?? 0).toFixed(digits)} %`;
export const time = (us) => (us ? new Date(us / 1000).toLocaleString() : "–");
export const pill = (text, kind = text) => h("span", { class: `state ${kind}` }, text);
export const bytes = (value) =>
  value < 1024 ? `${value} B` : value < 1048576 ? `${(value / 1024).toFixed(1)} KiB` : `${(value / 1048576).toFixed(1)} MiB`;
