// One rollout: what it said, what each turn earned, token by token where asked.

let view = "text";

async function rolloutView(run, step, row) {
  const { rollouts } = await runIndex(run);
  const rollout = rollouts.find((one) => one.step === step && one.row === row);
  if (!rollout) return el("p", { class: "empty" }, "This rollout is not in the page.");
  const segments = await segmentsOf(run, rollout);
  const body = el("div", { class: "conversation" });
  const draw = async () => body.replaceChildren(...(await conversation(run, rollout, segments)));
  await draw();
  const tabs = ["text", "tokens"].map((name) =>
    toggle(
      name === "text" ? "Text" : "Tokens",
      view === name,
      async () => {
        view = name;
        tabs.forEach((tab, i) => tab.setAttribute("aria-pressed", String(["text", "tokens"][i] === name)));
        await draw();
      },
      `Show the rollout as ${name} (t)`,
    ),
  );
  tabs[1].id = "tokens-toggle";
  return el(
    "article",
    { class: "rollout" },
    heading(rollout),
    facts(rollout),
    turnTable(rollout),
    el(
      "div",
      { class: "toolbar" },
      el("div", { class: "chips", role: "group", "aria-label": "View" }, tabs),
      el("a", { class: "button", href: groupLink(run, rollout, 1) }, "Turn group"),
      el("button", { type: "button", onclick: (event) => copyLink(event.target) }, "Copy link"),
    ),
    body,
  );
}

const heading = (rollout) => el("h2", { dir: "auto" }, rollout.question);

function facts(rollout) {
  const ending = rollout.termination === null ? null : rollout.termination.replaceAll("_", " ");
  const pairs = [
    ["gold answer", rollout.answer.join(" / ")],
    ["answered", rollout.prediction ?? "–"],
    ["outcome", rollout.correct ? "✓ correct" : "✗ wrong"],
    ["reward", rollout.reward === null ? "none" : signed(rollout.reward, 2)],
    ["ended", ending === null ? "–" : rollout.reason ? `${ending}: ${rollout.reason}` : ending],
    ["tokens", `${count(rollout.tokens[0])} by the policy of ${count(rollout.tokens[1])}`],
    ["step", `${rollout.step}, question ${rollout.group + 1}, rollout ${rollout.number}`],
  ];
  if (!rollout.valid) pairs.push(["trained on", "no: this rollout teaches nothing"]);
  return el(
    "dl",
    { class: "facts" },
    pairs.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", { dir: "auto" }, value))),
  );
}

const COLUMNS = [
  ["turn", "Turn"],
  ["p before", "Likelihood of the gold answer before the turn"],
  ["p after", "Likelihood of the gold answer after the turn's result"],
  ["gain", "Likelihood after minus before"],
  ["normalised", "Gain in standard deviations of its turn group"],
  ["accumulated", "Normalised gains from this turn on, divided by √n"],
  ["outcome", "Reward normalised over the question's rollouts"],
  ["advantage", "α × accumulated + outcome"],
  ["clip range", "Range of the turn ratio within which the gradient is kept"],
  ["ratio", "Turn ratio in the update: how much likelier the new policy finds the turn"],
  ["clipped", "Whether the bound held the turn's gradient back"],
];

function turnTable(rollout) {
  const head = COLUMNS.map(([name, title]) => el("th", { scope: "col", title }, name));
  // A reward model or a function of the user's gives a turn its number without any likelihood.
  const before = rollout.likelihood.length ? rollout.likelihood : null;
  const after = before && before.slice(1);
  const rows = rollout.advantage.map((advantage, t) => {
    const process = t < rollout.gain.length;
    const of = (values, format, digits) => (process && values ? format(values[t], digits) : "–");
    const { class: shade, style } = tint(advantage);
    const cells = [
      of(before, fixed, 3),
      of(after, fixed, 3),
      of(rollout.gain, signed, 4),
      of(rollout.normalized, signed, 2),
      of(rollout.accumulated, signed, 2),
      signed(rollout.outcome, 2),
    ];
    const update = rollout.update;
    return el(
      "tr",
      {},
      el(
        "th",
        { scope: "row" },
        el("a", { href: "#", onclick: (event) => scrollToTurn(event, t) }, String(t + 1)),
        process ? null : el("small", {}, " last"),
      ),
      cells.map((cell) => el("td", {}, cell)),
      el("td", { class: `${shade} strong`, style }, signed(advantage, 2)),
      el("td", {}, `${fixed(rollout.low[t], 4)} … ${fixed(rollout.high[t], 4)}`),
      el("td", { class: update ? null : "absent" }, update ? fixed(update.ratio[t], 4) : "not logged"),
      el("td", { class: update ? null : "absent" }, update ? (update.clipped[t] ? "clipped" : "no") : "not logged"),
    );
  });
  return table(head, rows, { class: "turns", "aria-label": "Turns" });
}

function scrollToTurn(event, turn) {
  event.preventDefault();
  document.getElementById(`turn-${turn + 1}`)?.scrollIntoView({ block: "start", behavior: "smooth" });
}

async function conversation(run, rollout, segments) {
  const tokens = view === "tokens" ? await tokenView(run, rollout) : null;
  let written = 0;
  let turn = 0;
  const blocks = segments.map((segment) => {
    const offset = written;
    if (segment.turn >= 0) turn = segment.turn;
    if (segment.turn >= 0) written += segment.ids.length;
    const content = tokens ? tokens(segment, offset) : el("div", { class: "text", dir: "auto" }, tagged(segment.text));
    return segment.turn >= 0
      ? turnBlock(rollout, segment, content)
      : resultBlock(content, turn < rollout.gain.length ? "result" : "closing");
  });
  return tokens ? [tokenLegend(rollout, run), ...blocks] : blocks;
}

function turnBlock(rollout, segment, content) {
  const advantage = rollout.advantage[segment.turn];
  const { class: shade, style } = tint(advantage);
  return el(
    "section",
    { class: `turn ${shade}`, style, id: `turn-${segment.turn + 1}`, "aria-label": `Turn ${segment.turn + 1}` },
    el(
      "div",
      { class: "gutter" },
      el("b", {}, `Turn ${segment.turn + 1}`),
      el("span", { class: "advantage", title: "Advantage" }, signed(advantage, 2)),
    ),
    content,
  );
}

function resultBlock(content, name) {
  return el("section", { class: "result", "aria-label": "Environment" }, el("div", { class: "gutter" }, name), content);
}

// The protocol's tags, and what the environment wrote between two of them, in a quieter colour; still text.
function tagged(text) {
  const spans = (part) =>
    part
      .split(/(<\/?(?:think|search|result|answer)>)/)
      .map((one, i) => (i % 2 ? el("span", { class: "tag" }, one) : one));
  return text
    .split(/(<result>[^]*?<\/result>)/)
    .map((part, i) => (i % 2 ? el("span", { class: "read" }, part) : spans(part)));
}

async function copyLink(button) {
  try {
    await navigator.clipboard.writeText(location.href);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Copy it from the address bar";
  }
}
