// Figures: a frame for each kind, and lines with uPlot; bars.js draws what has no axes.

const DASHES = [[], [5, 4], [2, 3]];
let drawn = [];

const cssColor = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const armColor = (arm) => cssColor(`--arm-${arm % 6}`);

function clearCharts() {
  drawn.forEach(({ plot, observer }) => {
    observer.disconnect();
    plot?.destroy();
  });
  drawn = [];
}

const logarithmic = new Set();

function figureElement(figure, arms, smoothing, remove = null) {
  const key = legend(figure);
  const readout = el("output", { class: "readout" }, key);
  const body = el("div", { class: `plot ${figure.kind}` });
  const draw = () => {
    body.replaceChildren();
    if (figure.kind === "parts") body.append(parts(figure, arms));
    else if (figure.kind === "matrix") body.append(matrices(figure, arms));
    else if (figure.kind === "boxes") fitted(body, (width) => boxes(figure, arms, width));
    else if (figure.kind === "histogram") fitted(body, (width) => histogram(figure, arms, width));
    else lines(figure, arms, body, (values) => readout.replaceChildren(...(values ?? key)), smoothing);
  };
  draw();
  return el(
    "figure",
    { id: `figure-${figure.id}`, class: figure.kind === "parts" || figure.kind === "matrix" ? "wide" : null },
    el(
      "div",
      { class: "figure-head" },
      el("h3", {}, figure.title),
      readout,
      figure.kind === "steps" && logButton(figure, draw),
      remove &&
        el("button", { type: "button", class: "small", onclick: remove, title: `Take ${figure.title} away` }, "×"),
    ),
    body,
    el("figcaption", {}, figure.caption),
  );
}

// Draw as wide as the frame is, so that letters keep their size.
function fitted(body, draw) {
  let last = 0;
  const observer = new ResizeObserver(() => {
    if (!body.clientWidth || body.clientWidth === last) return;
    last = body.clientWidth;
    body.replaceChildren(draw(last));
  });
  observer.observe(body);
  drawn.push({ observer });
}

// A logarithmic axis, where every value has a logarithm.
function logButton(figure, draw) {
  const values = figure.series.flatMap((series) => [...series.y, ...(series.low ?? [])]).filter(isNumber);
  if (!values.length || Math.min(...values) <= 0) return null;
  const press = () => {
    logarithmic.has(figure.id) ? logarithmic.delete(figure.id) : logarithmic.add(figure.id);
    button.setAttribute("aria-pressed", String(logarithmic.has(figure.id)));
    draw();
  };
  const button = toggle("log", logarithmic.has(figure.id), press, "Logarithmic scale");
  return button;
}

const seriesName = (series, arms) =>
  [arms.length > 1 ? arms[series.arm].name : "", series.label].filter(Boolean).join(", ");

// What tells several lines of one colour apart.
function legend(figure) {
  const labels = [...new Set(figure.series.map((series) => series.label))];
  if (labels.length < 2 || figure.kind !== "steps") return [];
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

// A scale around values that are all the same is as wide as a tenth of them, and from 0 to 1 around 0.
function valueRange(_, low, high) {
  if (low === null) return [null, null];
  if (low !== high) return uPlot.rangeNum(low, high, 0.1, true);
  return low === 0 ? [0, 1] : [low - Math.abs(low) / 10, low + Math.abs(low) / 10];
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

// From how many pixels on a press is a drag, which zooms, and no click, which leads to rollouts.
const dragFrom = 4;

function lines(figure, arms, body, show, smoothing) {
  const { data, series, bands } = columns(figure, arms, smoothing);
  const axis = {
    stroke: cssColor("--muted"),
    font: "11px system-ui, sans-serif",
    labelFont: "11px system-ui, sans-serif",
    labelSize: 16,
    labelGap: 0,
    grid: { stroke: cssColor("--line"), width: 1 },
    ticks: { show: false },
    gap: 6,
  };
  const log = logarithmic.has(figure.id);
  const plot = new uPlot(
    {
      width: 300,
      height: 206,
      padding: [10, 10, 0, 0],
      series,
      bands,
      legend: { show: false },
      scales: { x: { time: false }, y: log ? { distr: 3 } : { range: valueRange } },
      cursor: {
        y: false,
        points: { size: 7 },
        // uPlot would swallow every click whose pointer moved, or whose figure did; a hand moves a pixel or two.
        drag: { x: true, y: false, setScale: true, dist: dragFrom, click: () => {} },
        sync: { key: "steps" },
      },
      axes: [
        { ...axis, size: 24, space: 60, label: figure.x },
        {
          ...axis,
          size: 46,
          label: figure.y,
          values: (_, ticks) =>
            ticks.map((tick) => (tick === null ? "" : String(+tick.toPrecision(6)).replace("-", "−"))),
        },
      ],
      hooks: { setCursor: [(chart) => show(valuesAt(chart.cursor.idx, figure, data, series))] },
    },
    data,
    body,
  );
  let pressedAt = 0;
  plot.over.addEventListener("mousedown", (event) => (pressedAt = event.clientX));
  plot.over.addEventListener("click", (event) => {
    if (Math.abs(event.clientX - pressedAt) >= dragFrom) return;
    const { left, top } = plot.over.getBoundingClientRect();
    const i = plot.posToIdx(event.clientX - left);
    openStep(nearestArm(plot, figure, i, event.clientY - top), data[0][i]);
  });
  plot.over.title = "Click: rollouts of this step";
  body.setAttribute("role", "img");
  body.setAttribute("aria-label", description(figure, arms));
  const observer = new ResizeObserver(() => body.clientWidth && plot.setSize({ width: body.clientWidth, height: 206 }));
  observer.observe(body);
  drawn.push({ plot, observer });
}

// Whose line is nearest to a height, at the i-th step.
function nearestArm(plot, { series }, i, height) {
  const at = plot.data[0][i];
  const distance = (one) => {
    const value = one.y[one.x.indexOf(at)];
    return isNumber(value) ? Math.abs(plot.valToPos(value, "y") - height) : Infinity;
  };
  return series.reduce((best, one) => (distance(one) < distance(best) ? one : best)).arm;
}

// The rollouts that the update at `step` learned from, or the nearest batch of the arm that is in the page.
function openStep(arm, step) {
  const batches = report.arms[arm].runs.flatMap((name) => {
    const run = report.runs.findIndex((one) => one.name === name);
    return report.runs[run].steps.map((batch) => [run, batch]);
  });
  if (!batches.length) return;
  const away = ([, batch]) => (batch <= step ? step - batch : (batch - step) * 4);
  const [run, batch] = batches.reduce((best, one) => (away(one) < away(best) ? one : best));
  openFound(run, { step: String(batch) });
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
