// Blocks of the page: base64 of gzip of JSON, decoded when first asked for.

const decoded = new Map();

function block(name) {
  if (!decoded.has(name)) decoded.set(name, decode(name));
  return decoded.get(name);
}

async function decode(name) {
  const element = document.querySelector(`script[data-block="${CSS.escape(name)}"]`);
  if (element === null) return null;
  const binary = atob(element.textContent);
  const bytes = Uint8Array.from(binary, (character) => character.charCodeAt(0));
  element.textContent = "";
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

const $view = document.getElementById("view");
const report = await block("report");

const runIndex = (run) => block(`index-${run}`);
const batchTexts = (run, step) => block(`texts-${run}-${step}`);
const tokenTexts = (run) => block(`tokens-${run}`);

// The segments of a rollout with their texts and token ids.
async function segmentsOf(run, rollout) {
  const texts = await batchTexts(run, rollout.step);
  return texts.rollouts[rollout.row].map(([turn, number]) => ({ turn, ...texts.segments[number] }));
}
