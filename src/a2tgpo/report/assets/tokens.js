// A rollout token by token beside its text: the loss mask, and how each log-probability moved in the update.

// Returns a function from a segment and the number of policy tokens before it to its element.
async function tokenView(run, rollout) {
  const texts = await tokenTexts(run);
  const ratios = (await batchTexts(run, rollout.step)).log_ratio[rollout.row];
  return (segment, offset) => {
    const inLoss = segment.turn >= 0 && rollout.valid;
    const spans = segment.ids.flatMap((id, i) => {
      const ratio = inLoss && ratios.length ? ratios[offset + i] : undefined;
      const { class: shade, style } = tint(ratio, 0.2);
      const text = texts ? texts[id] || `⟨${id}⟩` : `${id} `;
      const title = `token ${id}${inLoss ? "" : ", not in the loss"}${isNumber(ratio) ? `, log-ratio ${signed(ratio, 4)}` : ""}`;
      const token = el(
        "span",
        { class: `token ${inLoss ? "in-loss" : "masked"} ${shade}`, style, title },
        visible(text.replaceAll("\n", "↵\n")),
      );
      return [token, el("wbr")];
    });
    return el(
      "div",
      { class: "beside" },
      el("div", { class: "text original", dir: "auto", "aria-label": "Text" }, tagged(segment.text)),
      el("div", { class: "text tokens", dir: "auto", "aria-label": "Tokens" }, spans),
    );
  };
}

function tokenLegend(rollout, run) {
  const ratio = rollout.update
    ? [
        "Colour: log π/π_old in the update, ",
        el("span", { class: "token in-loss tint up", style: { "--strength": "0.7" } }, "likelier"),
        " or ",
        el("span", { class: "token in-loss tint down", style: { "--strength": "0.7" } }, "less likely"),
        ".",
      ]
    : "Log-ratios are not logged.";
  return el(
    "p",
    { class: "hint token-legend" },
    el("span", { class: "token in-loss" }, "in the loss"),
    el("span", { class: "token masked" }, "masked"),
    el("span", {}, ratio),
    report.runs[run].has_tokens ? null : " The run has saved no tokenizer yet: tokens are shown by their ids.",
  );
}
