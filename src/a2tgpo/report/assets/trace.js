// A rollout's text as a conversation: a card for each thought, tool call, result and answer.

const TAGS = {
  think: "thought",
  search: "call",
  tool_call: "call",
  code: "call",
  answer: "answer",
  result: "result",
  information: "result",
  tool_response: "result",
};
const NAMES = {
  thought: "Thought",
  call: "Tool call",
  answer: "Answer",
  result: "Result",
  said: "Text",
  frame: "Template",
};
const tagOf = (tools) =>
  [...Object.keys(TAGS), ...tools.map((name) => name.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"))].join("|");
const pairOf = (tools) => new RegExp(`<(${tagOf(tools)})>([^]*?)</\\1>`, "g");
const openOf = (tools) => new RegExp(`<(${tagOf(tools)})>([^]*)$`);
const OPEN_RESULT = /<(result|information|tool_response)>([^]*)$/;
const UNOPENED = /^((?:(?!<think>)[^])*?)<\/think>/;

// What stands in `text`, in order: `kind`, `text`, the `tag` around it, and a `note` on what is odd about that. `tools`
// are the names of tools that are tags.
function partsOf(text, policy, tools = []) {
  const parts = [];
  const framed = (piece) => !policy || /^\s*(<\|[^|]+\|>\s*)+$/.test(piece);
  const plain = (piece) => piece.trim() && parts.push({ kind: framed(piece) ? "frame" : "said", text: piece });
  let from = 0;
  const unopened = policy && text.match(UNOPENED);
  if (unopened) {
    parts.push({
      kind: "thought",
      tag: "think",
      text: unopened[1],
      note: "opened before the turn, by the chat template",
    });
    from = unopened[0].length;
  }
  const rest = text.slice(from);
  let at = 0;
  for (const match of rest.matchAll(pairOf(policy ? tools : []))) {
    plain(rest.slice(at, match.index));
    parts.push({ kind: TAGS[match[1]] ?? "call", tag: match[1], text: match[2] });
    at = match.index + match[0].length;
  }
  const end = rest.slice(at);
  const open = end.match(policy ? openOf(tools) : OPEN_RESULT); // a template may open the next thought
  if (!open) plain(end);
  else {
    plain(end.slice(0, open.index));
    parts.push({ kind: TAGS[open[1]] ?? "call", tag: open[1], text: open[2], note: "never closed" });
  }
  return parts;
}

// Name and arguments of a tool call that is JSON, or null.
function calledWith(text) {
  try {
    const call = JSON.parse(text);
    const args = typeof call.arguments === "string" ? JSON.parse(call.arguments) : call.arguments;
    return typeof call.name === "string"
      ? { name: call.name, args: args && typeof args === "object" ? args : {} }
      : null;
  } catch {
    return null;
  }
}

function partCard(part, { take = () => null, prediction, correct, inBlock } = {}) {
  const call = take(part.kind);
  const told = part.kind === "call" ? calledWith(part.text) : null;
  const tool = told ? told.name : part.tag === "search" ? "Search" : Object.hasOwn(TAGS, part.tag) ? NAMES.call : part.tag;
  const name = part.kind === "call" ? shown(tool) : NAMES[part.kind];
  const list = part.kind === "result" && passages(part.text, call);
  const beside = [
    part.note && el("em", { class: "odd" }, part.note),
    part.kind === "result" && !list && call?.passage_ids.length ? passageIds(call) : null,
    part.kind === "call" && isNumber(call?.seconds) ? el("span", {}, `${short(call.seconds)} s`) : null,
    part.kind === "result" && call?.refused ? el("em", { class: "odd" }, "refused") : null,
    part.kind === "answer" && prediction !== undefined ? readAs(prediction, correct) : null,
  ].filter(Boolean);
  return el(
    "div",
    { class: `part is-${part.kind}` },
    // A result in a block of its own needs no second name.
    (!inBlock || beside.length > 0) && el("header", {}, !inBlock && el("b", {}, name), beside),
    list || (told ? callArguments(told.args) : textOf(part.text)),
  );
}

const textOf = (text) => el("div", { class: "text", dir: "auto" }, shown(text.trim()));

function passageIds(call) {
  const n = call.passage_ids.length;
  return el(
    "span",
    { class: "ids", dir: "auto" },
    `${n} passage${n === 1 ? "" : "s"}: `,
    call.passage_ids.map((id, i) => [i ? ", " : "", el("code", {}, shown(id))]),
  );
}

const readAs = (prediction, correct) =>
  el(
    "span",
    { class: correct ? "mark-correct" : "mark-wrong", dir: "auto" },
    prediction === null ? "no answer was read" : [correct ? "✓ read as " : "✗ read as ", shown(prediction)],
  );

function callArguments(args) {
  const rows = Object.entries(args).map(([name, value]) =>
    el(
      "div",
      {},
      el("dt", {}, shown(name)),
      el("dd", { dir: "auto" }, shown(typeof value === "string" ? value : JSON.stringify(value))),
    ),
  );
  return el("dl", { class: "arguments" }, rows.length ? rows : el("div", {}, el("dt", {}, "no arguments")));
}

// Numbered passages one below the other, each with its id where as many ids were logged; null for any other result.
function passages(text, call) {
  const pieces = text.split(/(?=\[ ?\d+ ?\] )/).filter((piece) => piece.trim());
  const ids = call?.passage_ids ?? [];
  const named = ids.length === pieces.length;
  if (pieces.length < 2 && !(pieces.length === 1 && named)) return null;
  if (ids.length && !named) return null;
  return el(
    "div",
    { class: named ? "passages named" : "passages" },
    pieces.map((piece, i) =>
      el("div", { class: "passage" }, named && el("code", { title: "passage id" }, shown(ids[i])), textOf(piece)),
    ),
  );
}

// Which logged call a card is about: the first call of the text is the first in the log, and so is its result.
function callTaker(calls) {
  const made = [...calls];
  const awaiting = [];
  const take = (kind) => {
    if (kind === "call") awaiting.push(made.shift() ?? null);
    return kind === "call" ? awaiting.at(-1) : kind === "result" ? (awaiting.shift() ?? null) : null;
  };
  return Object.assign(take, { tools: toolsOf(calls.map((call) => call.tool)) });
}

// Names of tools that may stand as tags: those that the protocol has no tag for.
const toolsOf = (names) => [...new Set(names)].filter((name) => name && !Object.hasOwn(TAGS, name));

const cardsOf = (text, policy, facts) =>
  partsOf(text, policy, facts.take?.tools ?? facts.tools).map((part) => (part.kind === "frame" ? frameOf(part) : partCard(part, facts)));

const frameOf = (part) =>
  el("div", { class: "text frame", dir: "auto", title: "Written by the template" }, shown(part.text.trim()));

// The protocol's tags in a quieter colour, and what the environment wrote between two of them; still text.
function tagged(text) {
  const spans = (part) =>
    part
      .split(/(<\/?(?:think|search|result|answer|tool_call|tool_response)>)/)
      .map((one, i) => (i % 2 ? el("span", { class: "tag" }, one) : shown(one)));
  return text
    .split(/(<(?:result|tool_response)>[^]*?<\/(?:result|tool_response)>)/)
    .map((part, i) => (i % 2 ? el("span", { class: "read" }, shown(part)) : spans(part)));
}
