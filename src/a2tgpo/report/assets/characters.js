// Text as it is, with what hides in it shown: invisible and bidirectional characters by their code, hits of a search.

const UNSEEN =
  /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\u034F\u115F\u1160\u17B4\u17B5\u180B-\u180F\u3164\uFFA0\uFE00-\uFE0E\u{E0100}-\u{E01EF}]/gu;

const codeOf = (character) => `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;

// The character stays in the text, for copying; CSS shows its code and keeps it from turning its neighbours around.
function unseen(character) {
  return el(
    "span",
    { class: "unseen", "data-code": codeOf(character), title: `${codeOf(character)}, not visible by itself` },
    character,
  );
}

function visible(text) {
  const nodes = [];
  let from = 0;
  for (const match of text.matchAll(UNSEEN)) {
    if (match[0] === "\n" || match[0] === "\t") continue;
    nodes.push(text.slice(from, match.index), unseen(match[0]));
    from = match.index + match[0].length;
  }
  nodes.push(text.slice(from));
  return nodes.filter((node) => node !== "");
}

// A pattern that finds `query` in any case, or null for an empty one.
function patternOf(query) {
  const words = query.trim();
  return words ? new RegExp(words.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "gi") : null;
}

// What the view that is open has been searched for.
let marking = null;

// The nodes of `text`, hits of the search marked.
function shown(text, pattern = marking) {
  if (!pattern) return visible(text);
  const nodes = [];
  let from = 0;
  for (const match of text.matchAll(pattern)) {
    nodes.push(visible(text.slice(from, match.index)), el("mark", {}, visible(match[0])));
    from = match.index + match[0].length;
  }
  return [...nodes, visible(text.slice(from))].flat();
}
