// The rows of the list of rollouts.

async function updateList() {
  await findRollouts();
  const total = (await runIndex(list.run)).rollouts.length;
  document.getElementById("count").textContent = `${count(list.found.length)} of ${count(total)} rollouts`;
  const box = document.getElementById("list");
  const shown = list.found.slice(0, list.shown);
  const rows = [];
  let previous = "";
  for (const rollout of shown) {
    const group = `${rollout.step}/${rollout.group}`;
    if (list.order !== "step" || group !== previous) rows.push(questionRow(rollout));
    previous = group;
    rows.push(rolloutRow(rollout));
  }
  if (list.found.length > shown.length) {
    rows.push(
      el(
        "button",
        { type: "button", class: "more", onclick: () => showMore() },
        `Show ${Math.min(PAGE, list.found.length - shown.length)} more`,
      ),
    );
  }
  box.replaceChildren(...rows);
}

async function showMore() {
  list.shown += PAGE;
  await updateList();
  markCurrent();
}

const rolloutLink = (run, rollout) => `#rollout/${run}/${rollout.step}/${rollout.row}`;
const groupLink = (run, rollout, depth) => `#group/${run}/${rollout.step}/${rollout.group}/${depth}`;

function questionRow(rollout) {
  return el(
    "a",
    { class: "question", href: groupLink(list.run, rollout, 1), title: "See its turn group" },
    el("span", { dir: "auto" }, rollout.question),
    el("small", {}, `step ${rollout.step}`),
  );
}

function rolloutRow(rollout) {
  const link = rolloutLink(list.run, rollout);
  const cells = rollout.advantage.map((advantage) => {
    const { class: name, style } = tint(advantage);
    return el("i", { class: name, style }, advantage > 0.005 ? "+" : advantage < -0.005 ? "−" : "0");
  });
  return el(
    "a",
    {
      class: "row",
      href: link,
      "aria-label": `${rollout.correct ? "correct" : "wrong"}, ${rollout.prediction ?? rollout.termination ?? "rollout"}, advantages ${rollout.advantage.map((a) => signed(a, 1)).join(", ")}`,
    },
    el(
      "span",
      { class: rollout.correct ? "mark-correct" : "mark-wrong", "aria-hidden": "true" },
      rollout.correct ? "✓" : "✗",
    ),
    el("span", { class: "said", dir: "auto" }, rollout.prediction ?? (rollout.termination ?? "").replaceAll("_", " ")),
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
