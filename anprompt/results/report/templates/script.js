"use strict";
// What all parts of the page share: making elements, what a number comes from, what is pointed at.
const DATA = JSON.parse(document.getElementById("data").textContent);

function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "rect", "line", "path", "text", "circle"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) element.setAttribute(name, value);
  element.append(...children.filter(child => child !== null));
  return element;
}

function fillSelect(select, values, chosen) {
  select.replaceChildren(...values.map(([value, text]) => make("option", { value }, text)));
  select.value = values.some(([value]) => value === chosen) ? chosen : values.length ? values[0][0] : "";
}

function swatch(method) {
  return make("i", { class: "swatch", style: `background:var(--s${DATA.methods[method].colour})` });
}

// Parts that are folded open when a link leads into them, and on paper.
function openTo(hash) {
  const target = hash.length > 1 && document.getElementById(decodeURIComponent(hash.slice(1)));
  for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
  if (target) target.scrollIntoView();
}
addEventListener("hashchange", () => openTo(location.hash));
addEventListener("click", event => {
  const link = event.target.closest?.("a[href^='#']");
  if (link) openTo(link.hash);
});
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
});

// A number, when pointed at or chosen, says which files it comes from.
const WORDS = {
  mean: "mean of", hm: "harmonic mean of", minus: "the first less the second, of",
  over: "the first divided by the second, of", count: "number of", percent: "in percent:",
  noisy: "mean over kinds, severities and noise seeds of the cells",
};
const panel = document.getElementById("origin");
const body = panel.querySelector("div");
const tip = document.getElementById("tip");
const NUMBER = "[data-source], .cell";

function expand(source) {  // entries by number, of explorer.js
  if (typeof source !== "string") return [source[0], ...source.slice(1).map(expand)];
  const [file, key] = source.split(".");
  return `${DATA.explorer.files[file]}#${DATA.explorer.keys[key]}`;
}

function originOf(number) {
  if (number.origin) return { ...number.origin, source: expand(number.origin.source) };
  const { value, source, values } = number.dataset;
  return { value, source: JSON.parse(source), values: values && JSON.parse(values), said: [] };
}

function tree(source, values) {
  if (typeof source === "string") return make("code", {}, source.replace("#", " \u2192 "));
  const items = source.slice(1).map((part, i) =>
    make("li", {}, values ? `${Number(values[i].toFixed(4))}: ` : "", tree(part)));
  return make("div", {}, WORDS[source[0]] ?? source[0], make("ul", {}, ...items));
}

function filesOf(source) {
  return typeof source === "string" ? [source.split("#")[0]] : source.slice(1).flatMap(filesOf);
}

function openOrigin(number) {
  panel.hidden = !number;
  if (!number) return;
  const { value, source, values, said } = originOf(number);
  body.replaceChildren(make("b", {}, value), " = ", tree(source, values), ...said.map(line => make("p", {}, line)));
}

function tipOf(element) {
  if (element.dataset.tip) return element.dataset.tip;
  const { value, source, said } = originOf(element);
  const files = new Set(filesOf(source)).size;
  return [value, ...said, files > 1 ? `from ${files} files` : "from one file"].join("\n");
}

function showTip(element) {
  if (element !== pointedAt) tip.textContent = tipOf(element);
  pointedAt = element;
  tip.hidden = false;
  const box = element.getBoundingClientRect(), own = tip.getBoundingClientRect();
  const left = Math.min(Math.max(4, box.left + box.width / 2 - own.width / 2), innerWidth - own.width - 4);
  const below = box.bottom + 6;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${below + own.height < innerHeight ? below : Math.max(4, box.top - own.height - 6)}px`;
  element.setAttribute("aria-describedby", "tip");
}
let pointedAt = null;
function hideTip() { tip.hidden = true; pointedAt = null; }
const TIPPED = `${NUMBER}, [data-tip]`;
for (const name of ["pointerover", "focusin"]) {
  addEventListener(name, event => {
    const element = event.target.closest?.(TIPPED);
    if (element) showTip(element); else hideTip();
  });
}
addEventListener("scroll", () => {  // with the focus it moves along, with the pointer it goes
  if (pointedAt && pointedAt === document.activeElement) showTip(pointedAt); else hideTip();
}, true);

addEventListener("click", event => {
  if (!panel.contains(event.target)) openOrigin(event.target.closest(NUMBER));
  else if (event.target.closest("button")) panel.hidden = true;
});

// One number of a table, one point of a figure takes part in Tab's order; arrow keys go on.
const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
function enterTable(table) {
  const first = table.querySelector(NUMBER);
  if (first) first.tabIndex = 0;
}
document.querySelectorAll("table").forEach(enterTable);
function neighbour(number, step) {
  const cell = number.closest("td"), row = cell?.parentElement;
  if (!row) return null;
  const rows = row.closest("table").rows;
  const inside = found => found && (found.matches(NUMBER) ? found : found.querySelector(NUMBER));
  let next = cell;
  do {
    next = rows[next.parentElement.rowIndex + step[0]]?.cells[next.cellIndex + step[1]];
  } while (next && !inside(next));
  return inside(next);
}
addEventListener("keydown", event => {
  if (event.key === "Escape") { panel.hidden = true; hideTip(); }
  const number = event.target.closest?.(NUMBER), point = event.target.closest?.(".point");
  if (number && (event.key === "Enter" || event.key === " ")) {
    openOrigin(number);
    event.preventDefault();
  }
  const step = STEPS[event.key];
  let target = null;
  if (step && number) target = neighbour(number, step);
  if (step && point) {
    const points = [...point.closest("svg").querySelectorAll(".point")];
    target = points[points.indexOf(point) + (step[0] || step[1])];
  }
  if (!target) return;
  event.target.tabIndex = -1;
  target.tabIndex = 0;
  target.focus();
  event.preventDefault();
});

// Methods that are switched off vanish from tables and figures.
const off = new Set();
function applyOff() {
  for (const element of document.querySelectorAll("tr[data-method]")) {
    element.hidden = off.has(Number(element.dataset.method));
  }
  DATA.methods.forEach((_, number) => {
    for (const element of document.querySelectorAll(`.series-${number}`)) {
      element.style.display = off.has(number) ? "none" : "";
    }
  });
}
