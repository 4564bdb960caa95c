// Which rollouts the list shows: quick filters, ranges, order, and what a search looks through.

// What a rollout is called that its measure finds right, or not.
const WORDS = {
  exact_match: ["correct", "wrong"],
  success: ["solved", "not solved"],
  reward: ["reward above 0", "reward not above 0"],
};
const wordOf = (rollout) => WORDS[rollout.measure][rollout.correct ? 0 : 1];

const FILTERS = {
  correct: ["correct", (r) => r.correct, () => "By exact match, the environment's word, or a reward above 0"],
  wrong: ["wrong", (r) => !r.correct, () => "All others"],
  badly: [
    "ended badly",
    (r) => r.termination !== null && !report.ended_well.includes(r.termination),
    () => "Ended in any way but with an answer, or by the environment",
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
  broken: [
    "broken",
    (r) => !r.finite || !r.valid,
    () => "A number is missing, or the rollout was excluded from the loss",
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

// What a rollout has one value of, to choose among those that occur.
const FIELDS = {
  ending: ["ending", (r) => r.termination ?? "not logged", (value) => value.replaceAll("_", " ")],
  turns: ["turns", (r) => r.advantage.length, (value) => (value === 1 ? "1 turn" : `${value} turns`)],
  calls: ["tool calls", (r) => r.calls, (value) => (value === 1 ? "1 tool call" : `${value} tool calls`)],
  hops: ["hops", (r) => r.hops, (value) => (value === 1 ? "1 hop" : `${value} hops`)],
};

// What lies in a range: of the reward itself, of any one turn's gain.
const RANGES = {
  reward: ["reward", (r) => [r.reward]],
  gain: ["a turn's gain", (r) => r.gain],
};

const SCOPES = {
  all: ["all texts", (r, s) => [r.question, r.id, ...r.answer, r.observed, ...s.map((one) => one.text)]],
  question: ["questions", (r) => [r.question, r.id, ...r.answer]],
  policy: ["what the policy wrote", (_, s) => s.filter((one) => one.turn >= 0).map((one) => one.text)],
  read: ["what it read", (r, s) => [r.observed, ...s.filter((one) => one.turn < 0).map((one) => one.text)]],
  answers: ["answers given", (r) => [r.prediction ?? ""]],
};

// `deep`: at least so many process turns, as a box of a figure asks for.
const NONE = {
  deep: 0,
  filters: new Set(),
  fields: {},
  ranges: {},
  query: "",
  pattern: null,
  scope: "all",
  step: "all",
};

const list = { run: 0, order: "step", shown: PAGE_ROWS, found: [], last: null, ...structuredClone(NONE) };

const inRange = (values, [low, high]) =>
  values.some(
    (value) => isNumber(value) && (low === "" || value >= Number(low)) && (high === "" || value <= Number(high)),
  );

function passes(rollout) {
  return (
    rollout.gain.length >= list.deep &&
    (list.step === "all" || rollout.step === Number(list.step)) &&
    [...list.filters].every((name) => FILTERS[name][1](rollout)) &&
    Object.entries(list.fields).every(([name, value]) => value === "" || String(FIELDS[name][1](rollout)) === value) &&
    Object.entries(list.ranges).every(
      ([name, range]) => range.every((end) => end === "") || inRange(RANGES[name][1](rollout), range),
    )
  );
}

async function findRollouts() {
  const index = await runIndex(list.run);
  list.pattern = patternOf(list.query);
  marking = list.pattern;
  const texts = list.pattern && (await searchTexts(list.run, index.rollouts, list.scope));
  const hit = (i) => list.pattern === null || texts[i].search(list.pattern) >= 0;
  const found = index.rollouts.filter((rollout, i) => passes(rollout) && hit(i));
  const key = ORDERS[list.order][1];
  list.found = found
    .map((rollout) => [key(rollout), rollout])
    .sort((a, b) => a[0] - b[0])
    .map(([, rollout]) => rollout);
}

const searchable = new Map();

function searchTexts(run, rollouts, scope) {
  const key = `${run}/${scope}`;
  if (!searchable.has(key)) {
    const texts = rollouts.map(async (rollout) => SCOPES[scope][1](rollout, await segmentsOf(run, rollout)).join("\n"));
    searchable.set(key, Promise.all(texts));
  }
  return searchable.get(key);
}

// Values that occur in the run's rollouts, of a field with more than one.
function choicesOf(rollouts, [, value, name]) {
  const values = [...new Set(rollouts.map(value))].filter((one) => one !== null);
  values.sort((a, b) => (isNumber(a) && isNumber(b) ? a - b : String(a).localeCompare(String(b))));
  return values.length > 1 ? values.map((one) => [String(one), name(one)]) : null;
}
