// The rows of the list of rollouts.

async function updateList() {
  await findRollouts();
  const total = (await runIndex(list.run)).rollouts.length;
  const made = report.runs[list.run].n_rollouts;
  const number = document.getElementById("count");
  number.textContent = `${count(list.found.length)} of ${count(total)} rollouts`;
  if (made > total) number.append(el("span", { class: "fewer" }, `; the run made ${count(made)}`));
  const box = document.getElementById("list");
  const rowsShown = list.found.slice(0, list.shown);
  const rows = [];
  let previous = "";
  for (const rollout of rowsShown) {
    const group = `${rollout.step}/${rollout.group}`;
    if (list.order !== "step" || group !== previous) rows.push(questionRow(rollout));
    previous = group;
    rows.push(rolloutRow(rollout));
  }
  if (list.found.length > rowsShown.length) {
    rows.push(
      el(
        "button",
        { type: "button", class: "more", onclick: () => showMore() },
        `Show ${Math.min(PAGE_ROWS, list.found.length - rowsShown.length)} more`,
      ),
    );
  }
  box.replaceChildren(...rows);
}

async function showMore() {
  list.shown += PAGE_ROWS;
  await updateList();
  markCurrent();
}

const rolloutLink = (run, rollout) => `#rollout/${run}/${rollout.step}/${rollout.row}`;
const groupLink = (run, rollout, depth) => `#group/${run}/${rollout.step}/${rollout.group}/${depth}`;

function questionRow(rollout) {
  return el(
    "a",
    { class: "question", href: groupLink(list.run, rollout, 1), title: "See its turn group" },
    el("span", { dir: "auto" }, rollout.question ? shown(rollout.question) : "(no prompt logged)"),
    el("small", {}, `step ${rollout.step}`),
  );
}

// The answer; where the environment ended the episode, the call it ended with; else how it ended.
const saidLast = (rollout) =>
  rollout.prediction ??
  (rollout.termination === "environment_done" ? rollout.last_call : null) ??
  ended(rollout) ??
  "not logged";

function rolloutRow(rollout) {
  const link = rolloutLink(list.run, rollout);
  const cells = rollout.advantage.map((advantage) => {
    const { class: name, style } = tint(advantage);
    if (!isNumber(advantage)) return el("i", { class: "tint broken" }, "!");
    return el("i", { class: name, style }, advantage > 0.005 ? "+" : advantage < -0.005 ? "−" : "0");
  });
  const mark = !rollout.valid || !rollout.finite ? "!" : rollout.correct ? "✓" : "✗";
  const shade = mark === "!" ? "broken" : rollout.correct ? "correct" : "wrong";
  const state = mark === "!" ? "broken" : wordOf(rollout);
  return el(
    "a",
    {
      class: "row",
      href: link,
      "aria-label": `${state}, ${saidLast(rollout)}, advantages ${rollout.advantage.map((a) => signed(a, 1)).join(", ")}`,
    },
    el("span", { class: `mark-${shade}`, "aria-hidden": "true" }, mark),
    el("span", { class: "said", dir: "auto" }, shown(saidLast(rollout))),
    el("span", { class: "strip", "aria-hidden": "true" }, cells),
  );
}

// The row of the rollout that is open, or the question whose turn group is.
function markCurrent() {
  const group = location.hash.replace(/\/\d+$/, "/1");
  document.querySelectorAll("#list [aria-current]").forEach((link) => link.removeAttribute("aria-current"));
  const links = [...document.querySelectorAll("#list a")].map((link) => [link, link.getAttribute("href")]);
  const open = links.find(([, href]) => href === location.hash) ?? links.find(([, href]) => href === group);
  if (!open) return;
  list.last = location.hash;
  open[0].setAttribute("aria-current", "true");
  open[0].scrollIntoView({ block: "nearest" });
}
