// Rollouts: the list with its search and filters beside whatever is open.

async function showExplorer(run, content) {
  marking = list.pattern;
  if (!report.runs[run]?.steps.length) {
    const nothing = el("p", { class: "empty" }, "No rollouts of this run are in the page.");
    $view.replaceChildren(el("div", { class: "page" }, runChoice(), nothing));
    return;
  }
  if (run !== list.run) Object.assign(list, structuredClone(NONE), { run, shown: PAGE_ROWS });
  if (!document.getElementById("list") || document.getElementById("explorer").dataset.run !== String(run)) {
    await drawExplorer(run);
  }
  const asked = location.hash;
  const shownNow = await content();
  if (location.hash !== asked) return;
  const pane = document.getElementById("content");
  pane.replaceChildren(shownNow);
  pane.scrollTop = 0;
  // In a narrow window there is room for the list or for what is open.
  document.getElementById("explorer").dataset.open = asked.startsWith("#rollouts") ? "list" : "content";
  if (!document.activeElement?.closest(".controls")) pane.focus({ preventScroll: true });
  markCurrent();
}

async function drawExplorer(run) {
  const { rollouts } = await runIndex(run);
  $view.replaceChildren(
    el(
      "div",
      { id: "explorer", "data-run": String(run) },
      el(
        "aside",
        { "aria-label": "Find rollouts" },
        controls(rollouts),
        el("nav", { id: "list", "aria-label": "Rollouts", tabindex: "-1" }),
      ),
      el("div", { id: "content", tabindex: "-1" }),
    ),
  );
  await updateList();
}

function runChoice() {
  if (report.runs.length < 2) return null;
  return choice(
    "Run",
    report.runs.map((run, i) => [i, run.name]),
    list.run,
    (run) => go(`#rollouts/${run}`),
  );
}

function controls(rollouts) {
  const steps = [["all", "all steps"], ...report.runs[list.run].steps.map((step) => [step, `step ${step}`])];
  const search = el("input", {
    type: "search",
    id: "search",
    placeholder: "Search  ( / )",
    "aria-label": "Search questions, turns and results",
    value: list.query,
    oninput: () => change({ query: search.value }, true),
  });
  const named = (options) => Object.entries(options).map(([key, [name]]) => [key, name]);
  return el(
    "div",
    { class: "controls" },
    runChoice(),
    el(
      "div",
      { class: "pair" },
      search,
      choice("Search in", named(SCOPES), list.scope, (scope) => change({ scope }, true)),
    ),
    el(
      "div",
      { class: "pair" },
      choice("Step", steps, list.step, (step) => change({ step })),
      choice("Order", named(ORDERS), list.order, (order) => change({ order })),
    ),
    list.deep
      ? el(
          "p",
          { class: "hint" },
          `With a turn ${list.deep} that was judged. `,
          el("button", { type: "button", class: "small", onclick: clearFilters }, "Clear"),
        )
      : null,
    quickFilters(rollouts),
    moreFilters(rollouts),
    el("output", { id: "count", "aria-live": "polite" }),
  );
}

function quickFilters(rollouts) {
  const rare = ["badly", "clipped", "disagree", "broken"];
  const useful = Object.entries(FILTERS).filter(([key, [, test]]) => !rare.includes(key) || rollouts.some(test));
  const measures = new Set(rollouts.map((one) => one.measure));
  const words = measures.size === 1 ? WORDS[[...measures][0]] : WORDS.exact_match;
  const chips = useful.map(([key, [usual, , title]]) => {
    const name = { correct: words[0], wrong: words[1] }[key] ?? usual;
    const press = () => {
      list.filters.has(key) ? list.filters.delete(key) : list.filters.add(key);
      chip.setAttribute("aria-pressed", String(list.filters.has(key)));
      change({});
    };
    const chip = toggle(name, list.filters.has(key), press, title());
    return chip;
  });
  return el("div", { class: "chips", role: "group", "aria-label": "Filters" }, chips);
}

function moreFilters(rollouts) {
  const selects = Object.entries(FIELDS).map(([key, field]) => {
    const values = choicesOf(rollouts, field);
    const options = [["", `any ${field[0]}`], ...(values ?? [])];
    const choose = (value) => {
      list.fields[key] = value;
      change({});
    };
    return values && choice(field[0], options, list.fields[key] ?? "", choose);
  });
  const ranges = Object.entries(RANGES).map(([key, [name, values]]) => {
    if (!rollouts.some((rollout) => values(rollout).some(isNumber))) return null;
    const ends = (list.ranges[key] ??= ["", ""]);
    const end = (i, word) => {
      const input = el("input", {
        type: "number",
        step: "any",
        placeholder: word,
        "aria-label": `${name}, ${word}`,
        value: ends[i],
        oninput: () => {
          ends[i] = input.value;
          change({});
        },
      });
      return input;
    };
    return el("div", { class: "range" }, el("span", {}, name), end(0, "from"), end(1, "to"));
  });
  const set = Object.values(list.fields).some(Boolean) || Object.values(list.ranges).flat().some(Boolean);
  return el(
    "details",
    { class: "more-filters", open: set },
    el("summary", {}, "More filters"),
    el("div", { class: "pair" }, selects),
    ranges,
    el("button", { type: "button", onclick: clearFilters }, "Clear all"),
  );
}

async function clearFilters() {
  Object.assign(list, structuredClone(NONE), { shown: PAGE_ROWS });
  await drawExplorer(list.run);
  await route();
}

// A search also marks what it finds in the rollout that is open.
async function change(changes, searched = false) {
  Object.assign(list, changes, { shown: PAGE_ROWS });
  await updateList();
  markCurrent();
  if (searched && /^#(rollout|group|pair)\//.test(location.hash)) await route();
}

// Rollouts of a chart's point, bar or box: what else was filtered no longer is.
function openFound(run, wanted) {
  Object.assign(list, structuredClone(NONE), { run, shown: PAGE_ROWS, ...wanted });
  $view.replaceChildren();
  go(`#rollouts/${run}`);
}
