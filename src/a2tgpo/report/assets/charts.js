// Figures: a frame for each kind, and lines with uPlot; bars.js draws what has no axes.

const DASHES = [[], [5, 4], [2, 3]];
let drawn = [];

const cssColor = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const armColor = (arm) => cssColor(`--arm-${arm % 6}`);

function clearCharts() {
  drawn.forEach(({ plot, observer }) => {
    observer.disconnect();
    plot.destroy();
  });
  drawn = [];
}

function figureElement(figure, arms, smoothing) {
  const key = legend(figure);
  const readout = el("output", { class: "readout" }, key);
  const body = el("div", { class: `plot ${figure.kind}` });
  const element = el(
    "figure",
    { id: `figure-${figure.id}`, class: figure.kind === "parts" || figure.kind === "matrix" ? "wide" : null },
    el("div", { class: "figure-head" }, el("h3", {}, figure.title), readout),
    body,
    el("figcaption", {}, figure.caption),
  );
  if (figure.kind === "parts") body.append(parts(figure, arms));
  else if (figure.kind === "matrix") body.append(matrices(figure, arms));
  else
    lines(
      figure,
      arms,
      body,
      (values) => readout.replaceChildren(...(values ?? key)),
      figure.kind === "steps" ? smoothing : 1,
    );
  return element;
}

const seriesName = (series, arms) =>
  [arms.length > 1 ? arms[series.arm].name : "", series.label].filter(Boolean).join(", ");

// What tells several lines of one colour apart.
function legend(figure) {
  const labels = [...new Set(figure.series.map((series) => series.label))];
  if (labels.length < 2 || figure.kind === "matrix") return [];
  const key = (dash) => {
    const pattern = DASHES[dash % 3].join(" ");
    return svg(
      "svg",
      { width: 18, height: 8, "aria-hidden": "true" },
      svg("line", {
        x1: 0,
        x2: 18,
        y1: 4,
        y2: 4,
        stroke: "currentColor",
        "stroke-width": 2,
        "stroke-dasharray": pattern,
      }),
    );
  };
  return labels.map((label, i) => el("span", {}, key(i), label));
}

function smooth(values, window) {
  if (window <= 1 || !values) return values;
  const half = Math.floor(window / 2);
  return values.map((value, i) => {
    if (value === null) return null;
    const near = values.slice(Math.max(0, i - half), i + half + 1).filter((one) => one !== null);
    return near.reduce((sum, one) => sum + one, 0) / near.length;
  });
}

// Columns of one figure on a common x, and uPlot's description of each.
function columns(figure, arms, smoothing) {
  const labels = [...new Set(figure.series.map((series) => series.label))];
  const tables = [];
  const series = [{ label: figure.x }];
  const bands = [];
  for (const one of figure.series) {
    const color = armColor(one.arm);
    const main = series.length;
    tables.push([one.x, smooth(one.y, smoothing)]);
    series.push({
      label: seriesName(one, arms),
      stroke: color,
      width: 1.75,
      dash: DASHES[labels.indexOf(one.label) % 3],
      spanGaps: true,
      points: { show: one.x.length < 9, size: 6, fill: color },
    });
    if (!one.low && smoothing > 1) {
      tables.push([one.x, one.y]);
      series.push({ width: 1, stroke: `${color}59`, points: { show: false }, spanGaps: true, edge: true });
    }
    if (!one.low) continue;
    for (const edge of [one.high, one.low]) {
      tables.push([one.x, smooth(edge, smoothing)]);
      series.push({ width: 0, stroke: "transparent", points: { show: false }, spanGaps: true, edge: true });
    }
    bands.push({ series: [main + 1, main + 2], fill: `${color}26` });
  }
  return { data: uPlot.join(tables), series, bands };
}

function lines(figure, arms, body, show, smoothing) {
  const { data, series, bands } = columns(figure, arms, smoothing);
  const axis = {
    stroke: cssColor("--muted"),
    font: "11px system-ui, sans-serif",
    grid: { stroke: cssColor("--line"), width: 1 },
    ticks: { show: false },
    gap: 6,
  };
  const turns = figure.kind === "turns";
  const plot = new uPlot(
    {
      width: 300,
      height: 190,
      padding: [10, 10, 0, 0],
      series,
      bands,
      legend: { show: false },
      scales: { x: { time: false, range: turns ? [0.7, Math.max(...data[0]) + 0.3] : undefined } },
      cursor: {
        y: false,
        points: { size: 7 },
        drag: { x: !turns, y: false, setScale: true },
        sync: turns ? undefined : { key: "steps" },
      },
      axes: [
        { ...axis, size: 26, incrs: turns ? [1] : undefined, space: turns ? 20 : 60 },
        {
          ...axis,
          size: 46,
          values: (_, ticks) => ticks.map((tick) => String(+tick.toPrecision(6)).replace("-", "−")),
        },
      ],
      hooks: { setCursor: [(chart) => show(valuesAt(chart.cursor.idx, figure, data, series))] },
    },
    data,
    body,
  );
  body.setAttribute("role", "img");
  body.setAttribute("aria-label", description(figure, arms));
  const observer = new ResizeObserver(() => body.clientWidth && plot.setSize({ width: body.clientWidth, height: 190 }));
  observer.observe(body);
  drawn.push({ plot, observer });
}

// The numbers under the cursor, or null where it is elsewhere.
function valuesAt(i, figure, data, series) {
  if (i === null || i === undefined) return null;
  const values = series
    .map((one, k) => [one, k, data[k][i]])
    .filter(([one, k, value]) => k > 0 && !one.edge && isNumber(value));
  const dashes = (one) => (one.dash.length ? "┄ " : "");
  return [
    `${figure.x} ${data[0][i]}`,
    ...values.map(([one, , value]) =>
      el("b", { style: { color: one.stroke }, title: one.label }, values.length > 1 && dashes(one), short(value)),
    ),
  ];
}

function description(figure, arms) {
  const parts = figure.series.map((series) => {
    const first = series.y[0];
    const last = series.y[series.y.length - 1];
    const range = `${figure.x} ${series.x[0]} to ${series.x[series.x.length - 1]}`;
    return `${seriesName(series, arms) || figure.title}: ${short(first)} to ${short(last)}, ${range}`;
  });
  return `${figure.title}. ${parts.join(". ")}`;
}
