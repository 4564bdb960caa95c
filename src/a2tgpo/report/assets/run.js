// The run: its state, its evaluations, its figures.

let smoothing = null;

function showRun() {
  const longest = Math.max(0, ...report.figures.flatMap((figure) => figure.series.map((series) => series.x.length)));
  smoothing ??= longest > 60 ? 5 : 1;
  const figures = el("div", { id: "figures" });
  const view = el(
    "div",
    { class: "page" },
    notices(),
    runTable(),
    report.figures.length ? null : el("p", { class: "empty" }, "No step has been logged yet."),
    figures,
    recipes(),
  );
  $view.replaceChildren(view);
  drawFigures(figures);
}

function notices() {
  const all = report.runs.flatMap((run) =>
    run.notices.map((notice) => (report.runs.length > 1 ? `${run.name}: ${notice}` : notice)),
  );
  return all.length
    ? el(
        "ul",
        { class: "note", "aria-label": "Notices" },
        all.map((notice) => el("li", {}, notice)),
      )
    : null;
}

function runTable() {
  const head = ["run", "state", "policy", "seed", "held-out exact match", "rollouts", "in this page"].map((name, i) =>
    el("th", { scope: "col", class: i > 2 ? "num" : null }, name),
  );
  const rows = report.runs.map((run, number) => {
    const arm = report.arms.findIndex((one) => one.runs.includes(run.name));
    const steps = `step ${run.step}${run.max_steps ? ` of ${run.max_steps}` : ""}`;
    const shown = run.steps.length < run.n_batches ? `${run.steps.length} of ${run.n_batches} batches` : "all";
    return el(
      "tr",
      {},
      el(
        "th",
        { scope: "row" },
        el("i", { class: "swatch", style: { background: `var(--arm-${arm % 6})` } }),
        el("a", { href: `#rollouts/${number}` }, run.name),
      ),
      el("td", {}, run.finished ? `finished, ${steps}` : run.step ? `${steps}, not finished` : "no step logged"),
      el("td", {}, run.model || "–"),
      el("td", { class: "num" }, run.seed === null ? "–" : String(run.seed)),
      el("td", { class: "num" }, heldOut(run)),
      el("td", { class: "num" }, count(run.n_rollouts)),
      el("td", { class: "num" }, run.n_rollouts ? shown : "–"),
    );
  });
  return table(head, rows, { class: "list", "aria-label": "Runs" });
}

// Greedy exact match, before and after the updates where both are known.
function heldOut(run) {
  const greedy = Object.entries(run.evaluations).filter(([name]) => name.endsWith("greedy"));
  return greedy.map(([, one]) => fixed(one.exact_match.value, 3)).join(" → ") || "–";
}

// What the runs were asked to do; of several, first what they were not asked alike.
function recipes() {
  const configs = report.runs.map((run) => run.config);
  const value = (config, key) =>
    key in config ? (typeof config[key] === "string" ? config[key] : JSON.stringify(config[key])) : "–";
  const keys = [...new Set(configs.flatMap(Object.keys))].sort();
  const differs = (key) => new Set(configs.map((config) => value(config, key))).size > 1;
  const rows = [...keys.filter(differs), ...keys.filter((key) => !differs(key))].map((key) =>
    el(
      "tr",
      { class: differs(key) ? "differs" : null },
      el("th", { scope: "row" }, key),
      configs.map((config) => el("td", { dir: "auto" }, value(config, key))),
    ),
  );
  if (!rows.length) return null;
  const head = ["key", ...report.runs.map((run) => run.name)].map((name) => el("th", { scope: "col" }, name));
  return el(
    "details",
    { class: "recipes", open: configs.length > 1 },
    el("summary", {}, configs.length > 1 ? "Recipes" : "Recipe"),
    table(head, rows, { class: "list", "aria-label": "Recipes" }),
  );
}

function toolbar(container) {
  const options = [1, 5, 15, 45].map((window) => [window, window === 1 ? "as logged" : `mean of ${window} points`]);
  const change = (window) => {
    smoothing = Number(window);
    drawFigures(container);
  };
  const arms = report.arms.map((arm, i) =>
    el("span", {}, el("i", { class: "swatch", style: { background: `var(--arm-${i % 6})` } }), arm.name),
  );
  const seeds =
    report.arms.some((arm) => arm.runs.length > 1) &&
    "Over several seeds: their mean, and a band from the lowest to the highest. ";
  return [
    report.arms.length > 1 && el("p", { class: "legend" }, arms),
    el("span", { class: "hint" }, seeds, "Drag across a chart to zoom, double-click to see all."),
    el("label", {}, "Curves ", choice("Smoothing of the curves", options, smoothing, change)),
  ];
}

function drawFigures(container) {
  clearCharts();
  const byId = new Map(report.figures.map((figure) => [figure.id, figure]));
  const sections = report.sections
    .map(([name, ids]) => [name, ids.filter((id) => byId.has(id))])
    .filter(([, ids]) => ids.length);
  container.replaceChildren(
    ...sections.map(([name, ids], i) =>
      el(
        "section",
        { "aria-label": name },
        el("div", { class: "toolbar" }, el("h2", {}, name), i === 0 && toolbar(container)),
        el(
          "div",
          { class: "grid" },
          ids.map((id) => figureElement(byId.get(id), report.arms, smoothing)),
        ),
      ),
    ),
  );
}
