// Figures without axes: bars of seconds, matrices of turn by turn.

function parts(figure, arms) {
  const most = Math.max(...figure.series.map((series) => series.y.reduce((sum, y) => sum + y, 0)));
  const names = figure.series[0].x;
  const bars = figure.series.map((series) => {
    const total = series.y.reduce((sum, y) => sum + y, 0);
    return el(
      "div",
      { class: "parts-row" },
      arms.length > 1 && el("span", { class: "parts-name" }, arms[series.arm].name),
      el(
        "div",
        { class: "parts-bar", style: { width: `${(100 * total) / most}%` } },
        series.y.map((y, i) =>
          el("i", { class: `part-${i}`, style: { flex: `${y} 0 0` }, title: `${names[i]}: ${short(y)} s` }),
        ),
      ),
    );
  });
  const rows = names.map((name, i) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, el("i", { class: `swatch part-${i}` }), name),
      figure.series.map((series) => {
        const total = series.y.reduce((sum, y) => sum + y, 0);
        return [el("td", {}, `${short(series.y[i])} s`), el("td", {}, percent(series.y[i] / total))];
      }),
    ),
  );
  return el("div", {}, bars, el("table", { class: "parts-table" }, el("tbody", {}, rows)));
}

function matrices(figure, arms) {
  const byArm = arms
    .map((_, arm) => figure.series.filter((series) => series.arm === arm))
    .filter((rows) => rows.length);
  return el(
    "div",
    { class: "matrices" },
    byArm.map((rows) => matrix(rows, arms)),
  );
}

function matrix(rows, arms) {
  const cell = (y, diagonal) =>
    el(
      "td",
      { class: diagonal ? "cell diagonal" : "cell", style: { "--strength": isNumber(y) ? y.toFixed(3) : "0" } },
      fixed(y),
    );
  return el(
    "table",
    { class: "matrix" },
    arms.length > 1 && el("caption", {}, arms[rows[0].arm].name),
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        el("td"),
        rows[0].x.map((x) => el("th", { scope: "col" }, String(x))),
      ),
    ),
    el(
      "tbody",
      {},
      rows.map((row, i) =>
        el(
          "tr",
          {},
          el("th", { scope: "row" }, row.label),
          row.y.map((y, k) => cell(y, i === k)),
        ),
      ),
    ),
  );
}
