// The first screen: one view of DATA.explorer as a table to sort, filter and copy.
{
  const views = DATA.explorer.views;
  const root = document.getElementById("explorer");
  const selects = [...root.querySelectorAll("select")];
  const filter = root.querySelector("input[type=search]");
  const table = root.querySelector("table");
  const status = root.querySelector("[role=status]");
  const text = root.querySelector("textarea");
  const LABELS = { mean: "mean over seeds", all: "all severities" };
  let view = null, sorted = null;  // sorted: {column, down}

  function choose() {
    let left = views;
    selects.forEach((select, i) => {
      const values = [...new Set(left.map(own => own.choice[i]))];
      fillSelect(select, values.map(value => [value, LABELS[value] ?? value]), select.value);
      select.parentElement.hidden = values.length < 2;
      left = left.filter(own => own.choice[i] === select.value);
    });
    if (view !== left[0]) sorted = null;
    view = left[0];
    draw();
  }

  function chosen() {
    const terms = filter.value.toLowerCase().split(/[\s,]+/).filter(Boolean);
    const matches = (name, words) => words.some(word => name.toLowerCase().includes(word));
    const some = names => terms.filter(term => names.some(name => matches(name, [term])));
    const ofRows = some(view.rows.map(row => row.name)), ofColumns = some(view.columns.map(c => c.name));
    const known = new Set([...ofRows, ...ofColumns]);
    const lost = terms.some(term => !known.has(term));
    const columns = view.columns.map((_, j) => j)
      .filter(j => !ofColumns.length || matches(view.columns[j].name, ofColumns));
    let rows = lost ? [] : view.rows.filter(row => !off.has(numberOf(row.name)))
      .filter(row => !ofRows.length || matches(row.name, ofRows));
    if (sorted) {
      const value = row => row.cells[sorted.column] ? Number(row.cells[sorted.column][0]) : null;
      const names = (a, b) => (sorted.down ? -1 : 1) * a.name.localeCompare(b.name);
      rows = [...rows].sort((a, b) => {
        if (sorted.column < 0) return names(a, b);
        const [x, y] = [value(a), value(b)];
        if (x === null || y === null) return (x === null) - (y === null);
        return sorted.down ? y - x : x - y;
      });
    }
    return { rows, columns };
  }

  function numberOf(name) { return DATA.methods.findIndex(method => method.name === name); }

  function heading(name, column, lowest) {
    const own = sorted && sorted.column === column;
    const button = make("button", { type: "button" }, name,
      make("span", { class: "arrow", "aria-hidden": "true" }, own ? (sorted.down ? "\u25bc" : "\u25b2") : "\u2195"));
    button.addEventListener("click", () => {
      const first = column >= 0 && !lowest;  // best first, then the other way, then as given
      if (!own) sorted = { column, down: first };
      else if (sorted.down === first) sorted = { column, down: !first };
      else sorted = null;
      draw();
      table.querySelector(`th[data-column="${column}"] button`)?.focus();
    });
    const order = own ? (sorted.down ? "descending" : "ascending") : "none";
    return make("th", { scope: "col", "data-column": column, "aria-sort": order }, button);
  }

  function draw() {
    const { rows, columns } = chosen();
    const hasRules = view.rows.some(row => row.rule);
    const head = make("tr", {}, heading("method", -1, true),
      ...columns.map(j => heading(view.columns[j].name, j, view.columns[j].best === "lowest")),
      hasRules ? make("th", { scope: "col", class: "left" }, "rule") : null,
      make("th", { scope: "col" }, "seeds"));
    const lines = rows.map(row => {
      const number = numberOf(row.name);
      const cells = columns.map(j => cellOf(row.cells[j], view.columns[j].name, row.name));
      return make("tr", { class: DATA.methods[number]?.highlight ? "highlight" : null },
        make("th", { scope: "row" }, number < 0 ? null : swatch(number), row.name), ...cells,
        hasRules ? make("td", { class: "left" }, row.rule || "-") : null, make("td", {}, row.seeds));
    });
    const told = view.choice.map((c, i) => !c ? "" : LABELS[c] ?? `${["", "", "", "severity ", "seed "][i]}${c}`);
    const caption = `${told.filter(Boolean).join(", ")}. ${view.measure}.`;
    root.querySelector(".caption").textContent = caption;
    table.replaceChildren(make("thead", {}, head), make("tbody", {}, ...lines));
    enterTable(table);
    root.querySelector(".rule").textContent = view.rule;
    root.querySelector(".notes").replaceChildren(...view.notes.map(note => make("li", {}, note)));
    root.querySelector("details").hidden = !view.notes.length;
    status.textContent = rows.length ? "" : "Nothing fits the filter and the methods chosen.";
    table.hidden = !rows.length;
    text.hidden = true;
  }

  function cellOf(cell, column, name) {
    if (!cell) return make("td", { class: "missing" }, "-");
    const [shown, std, mark, source, said] = cell;
    const element = make("td", { class: "number cell", tabindex: "-1", role: "button" },
      mark ? make("strong", {}, shown.replace("-", "\u2212")) : shown.replace("-", "\u2212"),
      std ? make("span", { class: "std" }, ` \u00b1 ${std}`) : null);
    element.origin = { value: `${name}, ${column}: ${shown}${std ? ` \u00b1 ${std}` : ""}`, source, said };
    return element;
  }

  const quoted = value => /[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
  const safe = value => /^\s*[=+\-@]/.test(value) ? `'${value}` : value;  // no formula
  const FORMATS = {
    CSV({ rows, columns }) {
      const head = ["method", ...columns.flatMap(j => [view.columns[j].name, `${view.columns[j].name} std`])];
      const lines = rows.map(row =>
        [safe(row.name), ...columns.flatMap(j => row.cells[j] ? row.cells[j].slice(0, 2) : ["", ""])]);
      return [head.map(safe), ...lines].map(line => line.map(quoted).join(",")).join("\n") + "\n";
    },
    Markdown({ rows, columns }) {
      const cell = own => !own ? "-" : (own[2] ? `**${own[0]}**` : own[0]) + (own[1] ? ` \u00b1 ${own[1]}` : "");
      const lines = [["method", ...columns.map(j => view.columns[j].markdown)],
        ["---", ...columns.map(() => "---:")],
        ...rows.map(row => [row.markdown, ...columns.map(j => cell(row.cells[j]))])];
      return lines.map(line => `| ${line.join(" | ")} |`).join("\n") + "\n";
    },
    LaTeX({ rows, columns }) {
      const cell = own => !own ? "-"
        : `$${own[2] ? `\\mathbf{${own[0]}}` : own[0]}${own[1] ? ` \\pm ${own[1]}` : ""}$`;
      const lines = rows.map(row => [row.latex, ...columns.map(j => cell(row.cells[j]))].join(" & ") + " \\\\");
      return [`% ${view.rule}`, `\\begin{tabular}{l${"r".repeat(columns.length)}}`, "\\toprule",
        ["method", ...columns.map(j => view.columns[j].latex)].join(" & ") + " \\\\", "\\midrule",
        ...lines, "\\bottomrule", "\\end{tabular}"].join("\n") + "\n";
    },
  };
  for (const button of root.querySelectorAll(".copy button")) {
    button.addEventListener("click", async () => {
      text.value = FORMATS[button.textContent](chosen());
      text.hidden = false;
      text.select();
      try {
        await navigator.clipboard.writeText(text.value);
        status.textContent = `Copied as ${button.textContent}.`;
      } catch {
        status.textContent = "This browser does not copy by itself: the text is selected, press Ctrl+C.";
      }
    });
  }

  const chips = root.querySelector(".chips");
  DATA.methods.forEach((method, number) => {
    const chip = make("button", { type: "button", "aria-pressed": "true" }, swatch(number), method.name);
    chip.addEventListener("click", () => {
      if (!off.delete(number)) off.add(number);
      chip.setAttribute("aria-pressed", String(!off.has(number)));
      applyOff();
      draw();
    });
    chips.append(chip);
  });
  chips.hidden = DATA.methods.length < 2;
  for (const select of selects) select.addEventListener("change", choose);
  filter.addEventListener("input", draw);
  root.querySelector("form").addEventListener("submit", event => event.preventDefault());
  choose();
}
