// A rollout as JSON: what the page holds of its record in the log, rounded, secrets hidden.

async function recordOf(run, rollout) {
  const texts = await batchTexts(run, rollout.step);
  const { files } = await runIndex(run);
  const { name } = report.runs[run];
  return {
    run: name,
    file: files[rollout.file],
    line: rollout.line,
    first_update: rollout.step,
    group: rollout.group,
    id: rollout.id,
    prompt: rollout.question,
    answer: rollout.answer,
    hops: rollout.hops,
    segments: await segmentsOf(run, rollout),
    termination: rollout.termination,
    reason: rollout.reason,
    prediction: rollout.prediction,
    calls: texts.calls[rollout.row],
    observed: rollout.observed || null,
    success: rollout.success,
    reward: rollout.reward,
    valid: rollout.valid,
    unscored: rollout.unscored,
    notes: texts.notes[rollout.row],
    likelihood: rollout.likelihood,
    gain: rollout.gain,
    normalized_gain: rollout.normalized,
    advantage: rollout.advantage,
    clip_low: rollout.low,
    clip_high: rollout.high,
    update: rollout.update && { ...rollout.update, log_ratio: texts.log_ratio[rollout.row] },
  };
}

async function copyText(button, text) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "The browser refused";
  }
  setTimeout(() => (button.textContent = before), 1500);
}

function save(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

function recordButtons(run, rollout) {
  const json = async () => JSON.stringify(await recordOf(run, rollout), null, 1);
  const name = `rollout_step${rollout.step}_${rollout.row}.json`;
  return [
    el("button", { type: "button", onclick: (event) => copyText(event.target, location.href) }, "Copy link"),
    el("button", { type: "button", onclick: async (event) => copyText(event.target, await json()) }, "Copy JSON"),
    el("button", { type: "button", onclick: async () => save(name, await json()) }, "Download JSON"),
  ];
}
