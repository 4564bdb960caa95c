// A turn group: the rollouts of one question at the same depth, with the mean and spread their gains are measured by.

async function groupView(run, step, group, depth) {
  const index = await runIndex(run);
  const members = index.rollouts.filter((rollout) => rollout.step === step && rollout.group === group);
  if (!members.length) return el("p", { class: "empty" }, "This question is not in the page.");
  const stats = index.groups[`${step}/${group}`];
  const turn = depth - 1;
  const deepest = Math.max(1, ...members.map((rollout) => rollout.advantage.length));
  const tabs = Array.from({ length: deepest }, (_, t) =>
    el(
      "a",
      { class: "chip", href: groupLink(run, members[0], t + 1), "aria-current": t === turn ? "true" : null },
      `Turn ${t + 1}`,
    ),
  );
  const ordered = [...members].sort(
    (a, b) => (b.gain[turn] ?? -1e9) - (a.gain[turn] ?? -1e9) || b.advantage.length - a.advantage.length,
  );
  const cards = await Promise.all(ordered.map((rollout) => card(run, rollout, turn)));
  return el(
    "article",
    { class: "group" },
    heading(run, members[0]),
    el(
      "p",
      { class: "hint", dir: "auto" },
      members[0].answer.length ? ["Gold answer: ", shown(members[0].answer.join(" / ")), ". "] : null,
      `${members.length} rollouts, step ${step}.`,
    ),
    stats.length
      ? el("div", { class: "group-head" }, strip(run, members, stats, turn), statistics(run, stats, turn, members))
      : el("p", { class: "hint" }, "No turn was judged by itself here: a turn's advantage is all there is to compare."),
    el("nav", { class: "chips depths", "aria-label": "Depth" }, tabs),
    el("div", { class: "cards" }, cards),
  );
}

function statistics(run, stats, turn, members) {
  const at = stats[turn];
  const pairs = at
    ? [
        ["in the turn group", `${at.n} of ${members.length}`],
        [`mean ${report.runs[run].signal}`, signed(at.mean, 4)],
        ["standard deviation σ", [fixed(at.std, 4), at.noise && el("b", { class: "flag" }, "noise")]],
      ]
    : [["in the turn group", "none: no turn was judged at this depth"]];
  return el(
    "dl",
    { class: "facts stacked" },
    pairs.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
  );
}

async function card(run, rollout, turn) {
  const segments = await segmentsOf(run, rollout);
  const at = segments.findIndex((segment) => segment.turn === turn);
  const process = turn < rollout.gain.length;
  const { class: shade, style } = tint(rollout.advantage[turn]);
  const { signal } = report.runs[run];
  const numbers = [
    signal && [signal, process ? numeral(rollout.gain[turn], signed, 4) : "–"],
    signal && ["normalised", process ? numeral(rollout.normalized[turn] ?? null, signed, 2) : "–"],
    signal && ["accumulated", process && rollout.accumulated ? signed(rollout.accumulated[turn], 2) : "–"],
    (signal || isNumber(rollout.outcome)) && ["outcome", signed(rollout.outcome, 2)],
  ].filter(Boolean);
  const answered = process || turn < rollout.advantage.length - 1;
  const result = at >= 0 ? segments[at + 1] : undefined;
  return el(
    "section",
    { class: at < 0 ? "card ended" : `card ${shade}`, style, "aria-label": `Rollout ${rollout.number}` },
    el(
      "header",
      {},
      el("a", { href: rolloutLink(run, rollout) }, `Rollout ${rollout.number}`),
      el("span", { class: rollout.correct ? "mark-correct" : "mark-wrong" }, `${rollout.correct ? "✓" : "✗"} ${wordOf(rollout)}`),
      el("b", { class: "advantage", title: "Advantage" }, at < 0 ? "–" : numeral(rollout.advantage[turn], signed, 2)),
    ),
    at < 0
      ? el("p", { class: "hint" }, `Ended after turn ${rollout.advantage.length}: ${ended(rollout) ?? "done"}.`)
      : [
          numbers.length > 0 &&
            el(
              "dl",
              {},
              numbers.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
            ),
          el("div", { class: "text", dir: "auto" }, tagged(segments[at].text)),
          answered && result && el("div", { class: "text result-text", dir: "auto" }, tagged(result.text)),
        ],
  );
}

// Gains of every rollout by depth: a dot each, the mean as a line, the standard deviation as a bar.
function strip(run, members, stats, turn) {
  const room = $view.clientWidth - (NARROW.matches ? 60 : 450);
  const [width, height, left, top, bottom] = [Math.min(Math.max(360, 110 * stats.length + 60), room), 190, 46, 12, 24];
  const gains = members
    .filter((rollout) => rollout.valid)
    .flatMap((rollout) => rollout.gain)
    .filter(isNumber);
  const high = Math.max(0.1, ...gains, ...stats.map((at) => at.mean + at.std));
  const low = Math.min(-0.1, ...gains, ...stats.map((at) => at.mean - at.std));
  const y = (gain) => top + ((high - gain) / (high - low)) * (height - top - bottom);
  const x = (depth) => left + (depth + 0.5) * ((width - left) / Math.max(1, stats.length));
  const half = Math.min(38, (width - left) / Math.max(1, stats.length) / 2 - 6);
  const ticks = [high, 0, low].map((gain) => [
    svg("line", { x1: left, x2: width, y1: y(gain), y2: y(gain), class: gain === 0 ? "zero" : "grid-line" }),
    svgText(signed(gain, 2), { x: left - 6, y: y(gain) + 4, "text-anchor": "end" }),
  ]);
  const columns = stats.map((at, depth) => [
    depth === turn
      ? svg("rect", { x: x(depth) - half - 4, width: 2 * half + 8, y: 2, height: height - 4, rx: 6, class: "here" })
      : [],
    svg("rect", {
      x: x(depth) - half,
      width: 2 * half,
      y: y(at.mean + at.std),
      height: Math.max(1, y(at.mean - at.std) - y(at.mean + at.std)),
      rx: 3,
      class: "spread",
    }),
    svg("line", { x1: x(depth) - half, x2: x(depth) + half, y1: y(at.mean), y2: y(at.mean), class: "mean" }),
    svgText(`turn ${depth + 1}`, { x: x(depth), y: height - 7, "text-anchor": "middle" }),
  ]);
  const dots = members.flatMap((rollout, i) =>
    rollout.valid
      ? rollout.gain.map((gain, depth) =>
          isNumber(gain)
            ? dot(run, rollout, depth, x(depth) + half * 1.5 * (i / Math.max(1, members.length - 1) - 0.5), y(gain))
            : [],
        )
      : [],
  );
  return svg(
    "svg",
    {
      class: "strip-plot",
      viewBox: `0 0 ${width} ${height}`,
      width,
      height,
      role: "img",
      "aria-label": "Gains of the question's rollouts by turn, with mean and standard deviation",
    },
    ...ticks,
    ...columns,
    ...dots,
  );
}

function dot(run, rollout, depth, cx, cy) {
  const mark = svg("circle", { cx, cy, r: 4.5, class: rollout.gain[depth] >= 0 ? "dot up" : "dot down" });
  const title = svg("title");
  title.textContent = `Rollout ${rollout.number}: gain ${signed(rollout.gain[depth], 4)}, normalised ${signed(rollout.normalized[depth], 2)}`;
  mark.append(title);
  return svg("a", { href: rolloutLink(run, rollout) }, mark);
}
