// Two rollouts side by side, turn by turn, with the words only one of them has marked; the same question elsewhere.

const MOST_WORDS = 1500;

const pairLink = (run, a, otherRun, b) => `#pair/${run}/${a.step}/${a.row}/${otherRun}/${b.step}/${b.row}`;

// Rollouts of the same question in every run of the page, with their run.
async function sameQuestion(rollout) {
  const name = (one) => one.id || one.question;
  const found = await Promise.all(
    report.runs.map(async (run, number) => {
      if (!run.steps.length) return [];
      const { rollouts } = await runIndex(number);
      return rollouts.filter((one) => name(one) && name(one) === name(rollout)).map((one) => [number, one]);
    }),
  );
  return found.flat();
}

async function pairChoice(run, rollout) {
  const others = (await sameQuestion(rollout)).filter(
    ([number, one]) => number !== run || one.step !== rollout.step || one.row !== rollout.row,
  );
  if (!others.length) return null;
  const label = ([number, one]) =>
    `${report.runs.length > 1 ? `${report.runs[number].name}, ` : ""}step ${one.step}, rollout ${one.number}: ${one.correct ? "✓" : "✗"} ${saidLast(one)}`;
  const options = [
    ["", "Side by side with…"],
    ...others.map((other) => [pairLink(run, rollout, ...other), label(other)]),
  ];
  const steps = [...new Set(others.map(([number, one]) => `${number}/${one.step}`))].filter(
    (at) => at !== `${run}/${rollout.step}`,
  );
  return [
    choice("Side by side with", options, "", (hash) => hash && go(hash)),
    steps.length ? elsewhere(others, steps) : null,
  ];
}

// Links to the turn groups in which the question was drawn again.
function elsewhere(others, steps) {
  const links = steps.map((at) => {
    const [number, one] = others.find(([run, other]) => `${run}/${other.step}` === at);
    const name = `${report.runs.length > 1 ? `${report.runs[number].name} ` : ""}step ${one.step}`;
    return el("a", { class: "chip", href: groupLink(number, one, 1) }, name);
  });
  return el("span", { class: "chips elsewhere" }, el("span", { class: "hint" }, "Same question at"), links);
}

async function pairView(run, step, row, otherRun, otherStep, otherRow) {
  const sides = await Promise.all(
    [
      [run, step, row],
      [otherRun, otherStep, otherRow],
    ].map(async ([number, at, line]) => {
      const rollout = (await runIndex(number))?.rollouts.find((one) => one.step === at && one.row === line);
      return rollout && { run: number, rollout, segments: await segmentsOf(number, rollout) };
    }),
  );
  if (!sides.every(Boolean)) return el("p", { class: "empty" }, "One of these rollouts is not in the page.");
  const turns = Math.max(...sides.map((side) => side.rollout.advantage.length));
  return el(
    "article",
    { class: "pair-view" },
    heading(run, sides[0].rollout),
    el("p", { class: "hint" }, "Words that only one of the two has are marked."),
    el("div", { class: "sides heads" }, sides.map(sideHead)),
    Array.from({ length: turns }, (_, turn) => pairedTurn(sides, turn)),
  );
}

function sideHead({ run, rollout }) {
  const name = report.runs.length > 1 ? `${report.runs[run].name}, ` : "";
  return el(
    "header",
    {},
    el("a", { href: rolloutLink(run, rollout) }, `${name}step ${rollout.step}, rollout ${rollout.number}`),
    el(
      "span",
      { class: rollout.correct ? "mark-correct" : "mark-wrong", dir: "auto" },
      `${rollout.correct ? "✓" : "✗"} `,
      shown(saidLast(rollout)),
    ),
    el("span", { class: "hint" }, `reward ${signed(rollout.reward, 2)}`),
  );
}

function pairedTurn(sides, turn) {
  const texts = sides.map(({ segments }) => turnTexts(segments, turn));
  const wrote = wordDifference(texts[0].wrote, texts[1].wrote);
  const read = wordDifference(texts[0].read, texts[1].read);
  return el(
    "div",
    { class: "sides" },
    sides.map(({ rollout }, i) => {
      const advantage = rollout.advantage[turn];
      if (advantage === undefined)
        return el("section", { class: "card ended" }, el("p", { class: "hint" }, "Ended before."));
      const { class: shade, style } = tint(advantage);
      return el(
        "section",
        { class: `card ${shade}`, style, "aria-label": `Turn ${turn + 1}` },
        el("header", {}, `Turn ${turn + 1}`, el("b", { class: "advantage" }, numeral(advantage, signed, 2))),
        el("div", { class: "text", dir: "auto" }, wrote[i]),
        texts[i].read.trim() ? el("div", { class: "text result-text", dir: "auto" }, read[i]) : null,
      );
    }),
  );
}

function turnTexts(segments, turn) {
  const start = segments.findIndex((segment) => segment.turn === turn);
  if (start < 0) return { wrote: "", read: "" };
  const rest = segments.slice(start);
  const next = rest.findIndex((segment) => segment.turn >= 0 && segment.turn !== turn);
  const mine = next < 0 ? rest : rest.slice(0, next);
  const join = (policy) =>
    mine
      .filter((one) => one.turn >= 0 === policy)
      .map((one) => one.text)
      .join("\n");
  return { wrote: join(true), read: join(false) };
}

// The nodes of both texts; a word outside their longest common subsequence is marked.
function wordDifference(a, b) {
  const [left, right] = [a, b].map((text) => text.match(/\s+|[\p{L}\p{N}_]+|[^]/gu) ?? []);
  const solid = [left, right].map((pieces) => pieces.flatMap((piece, i) => (/\S/.test(piece) ? [i] : [])));
  if (Math.max(...solid.map((places) => places.length)) > MOST_WORDS) return [visible(a), visible(b)];
  const common = commonPlaces(
    solid[0].map((i) => left[i]),
    solid[1].map((i) => right[i]),
  );
  return [left, right].map((pieces, side) => {
    const kept = new Set(common.map((places) => solid[side][places[side]]));
    return pieces.flatMap((piece, i) =>
      !/\S/.test(piece) || kept.has(i) ? visible(piece) : [el("span", { class: "only" }, visible(piece))],
    );
  });
}

function commonPlaces(left, right) {
  const width = right.length + 1;
  const length = new Uint16Array((left.length + 1) * width);
  for (let i = left.length - 1; i >= 0; i--)
    for (let j = right.length - 1; j >= 0; j--)
      length[i * width + j] =
        left[i] === right[j]
          ? length[(i + 1) * width + j + 1] + 1
          : Math.max(length[(i + 1) * width + j], length[i * width + j + 1]);
  const places = [];
  for (let i = 0, j = 0; i < left.length && j < right.length;) {
    if (left[i] === right[j]) places.push([i++, j++]);
    else if (length[(i + 1) * width + j] >= length[i * width + j + 1]) i++;
    else j++;
  }
  return places;
}
