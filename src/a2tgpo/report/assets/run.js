// The run: its state, its evaluations, its figures.

let smoothing = null;

async function showRun() {
  const longest = Math.max(0, ...report.figures.flatMap((figure) => figure.series.map((series) => series.x.length)));
  smoothing ??= longest > 60 ? 5 : 1;
  const figures = el("div", { id: "figures" });
  const view = el(
    "div",
    { class: "page" },
    runTable(),
    findingsList(),
    await openingCard(),
    recipes(),
    endingsBars(),
    report.figures.length ? null : el("p", { class: "empty" }, "No step has been logged yet."),
    figures,
  );
  $view.replaceChildren(view);
  await drawFigures(figures);
}

function runTable() {
  const measures = measuresOf(evaluations());
  const held = measures.length > 0 && `held-out ${measures.map((measure) => MEASURES[measure]).join(", ")}`;
  const names = [
    "run",
    "state",
    "method",
    "policy",
    "seed",
    held,
    "rollouts",
    "in this page",
  ];
  const numeric = ["seed", held, "rollouts", "in this page"];
  const head = names
    .filter(Boolean)
    .map((name) => el("th", { scope: "col", class: numeric.includes(name) ? "num" : null }, name));
  const rows = report.runs.map((run, number) => {
    const arm = report.arms.findIndex((one) => one.runs.includes(run.name));
    const steps = `step ${run.step}${isNumber(run.max_steps) && run.max_steps > 0 ? ` of ${run.max_steps}` : ""}`;
    const all = isNumber(run.max_steps) && run.max_steps > 0 && run.step >= run.max_steps;
    const left = all ? "no final table" : "not finished";
    const state = run.finished ? `finished, ${steps}` : run.step ? `${steps}, ${left}` : "no step logged";
    const bad = run.findings.some(({ level }) => level === "bad");
    const page =
      run.n_shown < run.n_rollouts ? `${count(run.n_shown)}, ${run.steps.length} of ${run.n_batches} batches` : "all";
    return el(
      "tr",
      {},
      el(
        "th",
        { scope: "row" },
        el("i", { class: "swatch", style: { background: `var(--arm-${arm % 6})` } }),
        el("a", { href: `#rollouts/${number}` }, visible(run.name)),
      ),
      el("td", { class: bad ? "broken" : null }, bad ? "! " : "", state),
      el("td", {}, run.method || "–"),
      el("td", {}, run.model || "–"),
      el("td", { class: "num" }, run.seed === null ? "–" : String(run.seed)),
      held && el("td", { class: "num" }, heldOut(run)),
      el("td", { class: "num" }, count(run.n_rollouts)),
      el("td", { class: run.n_shown < run.n_rollouts ? "num fewer" : "num" }, run.n_rollouts ? page : "–"),
    );
  });
  return table(head, rows, { class: "list", "aria-label": "Runs" });
}

// Greedy exact match, success or reward, before and after the updates where both are known.
function heldOut(run) {
  const greedy = Object.entries(run.evaluations).filter(
    ([name, one]) => name.endsWith("greedy") && measuresOf([one]).length,
  );
  return greedy.map(([, one]) => fixed(one[one.measure]?.value, 3)).join(" → ") || "–";
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
    el("span", { class: "hint" }, seeds, "Click a point for its rollouts; drag to zoom, double-click to see all."),
    el("label", {}, "Curves ", choice("Smoothing of the curves", options, smoothing, change)),
  ];
}

async function drawFigures(container) {
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
  await metricsSection(container);
}
