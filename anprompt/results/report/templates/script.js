// Folded parts would be missing on paper.
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
});

// A number, when pointed at or tapped, says which files it comes from.
const WORDS = {
  mean: "mean of", hm: "harmonic mean of", minus: "the first less the second, of",
  over: "the first divided by the second, of", count: "number of", percent: "in percent:",
  noisy: "mean over kinds, severities and noise seeds of the cells",
};
const panel = document.getElementById("origin");
const body = panel.querySelector("div");

function tree(source, values) {
  if (typeof source === "string") {
    const leaf = document.createElement("code");
    leaf.textContent = source.replace("#", " \u2192 ");
    return leaf;
  }
  const box = document.createElement("div");
  box.append(WORDS[source[0]]);
  const list = box.appendChild(document.createElement("ul"));
  source.slice(1).forEach((part, i) => {
    const item = list.appendChild(document.createElement("li"));
    if (values) item.append(`${Number(values[i].toFixed(4))}: `);
    item.append(tree(part));
  });
  return box;
}

function files(source) {
  return typeof source === "string" ? [source.split("#")[0]] : source.slice(1).flatMap(files);
}

addEventListener("pointerover", event => {
  const number = event.target.closest("[data-source]");
  if (!number || number.title) return;
  const names = [...new Set(files(JSON.parse(number.dataset.source)))];
  number.title = `${number.dataset.value}\nfrom\n${names.join("\n")}`;
});
function open(number) {
  panel.hidden = !number;
  if (!number) return;
  const values = number.dataset.values && JSON.parse(number.dataset.values);
  const head = document.createElement("b");
  head.textContent = number.dataset.value;
  body.replaceChildren(head, " = ", tree(JSON.parse(number.dataset.source), values));
}
addEventListener("click", event => {
  if (!panel.contains(event.target)) open(event.target.closest("[data-source]"));
  else if (event.target.closest("button")) panel.hidden = true;
});

// One number of a table takes part in Tab's order; arrow keys go on to its neighbours.
for (const table of document.querySelectorAll("table")) {
  const first = table.querySelector("[data-source]");
  if (first) first.tabIndex = 0;
}
const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
addEventListener("keydown", event => {
  if (event.key === "Escape") panel.hidden = true;
  const number = event.target.closest?.("[data-source]");
  if (!number) return;
  if (event.key === "Enter" || event.key === " ") {
    open(number);
    event.preventDefault();
  }
  const step = STEPS[event.key], cell = number.closest("td"), row = cell?.parentElement;
  if (!step || !row) return;
  const rows = row.closest("table").rows;
  let next = cell;
  do {
    next = rows[next.parentElement.rowIndex + step[0]]?.cells[next.cellIndex + step[1]];
  } while (next && !next.matches("[data-source]") && !next.querySelector("[data-source]"));
  if (!next) return;
  const target = next.matches("[data-source]") ? next : next.querySelector("[data-source]");
  number.tabIndex = -1;
  target.tabIndex = 0;
  target.focus();
  event.preventDefault();
});
