// Evaluated questions or episodes, and two evaluations of the same ones side by side.

const MEASURES = { exact_match: "exact match", success: "success", reward: "reward" };
const RIGHT = { exact_match: ["right", "wrong"], success: ["solved", "failed"] };

const measuresOf = (some) =>
  [...new Set(some.filter((one) => one.gold || one.measure !== "exact_match").map((one) => one.measure))];
const nameOf = (measure, n) => `${measure === "exact_match" ? "question" : "episode"}${n === 1 ? "" : "s"}`;

// What may become of a question: a name and a test of its one outcome, or of its two.
function kindsOf(measure, two) {
  const all = ["all", () => true];
  if (measure === "reward") {
    const [a, b] = two
      ? [(x, y) => y.reward > x.reward, (x, y) => y.reward < x.reward]
      : [(x) => x.reward > 0, (x) => !(x.reward > 0)];
    return two
      ? { all, fixed: ["better", a], broken: ["worse", b], equal: ["equal", (x, y) => !a(x, y) && !b(x, y)] }
      : { all, right: ["reward above 0", a], wrong: ["not above 0", b] };
  }
  const [right, wrong] = RIGHT[measure];
  if (!two) return { all, right: [right, (a) => a.correct], wrong: [wrong, (a) => !a.correct] };
  return {
    all,
    fixed: [`${wrong} → ${right}`, (a, b) => !a.correct && b.correct],
    broken: [`${right} → ${wrong}`, (a, b) => a.correct && !b.correct],
    right: [`both ${right}`, (a, b) => a.correct && b.correct],
    wrong: [`both ${wrong}`, (a, b) => !a.correct && !b.correct],
  };
}

const questions = { kind: "all", query: "", shown: PAGE_ROWS };

const evaluations = () =>
  report.runs.flatMap((run, number) =>
    Object.entries(run.evaluations).map(([name, summary]) => ({
      ...summary,
      key: `${number}.${name}`,
      label: [report.runs.length > 1 ? run.name : "", name.replaceAll("_", ", ")].filter(Boolean).join(" · "),
    })),
  );

function evaluationTable() {
  const all = evaluations();
  if (!all.length) return null;
  const measures = measuresOf(all).filter((measure) => measure !== "reward");
  const hops = measures.length ? [...new Set(all.flatMap((one) => Object.keys(one.by_hops)))].sort() : [];
  const rewarded = all.some((one) => one.reward);
  // Where environments end the episodes nobody gives an answer, and no form is kept.
  const formed = all.some((one) => one.terminations.answered || !one.terminations.environment_done);
  const episodes = rewarded || measures.includes("success");
  const names = [
    "evaluation",
    episodes ? "episodes" : "questions",
    ...measures.map((measure) => MEASURES[measure]),
    ...hops.map((hop) => `${hop} hop${hop === "1" ? "" : "s"}`),
    ...(rewarded ? ["reward"] : []),
    episodes ? "calls" : "searches",
    ...(formed ? ["format"] : []),
  ];
  const head = names.map((name, i) => el("th", { scope: "col", class: i ? "num" : null }, name));
  const interval = ({ low, high }) => isNumber(low) && el("small", {}, ` ${fixed(low, 2)}–${fixed(high, 2)}`);
  const share = (one) => (one ? [fixed(one.value, 3), interval(one) || []] : "–");
  const rows = all.map((one) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, el("a", { href: `#evaluation/${one.key}` }, one.label)),
      [
        count(one.n),
        ...measures.map((measure) => share(one.measure === measure && one[measure])),
        ...hops.map((hop) => share(one.by_hops[hop])),
        ...(rewarded ? [share(one.reward)] : []),
        fixed(one.searches),
        ...(formed ? [fixed(one.format_rate, 3)] : []),
      ].map((cell) => el("td", { class: "num" }, cell)),
    ),
  );
  return table(head, rows, { class: "list", "aria-label": "Evaluations" });
}

async function showEvaluation(first, second) {
  const all = evaluations();
  if (!all.length) {
    $view.replaceChildren(el("div", { class: "page" }, el("p", { class: "empty" }, "Nothing has been evaluated yet.")));
    return;
  }
  const a = all.find((one) => one.key === first) ?? all[0];
  const trained = a.key.replace("before", "after");
  const against = first === undefined && trained !== a.key ? trained : second;
  const b = all.find((one) => one.key === against) ?? null;
  const pairs = await paired(a, b);
  const results = el("div", { id: "questions" });
  const measure = !b || a.measure === b.measure ? a.measure : "exact_match";
  const kinds = kindsOf(measure, b);
  if (!(questions.kind in kinds)) questions.kind = "all";
  const options = all.map((one) => [one.key, one.label]);
  const search = el("input", {
    type: "search",
    id: "search",
    placeholder: "Search questions and texts  ( / )",
    "aria-label": "Search evaluated questions",
    value: questions.query,
    oninput: () => redraw({ query: search.value }),
  });
  const chips = Object.entries(kinds).map(([key, [name, test]]) =>
    toggle(`${name} ${count(pairs.filter(([x, y]) => test(x, y)).length)}`, questions.kind === key, () => {
      chips.forEach((chip) => chip.setAttribute("aria-pressed", "false"));
      chips[Object.keys(kinds).indexOf(key)].setAttribute("aria-pressed", "true");
      redraw({ kind: key });
    }),
  );
  const redraw = (changes) => {
    Object.assign(questions, { shown: PAGE_ROWS }, changes);
    results.replaceChildren(...questionRows(pairs, kinds, measure, b, a, redraw));
  };
  $view.replaceChildren(
    el(
      "div",
      { class: "page" },
      evaluationTable(),
      b && flipLine(a, b),
      el(
        "div",
        { class: "toolbar" },
        el(
          "label",
          {},
          "Evaluation ",
          choice("Evaluation", options, a.key, (key) => go(`#evaluation/${key}${b ? `/${b.key}` : ""}`)),
        ),
        el(
          "label",
          {},
          "against ",
          choice("Compared evaluation", [["", "nothing"], ...options], b ? b.key : "", (key) =>
            go(`#evaluation/${a.key}${key ? `/${key}` : ""}`),
          ),
        ),
        el("div", { class: "chips", role: "group", "aria-label": "Filters" }, chips),
        search,
      ),
      results,
    ),
  );
  redraw({});
}

// How much the second is above the first on the questions of both, and whether that could be chance.
function flipLine(a, b) {
  const found = report.flips[`${a.key}/${b.key}`];
  if (!found) return null;
  const interval = isNumber(found.low) ? ` (95 %: ${signed(found.low, 3)} to ${signed(found.high, 3)})` : "";
  const p = isNumber(found.p)
    ? found.p < 1e-4
      ? "p below 0.0001"
      : `p = ${fixed(found.p, 4)}`
    : "no p: they do not differ";
  return el(
    "p",
    { class: "flips" },
    el("b", {}, `${signed(found.value, 3)} ${MEASURES[a.measure]}`),
    ` from ${a.label} to ${b.label} on ${count(found.n)} ${nameOf(a.measure, found.n)}${interval}, ${p} by the paired t test over ${nameOf(a.measure)}. `,
    el("span", { class: "hint" }, `It is about these policies and other ${nameOf(a.measure)}; other seeds may differ more.`),
  );
}

// Questions both evaluations asked, in the order of the first.
async function paired(a, b) {
  const left = await block(a.block);
  if (!b) return left.map((one) => [one, null]);
  const key = (one) => `${one.dataset}\n${one.id}\n${one.sample}`;
  const right = new Map((await block(b.block)).map((one) => [key(one), one]));
  return left.filter((one) => right.has(key(one))).map((one) => [one, right.get(key(one))]);
}

function questionRows(pairs, kinds, measure, b, a, redraw) {
  if (!pairs.length) return [el("p", { class: "empty" }, `${a.label} and ${b.label} have no question in common.`)];
  marking = patternOf(questions.query);
  const test = kinds[questions.kind][1];
  const texts = (pair) =>
    pair
      .filter(Boolean)
      .map((one) => `${one.id}\n${one.question}\n${one.answer.join("\n")}\n${one.text}`)
      .join("\n");
  const found = pairs.filter((pair) => test(...pair) && (!marking || texts(pair).search(marking) >= 0));
  const golden = pairs.some(([one]) => one.answer.length);
  const alike = new Set(pairs.map(([one]) => one.question)).size < pairs.length;
  const layout = `${b ? "two" : "one"}${golden ? "" : " bare"}`;
  const rows = found.slice(0, questions.shown).map((pair) => {
    const [one] = pair;
    const detail = el(
      "details",
      {
        class: "asked",
        ontoggle: () => detail.open && detail.childElementCount === 1 && detail.append(texted(pair, a, b)),
      },
      el(
        "summary",
        { class: layout },
        el("span", { dir: "auto" }, shown(one.question), alike && el("small", { class: "hint" }, " ", shown(one.id))),
        golden && el("span", { class: "gold", dir: "auto" }, shown(one.answer.join(" / "))),
        pair.filter(Boolean).map(verdict),
      ),
    );
    return detail;
  });
  const head = el(
    "div",
    { class: `asked-head ${layout}`, "aria-hidden": "true" },
    [nameOf(measure, 1), ...(golden ? ["gold answer"] : []), a.label, ...(b ? [b.label] : [])].map((name) =>
      el("span", {}, name),
    ),
  );
  const more =
    found.length > rows.length &&
    el(
      "button",
      { type: "button", class: "more", onclick: () => redraw({ shown: questions.shown + PAGE_ROWS }) },
      `Show ${Math.min(PAGE_ROWS, found.length - rows.length)} more`,
    );
  return [
    el(
      "output",
      { class: "hint", "aria-live": "polite" },
      `${count(found.length)} of ${count(pairs.length)} ${nameOf(measure, pairs.length)}`,
    ),
    head,
    ...rows,
    more,
  ].filter(Boolean);
}

// What became of one: whether it is right, where somebody says so, what was answered, and what it earned.
function verdict(one) {
  const judged = one.success !== null || one.answer.length > 0;
  const byEnvironment = one.termination === "environment_done" && one.prediction === null;
  const solved = byEnvironment && one.success !== null && RIGHT.success[one.success ? 0 : 1];
  const last = byEnvironment ? one.queries.at(-1) : undefined;
  return el(
    "span",
    { class: "verdict" },
    judged && el("span", { class: one.correct ? "mark-correct" : "mark-wrong" }, one.correct ? "✓ " : "✗ "),
    el("span", { dir: "auto" }, shown(one.prediction ?? (solved || ended(one)))),
    last !== undefined && el("small", { class: "hint", dir: "auto" }, " · last call ", shown(last)),
    isNumber(one.reward) && el("small", { class: "hint" }, ` · reward ${short(one.reward)}`),
  );
}

// The rollouts of a question as cards, or as they were written.
function texted(pair, a, b) {
  const column = (one, label) => {
    const body = el("div", { class: "said-here" });
    const draw = (cards) => body.replaceChildren(...evaluated(one, cards));
    const button = toggle(
      "Text",
      false,
      () => {
        const text = button.getAttribute("aria-pressed") === "false";
        button.setAttribute("aria-pressed", String(text));
        draw(!text);
      },
      "The original text in place of cards",
    );
    draw(true);
    return el(
      "div",
      {},
      el(
        "p",
        { class: "hint" },
        `${label} · ${one.searches} ${one.searches === 1 ? "call" : "calls"} · ${ended(one)}`,
        one.reason ? [": ", visible(one.reason)] : null,
        " ",
        button,
        " ",
        el(
          "button",
          { type: "button", class: "small", onclick: (event) => copyText(event.target, JSON.stringify(one, null, 1)) },
          "Copy JSON",
        ),
      ),
      body,
    );
  };
  return el("div", { class: "columns" }, column(pair[0], a.label), b && column(pair[1], b.label));
}

const evaluated = (one, cards) =>
  cards
    ? cardsOf(one.text, true, { prediction: one.prediction, correct: one.correct, tools: calledIn(one.text) })
    : [plainText(one.text)];

// Tags of a transcript that something answered, and that are not the protocol's: the tools that it calls.
const CALLED = /<([A-Za-z_][\w.-]*)>[^<]*<\/\1>\s*<result>/g;
const calledIn = (text) => toolsOf([...text.matchAll(CALLED)].map((match) => match[1]));
