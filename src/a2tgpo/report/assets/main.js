// Addresses, keys, and the first view.

const NARROW = matchMedia("(max-width: 900px)");

const KEYS = [
  ["j  k", "next, previous rollout of the list"],
  ["g", "turn group of the rollout, and back"],
  ["←  →", "shallower, deeper turn of the group"],
  ["t", "cards, text or tokens"],
  ["/", "search"],
  ["1  2  3", "run, rollouts, evaluation"],
  ["Esc", "leave the search field"],
  ["?", "this list"],
];

const go = (hash) => {
  location.hash = hash;
};

async function route() {
  const [asked, ...rest] = location.hash.slice(1).split("/");
  const name = asked || (report.figures.length || !evaluations().length ? "run" : "evaluation");
  const numbers = rest.map(Number);
  clearCharts();
  marking = null;
  document.body.dataset.view = { rollout: "rollouts", group: "rollouts", pair: "rollouts" }[name] ?? name;
  document.querySelectorAll("nav[aria-label=Views] a").forEach((link) => {
    const here = link.getAttribute("href") === `#${document.body.dataset.view}`;
    here ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current");
  });
  if (name === "rollouts") await openRollouts(numbers[0] || 0);
  else if (name === "rollout") await showExplorer(numbers[0], () => rolloutView(...numbers));
  else if (name === "group") await showExplorer(numbers[0], () => groupView(...numbers));
  else if (name === "pair") await showExplorer(numbers[0], () => pairView(...numbers));
  else if (name === "evaluation") await showEvaluation(...rest);
  else await showRun();
  document.body.dataset.ready = location.hash;
}

// The list alone has nothing to read beside it: open what was open last, or what is best read first. In a narrow window
// the list stands alone.
async function openRollouts(run) {
  const last = run === list.run ? list.last : null;
  await showExplorer(run, () => el("p", { class: "empty" }, "No rollout matches."));
  if (NARROW.matches || run !== list.run) return;
  const links = list.found.map((rollout) => rolloutLink(run, rollout));
  const { opening } = report.runs[run];
  const best = opening && `#rollout/${run}/${opening.step}/${opening.row}`;
  const open = links.includes(last) ? last : links.includes(best) ? best : links[0];
  if (open) location.replace(open);
}

async function step(by) {
  const links = list.found.map((rollout) => rolloutLink(list.run, rollout));
  const at = links.indexOf(location.hash);
  const next = at < 0 ? 0 : Math.min(links.length - 1, Math.max(0, at + by));
  if (!links.length) return;
  if (next >= list.shown) await showMore();
  go(links[next]);
}

async function toggleGroup() {
  const [name, run, at, which] = location.hash.slice(1).split("/");
  const { rollouts } = await runIndex(Number(run));
  const here = rollouts.find(
    (one) => one.step === Number(at) && (name === "rollout" ? one.row : one.group) === Number(which),
  );
  if (here) go(name === "rollout" ? groupLink(run, here, 1) : rolloutLink(run, here));
}

function deeper(by) {
  const depths = [...document.querySelectorAll(".depths a")];
  const at = depths.findIndex((link) => link.hasAttribute("aria-current"));
  depths[at + by]?.click();
}

function nextView() {
  const tabs = [...document.querySelectorAll(".views .chip")];
  tabs[(tabs.findIndex((tab) => tab.getAttribute("aria-pressed") === "true") + 1) % tabs.length]?.click();
}

const keyHelp = document.getElementById("keys");
keyHelp.append(
  el("h2", { id: "keys-title" }, "Keys"),
  el(
    "dl",
    {},
    KEYS.map(([key, does]) =>
      el(
        "div",
        {},
        el(
          "dt",
          {},
          key.split("  ").map((one) => el("kbd", {}, one)),
        ),
        el("dd", {}, does),
      ),
    ),
  ),
  el("button", { type: "button", onclick: () => keyHelp.close() }, "Close"),
);
document.getElementById("help").addEventListener("click", () => keyHelp.showModal());

const ACTIONS = {
  j: () => step(1),
  k: () => step(-1),
  g: toggleGroup,
  ArrowLeft: () => deeper(-1),
  ArrowRight: () => deeper(1),
  t: nextView,
  "/": () => document.getElementById("search")?.focus(),
  1: () => go("#run"),
  2: () => go("#rollouts"),
  3: () => go("#evaluation"),
  "?": () => keyHelp.showModal(),
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, select, textarea");
  if (event.key === "Escape" && typing) event.target.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey || keyHelp.open || !(event.key in ACTIONS)) return;
  const rolloutsOnly = ["j", "k", "g"].includes(event.key);
  if (rolloutsOnly && document.body.dataset.view !== "rollouts") return;
  event.preventDefault();
  ACTIONS[event.key]();
});

matchMedia("(prefers-color-scheme: dark)").addEventListener(
  "change",
  () => document.body.dataset.view === "run" && showRun(),
);
addEventListener("hashchange", route);
await route();
if (typeof watchStamp === "function") {
  for (const [id, top] of places) document.getElementById(id)?.scrollTo({ top });
  watchStamp();
}
document.body.dataset.milliseconds = performance.now().toFixed(0);
