// While the runs go on: ask the server every other second, load the page again when there is a newer one.

const MEMORY = "a2tgpo-report";

function remember() {
  const { filters, pattern, found, last, ...kept } = list;
  const places = ["view", "list", "content"].map((id) => [id, document.getElementById(id)?.scrollTop ?? 0]);
  const memory = { list: { ...kept, filters: [...filters] }, places, asked, smoothing, view };
  sessionStorage.setItem(MEMORY, JSON.stringify(memory));
}

function recall() {
  const memory = JSON.parse(sessionStorage.getItem(MEMORY) ?? "null");
  if (!memory) return [];
  sessionStorage.removeItem(MEMORY);
  Object.assign(list, memory.list, { filters: new Set(memory.list.filters) });
  asked.push(...memory.asked);
  smoothing = memory.smoothing;
  view = memory.view;
  return memory.places;
}

const places = recall();

function watchStamp() {
  const ask = async () => (await fetch("stamp", { cache: "no-store" })).text();
  const made = document.getElementById("made");
  const mine = document.body.dataset.stamp;
  setInterval(async () => {
    try {
      const newest = await ask();
      made.classList.remove("broken");
      const typing = document.activeElement?.matches("input, select");
      if (newest === mine || typing || document.hidden) return;
      remember();
      location.reload();
    } catch {
      made.textContent = "the server has ended";
      made.classList.add("broken");
    }
  }, 2000);
}
