// What a stranger sees first: what is wrong with the runs, what they were asked to do, and one rollout to read.

function findingsList() {
  const all = report.runs.flatMap((run) =>
    run.findings.map(({ level, text }) => [level, report.runs.length > 1 ? `${run.name}: ${text}` : text]),
  );
  if (!all.length) return null;
  return el(
    "ul",
    { class: all.some(([level]) => level === "bad") ? "note bad" : "note", "aria-label": "Notices" },
    all.map(([level, text]) =>
      el("li", { class: `level-${level}` }, level === "bad" ? el("b", {}, "! ") : null, visible(text)),
    ),
  );
}

async function openingCard() {
  const run = report.runs.findIndex((one) => one.opening);
  if (run < 0) return null;
  const { opening } = report.runs[run];
  const index = await runIndex(run);
  const rollout = index.rollouts.find((one) => one.step === opening.step && one.row === opening.row);
  if (!rollout) return null;
  return el(
    "section",
    { class: "opening", "aria-label": "A rollout to begin with" },
    el(
      "header",
      {},
      el("h2", { dir: "auto" }, rollout.question ? visible(rollout.question) : el("em", {}, untold)),
      el("a", { class: "button", href: rolloutLink(run, rollout) }, "Read it"),
      el("a", { class: "button", href: groupLink(run, rollout, 1) }, "Its turn group"),
    ),
    el("p", {}, el("b", {}, "Begin here. "), opening.why.join(" ")),
    turnTable(run, rollout, index.groups[`${rollout.step}/${rollout.group}`] ?? []),
  );
}

const SHADES = { answered: "var(--arm-0)", "not logged": "var(--arm-4)", environment_done: "var(--arm-2)" };
const OTHER_SHADES = ["var(--arm-1)", "var(--arm-5)", "var(--arm-3)", "var(--down)"];

// How the rollouts ended, as one bar a run.
function endingsBars() {
  const names = [...new Set(report.runs.flatMap((run) => Object.keys(run.endings)))];
  if (!names.length) return null;
  const others = names.filter((name) => !(name in SHADES));
  const shade = (name) => SHADES[name] ?? OTHER_SHADES[others.indexOf(name) % OTHER_SHADES.length];
  const bars = report.runs.map((run, number) => {
    const total = Object.values(run.endings).reduce((sum, one) => sum + one, 0);
    if (!total) return null;
    return el(
      "div",
      { class: "ending-row" },
      report.runs.length > 1 && el("span", {}, run.name),
      el(
        "div",
        { class: "ending-bar" },
        names
          .filter((name) => run.endings[name])
          .map((name) =>
            el("button", {
              type: "button",
              "aria-label": `${name.replaceAll("_", " ")}: ${count(run.endings[name])} rollouts`,
              title: `${name.replaceAll("_", " ")}: ${count(run.endings[name])} of ${count(total)}`,
              style: { flex: `${run.endings[name]} 0 0`, background: shade(name) },
              onclick: () => openFound(number, { fields: { ending: name } }),
            }),
          ),
      ),
    );
  });
  const sum = (name) => report.runs.reduce((all, run) => all + (run.endings[name] ?? 0), 0);
  const key = names.map((name) =>
    el(
      "span",
      {},
      el("i", { class: "swatch", style: { background: shade(name) } }),
      `${name.replaceAll("_", " ")} ${count(sum(name))}`,
    ),
  );
  return el(
    "section",
    { class: "endings", "aria-label": "How rollouts ended" },
    el("p", { class: "legend" }, el("b", {}, "How rollouts ended"), key),
    bars,
  );
}

// What the runs were asked to do; of several, what they were not asked alike stands open, the rest below.
function recipes() {
  const configs = report.runs.map((run) => run.config);
  const keys = [...new Set(configs.flatMap(Object.keys))].sort();
  if (!keys.length) return null;
  const value = (config, key) =>
    key in config ? (typeof config[key] === "string" ? config[key] : JSON.stringify(config[key])) : "–";
  const differing = keys.filter((key) => new Set(configs.map((config) => value(config, key))).size > 1);
  const alike = keys.filter((key) => !differing.includes(key));
  const rows = (names) =>
    names.map((key) =>
      el(
        "tr",
        { class: differing.includes(key) ? "differs" : null },
        el("th", { scope: "row" }, key),
        configs.map((config) => el("td", { dir: "auto" }, visible(value(config, key)))),
      ),
    );
  const head = (names) => names.map((name) => el("th", { scope: "col" }, name));
  const heads = ["key", ...report.runs.map((run) => run.name)];
  const several = configs.length > 1;
  return el(
    "section",
    { class: "recipes", "aria-label": several ? "Recipes" : "Recipe" },
    several && differing.length
      ? [
          el("h2", {}, "What differs between the recipes"),
          table(head(heads), rows(differing), { class: "list", "aria-label": "Recipe difference" }),
        ]
      : recipeLine(report.runs[0]),
    alike.length || !several
      ? el(
          "details",
          {},
          el(
            "summary",
            {},
            several ? `The ${alike.length} keys they have in common` : `The whole recipe, ${keys.length} keys`,
          ),
          table(head(several ? heads : heads.slice(0, 2)), rows(several ? alike : keys), {
            class: "list",
            "aria-label": several ? "Recipes" : "Recipe",
          }),
        )
      : null,
  );
}

const SAID_FIRST = [
  "environment",
  "model_name_or_path",
  "dataset",
  "learning_rate",
  "max_steps",
  "num_generations",
  "temperature",
  "max_searches",
  "seed",
];

// The keys that say most about a run, in one line.
function recipeLine({ method, config }) {
  const told = SAID_FIRST.filter((key) => key in config && config[key] !== null).map((key) => [key, config[key]]);
  return el(
    "p",
    { class: "recipe-line" },
    [["method", method], ...told].map(([key, value]) =>
      el("span", {}, el("small", {}, key), " ", el("b", { dir: "auto" }, visible(String(value)))),
    ),
  );
}
