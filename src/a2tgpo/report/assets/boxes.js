// Boxes by turn and histograms: SVG with axes of their own. A box or a bar leads to its rollouts.

const FRAME = { height: 226, left: 66, right: 8, top: 8, bottom: 36 };

function svgText(text, attributes) {
  const element = svg("text", attributes);
  element.textContent = text;
  return element;
}

function titled(element, text) {
  const title = svg("title");
  title.textContent = text;
  element.append(title);
  return element;
}

// Round values from `low` to `high`, four or so.
function ticksOf(low, high) {
  const raw = (high - low || 1) / 4;
  const size = 10 ** Math.floor(Math.log10(raw));
  const step = size * [1, 2, 5, 10].find((one) => one * size >= raw);
  const first = Math.ceil(low / step) * step;
  return Array.from({ length: Math.floor((high - first) / step + 1e-9) + 1 }, (_, i) => first + i * step);
}

function axes(figure, width, low, high, y, columns, x) {
  const { height, left, right, bottom } = FRAME;
  return [
    ...ticksOf(low, high).map((tick) => [
      svg("line", {
        x1: left,
        x2: width - right,
        y1: y(tick),
        y2: y(tick),
        class: Math.abs(tick) < 1e-12 ? "zero" : "grid-line",
      }),
      svgText(short(Math.abs(tick) < 1e-12 ? 0 : tick), { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }),
    ]),
    ...columns.map((name, i) => svgText(String(name), { x: x(i), y: height - bottom + 16, "text-anchor": "middle" })),
    svgText(figure.x, { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }),
    svgText(figure.y, {
      x: 12,
      y: (height - bottom) / 2,
      "text-anchor": "middle",
      transform: `rotate(-90 12 ${(height - bottom) / 2})`,
    }),
  ];
}

function chart(figure, arms, width, content) {
  const { height } = FRAME;
  return svg(
    "svg",
    {
      class: "chart",
      width,
      height,
      viewBox: `0 0 ${width} ${height}`,
      role: "img",
      "aria-label": description(figure, arms),
    },
    ...content,
  );
}

// What a column of the figure leads to, with the keyboard too.
function leads(element, open) {
  element.setAttribute("tabindex", "0");
  element.setAttribute("role", "link");
  element.classList.add("leads");
  element.addEventListener("click", open);
  element.addEventListener("keydown", (event) => event.key === "Enter" && open());
  return element;
}

const runOfArm = (arm) => report.runs.findIndex((run) => run.name === report.arms[arm].runs[0]);

function boxes(figure, arms, width) {
  const { height, left, right, top, bottom } = FRAME;
  const turns = [...new Set(figure.series.flatMap((series) => series.x))].sort((a, b) => a - b);
  const ends = figure.series.flatMap((series) => [...series.least, ...series.most, ...series.mean]).filter(isNumber);
  const [low, high] = [Math.min(0, ...ends), Math.max(0, ...ends)];
  const margin = (high - low || 1) * 0.04;
  const y = (value) => top + ((high + margin - value) / (high - low + 2 * margin)) * (height - top - bottom);
  const slot = (width - left - right) / turns.length;
  const x = (i) => left + (i + 0.5) * slot;
  const each = Math.min(34, (0.8 * slot) / figure.series.length);
  const marks = figure.series.flatMap((series, k) =>
    series.x.map((turn, i) => {
      const middle = x(turns.indexOf(turn)) + (k - (figure.series.length - 1) / 2) * each;
      return box(series, i, middle, 0.8 * each, y, figure, arms);
    }),
  );
  return chart(figure, arms, width, [...axes(figure, width, low, high, y, turns, x), ...marks]);
}

function box(series, i, middle, width, y, figure, arms) {
  const color = `var(--arm-${series.arm % 6})`;
  const line = (from, to) => svg("line", { x1: middle, x2: middle, y1: y(from), y2: y(to), stroke: color });
  const across = (value, size, stroke) =>
    svg("line", {
      x1: middle - size / 2,
      x2: middle + size / 2,
      y1: y(value),
      y2: y(value),
      stroke: color,
      "stroke-width": stroke,
    });
  const [low, high, median, mean] = [series.low[i], series.high[i], series.y[i], series.mean[i]];
  const group = svg(
    "g",
    {},
    line(series.least[i], low),
    line(high, series.most[i]),
    across(series.least[i], width / 2, 1),
    across(series.most[i], width / 2, 1),
    svg("rect", {
      x: middle - width / 2,
      width,
      y: y(high),
      height: Math.max(1, y(low) - y(high)),
      fill: color,
      "fill-opacity": 0.22,
      stroke: color,
    }),
    across(median, width, 2.5),
    svg("circle", { cx: middle, cy: y(mean), r: 3, fill: "var(--text)" }),
  );
  const name = seriesName(series, arms);
  titled(
    group,
    `${name ? `${name}, ` : ""}turn ${series.x[i]}, ${count(series.n[i])} turns: median ${short(median)}, mean ${short(mean)}, middle half ${short(low)} to ${short(high)}, middle 90 % ${short(series.least[i])} to ${short(series.most[i])}`,
  );
  return leads(group, () => openFound(runOfArm(series.arm), { order: "gain", deep: series.x[i] }));
}

function histogram(figure, arms, width) {
  const { height, left, right, top, bottom } = FRAME;
  const bins = Array.from({ length: Math.max(...figure.series.map((series) => series.x.length)) }, (_, i) => i);
  const high = Math.max(0.01, ...figure.series.flatMap((series) => series.y));
  const y = (value) => top + ((high * 1.05 - value) / (high * 1.05)) * (height - top - bottom);
  const slot = (width - left - right) / bins.length;
  const x = (i) => left + (i + 0.5) * slot;
  const each = (0.84 * slot) / figure.series.length;
  const marks = figure.series.flatMap((series, k) => {
    const pale = figure.series.some(
      (one) => one.arm === series.arm && one !== series && figure.series.indexOf(one) > k,
    );
    return series.x.map((calls, i) => {
      const bar = svg("rect", {
        x: x(i) - 0.42 * slot + k * each,
        width: Math.max(1, each - 1),
        y: y(series.y[i]),
        height: Math.max(0, y(0) - y(series.y[i])),
        fill: `var(--arm-${series.arm % 6})`,
        "fill-opacity": pale ? 0.4 : 1,
      });
      titled(
        bar,
        `${seriesName(series, arms)}: ${calls} tool calls in ${percent(series.y[i])}, ${count(series.n[i])} rollouts`,
      );
      return leads(bar, () => openFound(runOfArm(series.arm), { fields: { calls: String(calls) } }));
    });
  });
  const names = el(
    "div",
    { class: "legend" },
    figure.series.map((series, k) => {
      const pale = figure.series.some((one, l) => one.arm === series.arm && l > k);
      return el(
        "span",
        {},
        el("i", {
          class: "swatch",
          style: { background: `var(--arm-${series.arm % 6})`, opacity: pale ? "0.4" : "1" },
        }),
        seriesName(series, arms),
      );
    }),
  );
  return el(
    "div",
    {},
    figure.series.length > 1 && names,
    chart(figure, arms, width, [...axes(figure, width, 0, high, y, bins, x), ...marks]),
  );
}
