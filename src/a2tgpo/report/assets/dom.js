// Elements and numbers. Every text goes in as a text node, so nothing a model wrote is ever read as markup.

function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.flat(Infinity));
  return element;
}

// Rows of a list that are drawn at once.
const PAGE_ROWS = 150;

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

const fixed = (value, digits = 2) => (isNumber(value) ? value.toFixed(digits).replace("-", "−") : "–");

const signed = (value, digits = 2) => {
  if (!isNumber(value)) return "–";
  const text = fixed(value, digits);
  return Number(value.toFixed(digits)) === 0 ? text.replace("−", "") : value > 0 ? `+${text}` : text;
};

const percent = (value) => (isNumber(value) ? `${(100 * value).toFixed(1)} %` : "–");

const count = (value) => value.toLocaleString("en-US");

// Numbers of any size in at most five characters or so, for axes and readouts.
const short = (value) => {
  if (!isNumber(value)) return "–";
  const size = Math.abs(value);
  const digits = size === 0 || size >= 100 ? 0 : size >= 10 ? 1 : size >= 0.1 ? 2 : size >= 0.01 ? 3 : 4;
  return (size >= 1e4 || (size > 0 && size < 1e-4) ? value.toExponential(1) : value.toFixed(digits)).replace("-", "−");
};

// Blue above 0, orange below; full colour at `full`. The sign is always written too.
function tint(value, full = 2) {
  if (!isNumber(value) || value === 0) return { class: "tint" };
  const strength = Math.min(1, Math.abs(value) / full);
  return { class: `tint ${value > 0 ? "up" : "down"}`, style: { "--strength": strength.toFixed(3) } };
}

function choice(label, options, selected, change) {
  const select = el(
    "select",
    { "aria-label": label, onchange: () => change(select.value) },
    options.map(([value, text]) => el("option", { value, selected: String(value) === String(selected) }, text)),
  );
  return select;
}

function toggle(text, pressed, change, title) {
  return el("button", { type: "button", class: "chip", "aria-pressed": String(pressed), title, onclick: change }, text);
}

// Each cell knows its column's name, which a narrow window shows beside it.
function table(head, rows, attributes = {}) {
  for (const row of rows)
    [...row.children].forEach((cell, i) => {
      if (cell.tagName === "TD" && !cell.dataset.name) cell.dataset.name = head[i]?.textContent ?? "";
    });
  return el(
    "div",
    { class: "scroll" },
    el("table", attributes, el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows)),
  );
}
