// Answers to single images, confusion, reliability; and two runs' settings. Drawn when opened.
function whenOpen(id, draw) {
  const part = document.getElementById(id)?.closest("details");
  let isDrawn = false;
  part?.addEventListener("toggle", () => {
    if (part.open && !isDrawn) { isDrawn = true; draw(document.getElementById(id)); }
  });
}

function box(title, table) {
  return make("div", { class: "box" }, make("div", { class: "caption" }, title),
    make("div", { class: "scroll", tabindex: "0" }, table));
}

whenOpen("answer-tools", root => {
  const [which, order, method] = root.querySelectorAll("select");
  const filter = root.querySelector("input[type=search]");
  const gallery = root.querySelector(".gallery"), detail = root.querySelector(".detail");
  const status = root.querySelector("[role=status]");
  const nameOf = number => DATA.methods[number].name;
  fillSelect(which, DATA.tests.map((test, i) => [String(i), test.title]), "0");

  function choose() {
    const test = DATA.tests[Number(which.value)];
    const methods = test.methods.map((number, i) => [String(i), nameOf(number)]);
    fillSelect(order, [["", "methods disagree"], ...methods.map(([i, name]) => [i, `errors of ${name}, most confident first`])],
      order.value);
    fillSelect(method, methods, method.value || String(methods.length - 1));
    drawImages(test);
    drawDetail(test, Number(method.value));
  }

  function drawImages(test) {
    const own = order.value === "" ? null : Number(order.value);
    const word = filter.value.toLowerCase();
    const right = (image, i) => image.answers[i][0] === image.label;
    const share = image => image.answers.filter((_, i) => right(image, i)).length / image.answers.length;
    let images = test.images.filter(image => !word || test.classes[image.label].toLowerCase().includes(word));
    images = own === null
      ? images.filter(image => share(image) > 0 && share(image) < 1)
        .sort((a, b) => Math.abs(share(a) - 0.5) - Math.abs(share(b) - 0.5))
      : images.filter(image => !right(image, own)).sort((a, b) => b.answers[own][1] - a.answers[own][1]);
    status.textContent = images.length
      ? `${images.length} images of ${test.count}: the page keeps those that methods disagree on most, and each method's most confident errors.`
      : "No image on the page fits.";
    gallery.replaceChildren(...images.map(image => {
      const rows = image.answers.map(([answer, probability], i) => {
        const isRight = answer === image.label;
        return make("tr", { "data-method": test.methods[i] },
          make("th", { scope: "row" }, swatch(test.methods[i]), nameOf(test.methods[i])),
          make("td", { class: isRight ? "right" : "wrong" }, `${isRight ? "\u2713" : "\u2717"} ${test.classes[answer]}`),
          make("td", {}, `${Math.round(100 * probability)}%`));
      });
      const picture = image.picture
        ? make("img", { src: image.picture, alt: `test image of class ${test.classes[image.label]}`, loading: "lazy" })
        : null;
      return make("article", { class: "card" }, picture,
        make("h4", {}, test.classes[image.label], make("span", {}, image.path)),
        make("table", { "aria-label": `Answers to ${image.path}` }, make("tbody", {}, ...rows)));
    }));
    applyOff();
  }

  function drawDetail(test, i) {
    const found = test.summaries[i];
    const said = `${nameOf(test.methods[i])}, seed ${test.seeds[i]}: accuracy ${found.accuracy.toFixed(2)}% on ${test.count} images, `
      + `${found.errors} errors, ECE ${found.ece.toFixed(2)}%, NLL ${found.nll.toFixed(3)}.`;
    detail.replaceChildren(make("p", {}, said, " From ", make("code", {}, test.files[i]), "."),
      reliability(found.bins), found.matrix ? matrix(test, found.matrix) : pairs(test, found.pairs));
  }

  function reliability(bins) {
    const [x, y, side] = [48, 12, 240], most = Math.max(...bins.map(bin => bin[0]), 1);
    const svg = make("svg", { viewBox: "0 0 320 316", role: "img", "aria-label": "Reliability diagram: accuracy by confidence" });
    for (const at of [0, 0.25, 0.5, 0.75, 1]) {
      const [px, py] = [x + side * at, y + side * (1 - at)];
      svg.append(make("line", { x1: x, x2: x + side, y1: py, y2: py, class: "grid" }),
        make("text", { x: x - 6, y: py + 4, "text-anchor": "end" }, String(100 * at)),
        make("text", { x: px, y: y + side + 18, "text-anchor": "middle" }, String(100 * at)));
    }
    bins.forEach(([count, confidence, accuracy], k) => {
      if (!count) return;
      const width = side / bins.length, low = k / bins.length;
      const told = `confidence ${(100 * low).toFixed(0)} to ${(100 * (k + 1) / bins.length).toFixed(0)}%: ${count} images, `
        + `mean confidence ${(100 * confidence).toFixed(1)}%, accuracy ${(100 * accuracy).toFixed(1)}%, `
        + `${Math.round(count * (1 - accuracy))} errors`;
      svg.append(make("rect", { x: x + side * low + 1, y: y + side * (1 - accuracy), width: width - 2, height: side * accuracy + 0.5,
        class: "bar point", "data-tip": told, tabindex: "-1", role: "img", "aria-label": told, style: `opacity:${0.35 + 0.65 * Math.sqrt(count / most)}` }));
    });
    const first = svg.querySelector(".point");
    if (first) first.setAttribute("tabindex", "0");
    svg.append(make("line", { x1: x, y1: y + side, x2: x + side, y2: y, class: "diagonal" }),
      make("text", { x: x + side / 2, y: y + side + 40, "text-anchor": "middle" }, "confidence %"),
      make("text", { x: 12, y: y + side / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${y + side / 2})` }, "accuracy %"));
    return make("figure", { class: "reliability" }, svg, make("figcaption", {},
      "Reliability: accuracy by confidence, 15 bins; the stronger, the more images. On the diagonal confidence is what it says; below it the model is too sure."));
  }

  function matrix(test, rows) {
    const head = make("tr", {}, make("td", {}), ...test.classes.map(name => make("th", { scope: "col" }, name)));
    const lines = rows.map((row, i) => {
      const total = row.reduce((a, b) => a + b, 0) || 1;
      return make("tr", {}, make("th", { scope: "row" }, test.classes[i]), ...row.map((count, j) => make("td", {
        "data-tip": `${count} of ${total} images of ${test.classes[i]} answered ${test.classes[j]}`,
        style: count ? `--heat:${(0.75 * count / total).toFixed(3)}` : null,
        class: i === j ? "hit" : "miss",
      }, count ? String(count) : "")));
    });
    return box("Confusion matrix: images of the class in the row, answered as the class in the column",
      make("table", { class: "heat confusion" }, make("thead", {}, head), make("tbody", {}, ...lines)));
  }

  function pairs(test, rows) {
    const head = make("tr", {}, ...["class", "answered", "images"].map(name => make("th", { scope: "col", class: "left" }, name)));
    const lines = rows.map(([i, j, count]) => make("tr", {}, make("th", { scope: "row" }, test.classes[i]),
      make("td", {}, test.classes[j]), make("td", {}, String(count))));
    return box(`Most confused of ${test.classes.length} classes`,
      make("table", { class: "words" }, make("thead", {}, head), make("tbody", {}, ...lines)));
  }

  for (const select of [which, order, method]) select.addEventListener("change", choose);
  filter.addEventListener("input", () => drawImages(DATA.tests[Number(which.value)]));
  root.querySelector("form").addEventListener("submit", event => event.preventDefault());
  choose();
});

whenOpen("settings-tools", root => {
  const [first, second] = root.querySelectorAll("select");
  const names = DATA.settings.map((run, i) => [String(i), run.name]);
  fillSelect(first, names, "0");
  fillSelect(second, names, String(names.length - 1));
  function draw() {
    const runs = [first, second].map(select => DATA.settings[Number(select.value)]);
    const keys = [...new Set(runs.flatMap(run => Object.keys(run.settings)))].sort();
    const lines = keys.filter(key => runs[0].settings[key] !== runs[1].settings[key]).map(key =>
      make("tr", {}, make("th", { scope: "row" }, make("code", {}, key)),
        ...runs.map(run => make("td", {}, key in run.settings ? make("code", {}, run.settings[key]) : "-"))));
    const head = make("tr", {}, make("th", { scope: "col" }, "setting"),
      ...runs.map(run => make("th", { scope: "col", class: "left" }, run.name)));
    root.querySelector(".detail").replaceChildren(
      box(`${lines.length} settings differ`, make("table", { class: "words" }, make("thead", {}, head), make("tbody", {}, ...lines))),
      make("p", { class: "lead" }, "From ", make("code", {}, runs[0].file), " and ", make("code", {}, runs[1].file), "."));
  }
  for (const select of [first, second]) select.addEventListener("change", draw);
  draw();
});

// The same image under every severity: one part of its card at a time.
for (const slider of document.querySelectorAll(".severity input")) {
  slider.addEventListener("input", () => {
    const parts = [...slider.closest(".card").querySelectorAll("[data-severity]")];
    parts.forEach((part, i) => { part.hidden = i !== Number(slider.value); });
    slider.parentElement.querySelector("output").textContent = parts[slider.value].dataset.severity;
  });
}
