// The table of a rollout's turns: what each gained, against whom it was measured, what it earned.

const numeral = (value, format, digits) =>
  value === null
    ? el("b", { class: "broken", title: "The log has no finite number here" }, "NaN")
    : format(value, digits);

function turnColumns(run, rollout) {
  const { signal, turn_groups: grouped, in_logarithms: logarithms } = report.runs[run];
  const p = logarithms ? "log p" : "p";
  const name = signal || "gain";
  const probability = rollout.likelihood.length > 0;
  const gains = rollout.gain.length > 0;
  const rule = grouped ? "the turn group" : "the gains at this depth (this method normalises otherwise)";
  const columns = [
    probability && [`${p} before`, "Likelihood of the gold answer before the turn"],
    probability && [`${p} after`, "Likelihood of the gold answer after the turn's result"],
    gains && [name, probability ? "Likelihood after minus before" : `The ${name} of the turn, as logged`],
    gains && ["n", `Rollouts in ${rule}`],
    gains && ["mean", `Mean ${name} of ${rule}`],
    gains && ["σ", `Standard deviation of ${rule}; below ${report.noise} what normalisation leaves is noise`],
    gains && ["normalised", grouped ? "(gain − mean) / σ" : "Normalised as the method does"],
    gains && rollout.accumulated && ["accumulated", "Normalised gains from this turn on, divided by √n"],
    isNumber(rollout.outcome) && ["outcome", "Reward normalised over the question's rollouts"],
    ["advantage", gains ? "α × accumulated + outcome" : "What the turn's tokens are weighted by"],
    ["clip range", "Range of the turn ratio within which the gradient is kept"],
    ["ratio", "Turn ratio in the update: how much likelier the new policy finds the turn"],
    ["clipped", "Whether the bound held the turn's gradient back"],
  ];
  return columns.filter(Boolean);
}

function turnTable(run, rollout, groups) {
  const columns = turnColumns(run, rollout);
  const head = [["turn", "Turn"], ...columns].map(([name, title]) => el("th", { scope: "col", title }, name));
  const rows = rollout.advantage.map((_, turn) => {
    const cells = turnCells(rollout, groups[turn], turn);
    return el(
      "tr",
      {},
      el(
        "th",
        { scope: "row" },
        el("a", { href: "#", onclick: (event) => scrollToTurn(event, turn) }, String(turn + 1)),
        turn < rollout.gain.length || !rollout.gain.length ? null : el("small", {}, " last"),
      ),
      columns.map(([name]) => cells[name.replace("log ", "") in cells ? name.replace("log ", "") : "gain"](name)),
    );
  });
  return table(head, rows, { class: "turns", "aria-label": "Turns" });
}

// A function from a column's name to its cell, by column.
function turnCells(rollout, at, turn) {
  const process = turn < rollout.gain.length;
  const { update } = rollout;
  const cell =
    (content, attributes = {}) =>
    (name) =>
      el("td", { "data-name": name, ...attributes, class: content === "–" ? "none" : attributes.class }, content);
  const of = (values, format, digits) => (process && values ? numeral(values[turn] ?? null, format, digits) : "–");
  const noise = process && at?.noise;
  const { class: shade, style } = tint(rollout.advantage[turn]);
  return {
    "p before": cell(of(rollout.likelihood, fixed, 3)),
    "p after": cell(of(rollout.likelihood.slice(1), fixed, 3)),
    gain: cell(of(rollout.gain, signed, 4)),
    n: cell(process && at ? String(at.n) : "–"),
    mean: cell(process && at ? signed(at.mean, 4) : "–"),
    σ: cell(process && at ? [fixed(at.std, 4), noise && el("b", { class: "flag" }, "noise")] : "–"),
    normalised: cell(of(rollout.normalized, signed, 2), { class: noise ? "doubtful" : null }),
    accumulated: cell(of(rollout.accumulated, signed, 2)),
    outcome: cell(isNumber(rollout.outcome) ? signed(rollout.outcome, 2) : "–"),
    advantage: cell(numeral(rollout.advantage[turn], signed, 2), { class: `${shade} strong`, style }),
    "clip range": cell(`${fixed(rollout.low[turn], 4)} … ${fixed(rollout.high[turn], 4)}`),
    ratio: cell(update ? fixed(update.ratio[turn], 4) : "not logged", { class: update ? null : "absent" }),
    clipped: cell(update ? (update.clipped[turn] ? "clipped" : "no") : "not logged", {
      class: update ? null : "absent",
    }),
  };
}

function scrollToTurn(event, turn) {
  event.preventDefault();
  document.getElementById(`turn-${turn + 1}`)?.scrollIntoView({ block: "start", behavior: "smooth" });
}
