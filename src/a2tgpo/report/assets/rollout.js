// One rollout: why it is shown, what each turn earned, and the conversation in cards, as text or token by token.

const VIEWS = { cards: "Cards", text: "Text", tokens: "Tokens" };
let view = "cards";

async function rolloutView(run, step, row) {
  const index = await runIndex(run);
  const rollout = index.rollouts.find((one) => one.step === step && one.row === row);
  if (!rollout) return el("p", { class: "empty" }, "This rollout is not in the page.");
  const segments = await segmentsOf(run, rollout);
  const body = el("div", { class: "conversation" });
  const draw = async () => body.replaceChildren(...(await conversation(run, rollout, segments)));
  await draw();
  const choose = async (name) => {
    view = name;
    tabs.forEach((tab, i) => tab.setAttribute("aria-pressed", String(Object.keys(VIEWS)[i] === name)));
    await draw();
  };
  const tabs = Object.entries(VIEWS).map(([name, text]) =>
    toggle(text, view === name, () => choose(name), `Show the rollout as ${text.toLowerCase()} (t)`),
  );
  return el(
    "article",
    { class: "rollout" },
    heading(run, rollout),
    whyFirst(run, rollout),
    facts(run, rollout, index.files),
    turnTable(run, rollout, index.groups[`${step}/${rollout.group}`] ?? []),
    el(
      "div",
      { class: "toolbar" },
      el("div", { class: "chips views", role: "group", "aria-label": "View" }, tabs),
      el("a", { class: "button", href: groupLink(run, rollout, 1) }, "Turn group"),
      await pairChoice(run, rollout),
      recordButtons(run, rollout),
    ),
    body,
  );
}

function whyFirst(run, rollout) {
  const { opening } = report.runs[run];
  if (!opening || opening.step !== rollout.step || opening.row !== rollout.row) return null;
  return el("div", { class: "why" }, el("b", {}, "Why this one first. "), opening.why.join(" "));
}

const untold = "The log has no prompt: the environment told the policy what to do.";

const heading = (run, rollout) => [
  el("a", { class: "back", href: `#rollouts/${run}` }, "‹ Rollouts"),
  el("h2", { dir: "auto" }, rollout.question ? shown(rollout.question) : el("em", {}, untold)),
];

const ended = (one) =>
  one.termination === null || one.termination === undefined ? null : one.termination.replaceAll("_", " ");

function facts(run, rollout, files) {
  const ending = ended(rollout);
  const mark = rollout.correct ? "✓" : "✗";
  const pairs = [
    rollout.answer.length && ["gold answer", shown(rollout.answer.join(" / "))],
    rollout.prediction === null && rollout.termination === "environment_done"
      ? ["last call", shown(rollout.last_call ?? "–")]
      : ["answered", rollout.prediction === null ? "–" : shown(rollout.prediction)],
    ["outcome", `${mark} ${wordOf(rollout)}`],
    ["reward", rollout.reward === null ? (rollout.finite ? "none" : numeral(null)) : signed(rollout.reward, 2)],
    ["ended", ending === null ? "not logged" : rollout.reason ? [`${ending}: `, shown(rollout.reason)] : ending],
    isNumber(rollout.hops) && ["hops", String(rollout.hops)],
    ["tokens", `${count(rollout.tokens[0])} by the policy of ${count(rollout.tokens[1])}`],
    ["step", `${rollout.step}, question ${rollout.group + 1}, rollout ${rollout.number}`],
    ["record", `${files[rollout.file]}, line ${rollout.line}`],
    !rollout.valid && ["trained on", el("b", { class: "broken" }, "no: excluded from the loss")],
    rollout.unscored && ["turns unscored", shown(rollout.unscored)],
    !rollout.finite && ["numbers", el("b", { class: "broken" }, "some are not numbers")],
  ].filter(Boolean);
  return el(
    "dl",
    { class: "facts" },
    pairs.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", { dir: "auto" }, value))),
  );
}

async function conversation(run, rollout, segments) {
  const tokens = view === "tokens" ? await tokenView(run, rollout) : null;
  const { calls, notes } = await batchTexts(run, rollout.step);
  const take = callTaker(calls[rollout.row]);
  let written = 0;
  let turn = -1;
  const blocks = segments.map((segment, i) => {
    const policy = segment.turn >= 0;
    if (policy) turn = segment.turn;
    const offset = written;
    if (policy) written += segment.ids.length;
    const told = {
      take,
      inBlock: !policy,
      prediction: turn === rollout.advantage.length - 1 ? rollout.prediction : undefined,
      correct: rollout.correct,
    };
    const content = tokens
      ? tokens(segment, offset)
      : view === "cards"
        ? cardsOf(segment.text, policy, told)
        : plainText(segment.text);
    if (policy) return turnBlock(rollout, segment, content, notes[rollout.row][segment.turn]);
    const last = !segments.slice(i + 1).some((one) => one.turn >= 0) && turn >= rollout.gain.length;
    return resultBlock(content, last ? "closing" : "result");
  });
  const first = rollout.observed ? [resultBlock([partCard({ kind: "result", text: rollout.observed }, { inBlock: true })], "start")] : [];
  return tokens ? [tokenLegend(rollout, run), ...first, ...blocks] : [...first, ...blocks];
}

const plainText = (text) => el("div", { class: "text", dir: "auto" }, tagged(text));

// What a judge said of the turn, beside the number it gave.
const judged = (rollout, turn, note) =>
  el(
    "div",
    { class: "judged", dir: "auto" },
    el("b", {}, "Judged ", numeral(rollout.gain[turn] ?? null, signed, 2)),
    " ",
    shown(note),
  );

function turnBlock(rollout, segment, content, note) {
  const advantage = rollout.advantage[segment.turn];
  const { class: shade, style } = tint(advantage);
  return el(
    "section",
    { class: `turn ${shade}`, style, id: `turn-${segment.turn + 1}`, "aria-label": `Turn ${segment.turn + 1}` },
    el(
      "div",
      { class: "gutter" },
      el("b", {}, `Turn ${segment.turn + 1}`),
      el("span", { class: "advantage", title: "Advantage" }, numeral(advantage ?? null, signed, 2)),
    ),
    el("div", { class: "said-here" }, content, note && judged(rollout, segment.turn, note)),
  );
}

function resultBlock(content, name) {
  return el(
    "section",
    { class: `result ${name}`, "aria-label": "Environment" },
    el("div", { class: "gutter" }, name),
    el("div", { class: "said-here" }, content),
  );
}
