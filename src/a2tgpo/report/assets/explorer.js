// The list of rollouts: filters, order, search.

const PAGE = 150;

const FILTERS = {
  correct: ["correct", (r) => r.correct, () => "The answer matches a gold alias"],
  wrong: ["wrong", (r) => !r.correct, () => "No answer, or another one"],
  malformed: [
    "malformed",
    (r) => r.termination !== null && r.termination !== "answered",
    () => "Ended in any way but with an answer",
  ],
  clipped: [
    "clipped",
    (r) => r.update !== null && r.update.clipped.some(Boolean),
    () => "A clip bound held a turn's gradient back, where the update was logged",
  ],
  disagree: [
    "gain ≠ outcome",
    (r) => r.disagrees,
    () => `p(gold answer) rose by more than ${report.disagree} and the answer is wrong, or fell so and it is right`,
  ],
};

const highest = (values) => Math.max(-Infinity, ...values.filter(isNumber));
const ORDERS = {
  step: ["as drawn", () => 0],
  gain: ["biggest gain", (r) => -highest(r.gain)],
  loss: ["biggest loss of likelihood", (r) => -highest(r.gain.map((gain) => -gain))],
  advantage: ["biggest advantage", (r) => -highest(r.advantage.map(Math.abs))],
  turns: ["most turns", (r) => -r.advantage.length],
  tokens: ["most tokens", (r) => -r.tokens[1]],
};

const list = {
  run: 0,
  step: "all",
  order: "step",
  filters: new Set(),
  query: "",
  shown: PAGE,
  found: [],
  texts: null,
  last: null,
};

async function findRollouts() {
  const index = await runIndex(list.run);
  const query = list.query.trim().toLowerCase();
  if (query) list.texts = await searchTexts(list.run, index.rollouts);
  const found = index.rollouts.filter(
    (rollout, i) =>
      (list.step === "all" || rollout.step === Number(list.step)) &&
      [...list.filters].every((name) => FILTERS[name][1](rollout)) &&
      (!query || list.texts[i].includes(query)),
  );
  const key = ORDERS[list.order][1];
  list.found = found
    .map((rollout) => [key(rollout), rollout])
    .sort((a, b) => a[0] - b[0])
    .map(([, rollout]) => rollout);
}

const searchable = new Map();

function searchTexts(run, rollouts) {
  if (!searchable.has(run)) {
    const texts = rollouts.map(async (rollout) => {
      const segments = await segmentsOf(run, rollout);
      const said = [rollout.question, rollout.id, ...rollout.answer, ...segments.map((segment) => segment.text)];
      return said.join("\n").toLowerCase();
    });
    searchable.set(run, Promise.all(texts));
  }
  return searchable.get(run);
}

async function showExplorer(run, content) {
  if (!report.runs[run]?.steps.length) {
    const nothing = el("p", { class: "empty" }, "No rollouts of this run are in the page.");
    $view.replaceChildren(el("div", { class: "page" }, runChoice(), nothing));
    return;
  }
  if (run !== list.run) Object.assign(list, { run, step: "all", shown: PAGE });
  if (!document.getElementById("list") || document.getElementById("explorer").dataset.run !== String(run)) {
    $view.replaceChildren(
      el(
        "div",
        { id: "explorer", "data-run": String(run) },
        el(
          "aside",
          { "aria-label": "Find rollouts" },
          controls(),
          el("nav", { id: "list", "aria-label": "Rollouts", tabindex: "-1" }),
        ),
        el("div", { id: "content", tabindex: "-1" }),
      ),
    );
    await updateList();
  }
  const asked = location.hash;
  const shown = await content();
  if (location.hash !== asked) return;
  const pane = document.getElementById("content");
  pane.replaceChildren(shown);
  pane.scrollTop = 0;
  pane.focus({ preventScroll: true });
  markCurrent();
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

function controls() {
  const steps = [["all", "all steps"], ...report.runs[list.run].steps.map((step) => [step, `step ${step}`])];
  const search = el("input", {
    type: "search",
    id: "search",
    placeholder: "Search all texts  ( / )",
    "aria-label": "Search questions, turns and results",
    value: list.query,
    oninput: () => change({ query: search.value }),
  });
  return el(
    "div",
    { class: "controls" },
    runChoice(),
    search,
    el(
      "div",
      { class: "pair" },
      choice("Step", steps, list.step, (step) => change({ step })),
      choice(
        "Order",
        Object.entries(ORDERS).map(([key, [name]]) => [key, name]),
        list.order,
        (order) => change({ order }),
      ),
    ),
    el(
      "div",
      { class: "chips", role: "group", "aria-label": "Filters" },
      Object.entries(FILTERS).map(([key, [name, , title]]) => {
        const chip = toggle(
          name,
          list.filters.has(key),
          () => {
            list.filters.has(key) ? list.filters.delete(key) : list.filters.add(key);
            chip.setAttribute("aria-pressed", String(list.filters.has(key)));
            change({});
          },
          title(),
        );
        return chip;
      }),
    ),
    el("output", { id: "count", "aria-live": "polite" }),
  );
}

async function change(changes) {
  Object.assign(list, changes, { shown: PAGE });
  await updateList();
  markCurrent();
}
