// Every number the runs logged, drawn when asked for.

const asked = [];

async function metricsSection(container) {
  const metrics = await block("metrics");
  const names = Object.keys(metrics ?? {});
  if (!names.length) return;
  const grid = el("div", { class: "grid" });
  const draw = () => {
    grid.replaceChildren(
      ...asked
        .filter((name) => name in metrics)
        .map((name) => {
          const figure = {
            id: `metric-${name}`,
            title: name,
            caption: "As logged.",
            kind: "steps",
            x: "step",
            y: "value",
            series: metrics[name],
          };
          return figureElement(figure, report.arms, smoothing, () => {
            asked.splice(asked.indexOf(name), 1);
            draw();
          });
        }),
    );
  };
  const add = (name) => {
    if (name && !asked.includes(name)) asked.push(name);
    draw();
    pick.value = "";
  };
  const pick = choice(
    "Metric to draw",
    [["", `Draw one of ${names.length} logged metrics…`], ...names.map((name) => [name, name])],
    "",
    add,
  );
  container.append(
    el(
      "section",
      { "aria-label": "Every logged metric" },
      el("div", { class: "toolbar" }, el("h2", {}, "Every logged metric"), pick),
      grid,
    ),
  );
  draw();
}
