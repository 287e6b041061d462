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
addEventListener("click", event => {
  if (panel.contains(event.target)) {
    if (event.target.closest("button")) panel.hidden = true;
    return;
  }
  const number = event.target.closest("[data-source]");
  panel.hidden = !number;
  if (!number) return;
  const values = number.dataset.values && JSON.parse(number.dataset.values);
  const head = document.createElement("b");
  head.textContent = number.dataset.value;
  body.replaceChildren(head, " = ", tree(JSON.parse(number.dataset.source), values));
});
addEventListener("keydown", event => { if (event.key === "Escape") panel.hidden = true; });
