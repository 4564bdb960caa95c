"""What a reader does with the page, in a real browser: begin, read, search, compare, take along, on any screen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from a2tgpo.report.run_data import read_runs
from tests.report.conftest import Watched
from tests.report.runs import HOSTILE, Spoken, write_evaluation, write_run

Open = Callable[..., Watched]


def records_of(run: Path, step: int = 0) -> list[dict[str, Any]]:
    """The records of a batch."""
    lines = (run / "rollouts" / f"step_{step:06d}.jsonl").read_text().split("\n")
    return [json.loads(line) for line in lines if line]


def write_records(run: Path, records: list[dict[str, Any]], step: int = 0) -> None:
    """Write them again."""
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    (run / "rollouts" / f"step_{step:06d}.jsonl").write_text(text, encoding="utf-8")


def numbers(shown: Watched, row: int, column: str) -> float:
    """A cell of the turn table."""
    cell = shown.page.locator("table[aria-label=Turns] tbody tr").nth(row).locator(f'td[data-name="{column}"]')
    return float(cell.inner_text().split()[0].replace("−", "-"))


def waits_for_count(shown: Watched, n: int, of: int) -> None:
    shown.page.wait_for_selector(f'#count:text-is("{n} of {of} rollouts")')


def test_a_judges_words_stand_beside_the_turn(tmp_path: Path, open_page: Open) -> None:
    """Under what the policy wrote, with the score; hostile words stay text; a rollout without scores says why."""
    run = write_run(tmp_path / "run", batches=1, turn_signal="judge")
    records = records_of(run)
    for record in records:
        del record["likelihood"]
    records[0] |= {"gain": [0.25], "notes": [f"narrows it {HOSTILE}"]}
    records[1] |= {"valid": False, "unscored": "prose: the judge answered no JSON"}
    write_records(run, records)
    shown = open_page(run)
    shown.go("#rollout/0/1/0")
    (words,) = shown.texts("#turn-1 .judged")
    assert words.startswith("Judged +0.25 narrows it <script>") and shown.page.locator("#turn-2 .judged").count() == 0
    assert "judge's score" in shown.texts("table[aria-label=Turns] thead th")
    shown.go("#rollout/0/1/1")
    assert any("prose: the judge answered no JSON" in fact for fact in shown.texts(".facts div"))


# --- begin ----------------------------------------------------------------------------------------------------------


def test_it_begins_with_a_rollout_and_says_why(tmp_path: Path, open_page: Open) -> None:
    """The first view holds a rollout's turn table and the reason it was chosen; the list of rollouts opens there. The
    turn group stands in the table: number, mean and deviation of the gains at that depth, and noise is called so."""
    run = write_run(tmp_path / "run", batches=1, questions=2)
    records = records_of(run)
    for record in records[4:]:  # the second question's gains hardly differ
        record["gain"] = [0.5 + 0.0001 * record["reward"]] * len(record["gain"])
    write_records(run, records)
    shown = open_page(run)
    assert shown.texts("[aria-label='A rollout to begin with'] p")[0].startswith("Begin here. Turn ")
    shown.page.get_by_role("link", name="Read it").click()
    shown.page.wait_for_selector(".why")
    row = int(shown.page.evaluate("location.hash").split("/")[-1])
    assert row < 4 and shown.texts(".why")[0].startswith("Why this one first. Turn ")
    gains = [record["gain"][0] for record in records[:4]]
    mean = sum(gains) / 4
    assert numbers(shown, 0, "n") == 4 and numbers(shown, 0, "mean") == pytest.approx(mean, abs=1e-4)
    assert numbers(shown, 0, "σ") == pytest.approx((sum((g - mean) ** 2 for g in gains) / 4) ** 0.5, abs=1e-4)
    assert shown.page.locator(".flag").count() == 0
    shown.go("#rollout/0/1/4")
    assert shown.texts("table[aria-label=Turns] .flag") == ["noise"]


def test_a_broken_run_looks_broken(tmp_path: Path, open_page: Open) -> None:
    """NaN, failed tools, an unfinished run and fewer rollouts than made are seen in the first view and in the list."""
    run = write_run(tmp_path / "run", max_steps=100)
    records = records_of(run)
    records[0] |= {"gain": [None], "advantage": [None, None]}
    records[1] |= {"termination": "tool_failed", "reason": "timed out", "valid": False}
    write_records(run, records)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "loss": null}\n')
    shown = open_page(run, max_rollouts=16)
    notices = " ".join(shown.texts("[aria-label=Notices] li.level-bad"))
    for words in ("loss is not a number", "the tool failed in 1 of 24", "not finished: step 7 of 100"):
        assert words in notices
    assert any("holds 16 of the 24 rollouts made" in notice for notice in shown.texts("[aria-label=Notices] li"))
    assert shown.texts("td.broken") == ["! step 7 of 100, not finished"]
    shown.go("#rollout/0/1/0")
    assert shown.texts("#list .mark-broken") == ["!", "!"] and shown.texts("#list i.broken") == ["!", "!"]
    assert shown.texts(".turns .broken") == ["NaN", "NaN", "NaN"]
    shown.page.get_by_role("button", name="broken", exact=True).click()
    shown.page.wait_for_selector('#count:has-text("2 of 16 rollouts")')
    shown.page.locator("[aria-label='How rollouts ended']").wait_for(state="detached")
    shown.go("#run")
    shown.page.get_by_role("button", name="tool failed: 1 rollouts").click()
    shown.page.wait_for_selector('#count:has-text("1 of 16 rollouts")')


# --- read -----------------------------------------------------------------------------------------------------------


def test_a_rollout_reads_like_a_conversation(tmp_path: Path, open_page: Open) -> None:
    """A card each for thought, search, result with the ids of its passages, and answer with what was read from it; the
    text as it was written, and beside its tokens, are a key away."""
    found = '<result> [1] "Bora" is a wind. [2] "Bise" is another. </result>'
    spoken = Spoken(
        [("<think> which wind </think> <search> bora </search>", found)], "<answer> \\boxed{gold0} </answer>"
    )
    run = write_run(tmp_path / "run", batches=1, questions=1, rollouts=2, say=lambda *_: spoken)
    records = records_of(run)
    for record in records:
        record["calls"] = [{"query": "bora", "passage_ids": ["w1", "w2"], "seconds": 0.25}]
    write_records(run, records)
    shown = open_page(run, address="#rollout/0/1/0")
    assert shown.texts(".turn .part > header b") == ["Thought", "Search", "Answer"]
    assert shown.texts(".turn .part .text") == ["which wind", "bora", "\\boxed{gold0}"]
    assert shown.texts(".passage") == ['w1\n[1] "Bora" is a wind.', 'w2\n[2] "Bise" is another.']
    assert "0.25 s" in shown.texts(".is-call header")[0] and "✓ read as gold0" in shown.texts(".is-answer header")[0]
    shown.page.keyboard.press("t")
    assert shown.page.locator(".result .text").first.text_content() == found
    shown.page.keyboard.press("t")
    shown.page.wait_for_selector(".tokens")
    assert shown.page.locator(".beside .original").nth(1).text_content() == found


def test_tools_with_tags_of_their_own(tmp_path: Path, open_page: Open) -> None:
    """The tags of tools that the log names are calls, with their seconds; what the environment refused is marked, tags
    that are no tool's stay text, and the environment's word decides whether the rollout was right."""
    spoken = Spoken(
        [("<think> low </think> <guess> x </guess>", "<result>\nerror: no number\n</result>")],
        "<b>5</b> <guess> 5 </guess>",
    )
    run = write_run(tmp_path / "run", batches=1, questions=1, rollouts=2, say=lambda *_: spoken)
    records = records_of(run)
    for record in records:
        call = {"passage_ids": [], "tool": "guess"}
        record["calls"] = [call | {"query": "x", "refused": True}, call | {"query": "5"}]
        record |= {"call_seconds": [0.25, 1.5], "success": True, "termination": "environment_done", "prediction": None}
    write_records(run, records)
    shown = open_page(run, address="#rollout/0/1/0")
    assert shown.texts(".turn .part > header b") == ["Thought", "guess", "Text", "guess"]
    headers = shown.texts(".is-call header")
    assert "0.25 s" in headers[0] and "1.50 s" in headers[1]
    assert shown.texts(".is-result .odd") == ["refused"]
    (read, *_) = read_runs([run])
    assert all(rollout.correct for batch in read.batches for rollout in batch.rollouts)


def test_native_tool_calls_and_opened_thoughts(tmp_path: Path, open_page: Open) -> None:
    """A tool call in JSON is its name and arguments; a thought that the template opened is one without its first tag;
    what the template writes around a result is set apart."""
    call = 'so\n</think>\n<tool_call>\n{"name": "look", "arguments": {"query": "bora", "k": 3}}\n</tool_call>'
    result = "<|im_end|>\n<|im_start|>user\n<tool_response>\na wind\n</tool_response><|im_end|>\n<think>\n"
    spoken = Spoken([(call, result)], "<think>never")
    run = write_run(tmp_path / "run", batches=1, questions=1, rollouts=2, say=lambda *_: spoken)
    shown = open_page(run, address="#rollout/0/1/0")
    assert shown.texts(".turn .part > header b") == ["Thought", "look", "Thought"]
    assert shown.texts(".arguments div") == ["query\nbora", "k\n3"]
    assert shown.texts(".odd") == ["opened before the turn, by the chat template", "never closed"]
    assert shown.texts(".is-result .text") == ["a wind"]
    assert shown.texts(".frame")[:2] == ["<|im_end|> <|im_start|>user", "<|im_end|> <think>"]


def test_what_hides_in_a_text_is_shown(tmp_path: Path, open_page: Open) -> None:
    """Invisible and bidirectional characters stand there with their code, and in the text for copying; nothing after
    one of them is turned around."""
    hidden = "a\u200bb\u202ec\u202c\u00ad\u2066d\u2069\ufeff\x07\U000e0041"
    run = write_run(tmp_path / "run", batches=1, questions=1, rollouts=2, say=lambda *_: Spoken([(hidden, "r")], "x"))
    shown = open_page(run, address="#rollout/0/1/0")
    text = shown.page.locator(".turn .text").first
    assert text.text_content() == hidden
    codes = [one.get_attribute("data-code") for one in text.locator(".unseen").all()]
    assert codes == [f"U+{ord(c):04X}" for c in hidden if c not in "abcd"]
    boxes = text.evaluate(
        """(element) => [...element.childNodes].filter((node) => node.nodeType === 3).map((node) => {
            const range = document.createRange(); range.selectNode(node); return range.getBoundingClientRect().x; })"""
    )
    assert boxes == sorted(boxes)


# --- search ---------------------------------------------------------------------------------------------------------


def test_search_where_it_is_asked_to(tmp_path: Path, open_page: Open) -> None:
    """A search looks where it is told and marks what it finds, in the list and in the rollout that is open."""
    run = write_run(tmp_path / "run", batches=1)
    shown = open_page(run, address="#rollout/0/1/2")
    shown.page.get_by_label("Search questions, turns and results").fill("FACT 2")
    waits_for_count(shown, 2, 8)
    shown.page.wait_for_selector(".result mark")
    assert shown.texts(".conversation mark") == ["fact 2"]
    assert shown.page.evaluate("document.activeElement.id") == "search"
    scope = shown.page.get_by_label("Search in")
    for name, query, n in (
        ("policy", "fact", 0),
        ("policy", "term1", 4),
        ("read", "term1", 0),
        ("question", "question 1", 4),
    ):
        scope.select_option(name)
        shown.page.get_by_label("Search questions, turns and results").fill(query)
        waits_for_count(shown, n, 8)
    assert set(shown.texts("#list .question mark")) == {"question 1"}
    scope.select_option("answers")
    shown.page.get_by_label("Search questions, turns and results").fill("lead")
    waits_for_count(shown, 2, 8)
    shown.page.get_by_label("Search questions, turns and results").fill("(a+)+[")
    waits_for_count(shown, 0, 8)


def test_filters(tmp_path: Path, open_page: Open) -> None:
    """By hops, turns, ending, reward and the gain of any turn, each as the records have it, and together."""
    run = write_run(tmp_path / "run", batches=1)
    records = records_of(run)
    for row, record in enumerate(records):
        record["hops"] = 1 + row % 4
    write_records(run, records)
    shown = open_page(run, address="#rollout/0/1/0")
    shown.page.locator(".more-filters summary").click()

    def chosen(name: str, value: str, n: int) -> None:
        shown.page.get_by_label(name, exact=True).select_option(value)
        waits_for_count(shown, n, 8)

    for name, value, n in (("hops", "2", 2), ("turns", "4", 2), ("tool calls", "1", 4)):
        chosen(name, value, n)
        chosen(name, "", 8)
    chosen("ending", "malformed", sum(record["termination"] == "malformed" for record in records))
    chosen("ending", "", 8)
    shown.page.get_by_label("reward, from").fill("0.5")
    waits_for_count(shown, 4, 8)
    shown.page.get_by_label("a turn's gain, to").fill("-0.2")
    waits_for_count(shown, sum(r["reward"] == 1 and min(r["gain"]) <= -0.2 for r in records), 8)
    shown.page.get_by_role("button", name="Clear all").click()
    waits_for_count(shown, 8, 8)
    assert shown.page.get_by_label("reward, from").input_value() == ""


def test_figures_lead_to_rollouts(tmp_path: Path, open_page: Open) -> None:
    """A point leads to the rollouts its update learned from, also where the hand moves a little, a box to those with
    such a turn, a bar to those with as many tool calls. A drag zooms and stays."""
    run = write_run(tmp_path / "run", batches=3)
    shown = open_page(run)
    plot, mouse = shown.page.locator("#figure-entropy .u-over"), shown.page.mouse

    def drag(start: int, to: int) -> None:
        """Press at a distance from the plot's left edge, from its right edge below 0, and let go `to` pixels on."""
        plot.scroll_into_view_if_needed()
        box = plot.bounding_box()
        assert box is not None
        x, y = box["x"] + start % box["width"], box["y"] + 60
        mouse.move(x, y)
        mouse.down()
        mouse.move(x + to, y, steps=5)
        mouse.up()

    for start, to, step in ((-3, 0, "5"), (3, 2, "1")):  # a hand moves a pixel or two
        drag(start, to)
        waits_for_count(shown, 8, 24)
        assert shown.page.get_by_label("Step", exact=True).input_value() == step
        shown.go("#run")
    drag(100, 150)
    assert shown.page.evaluate("location.hash") == "#run"
    shown.page.locator("#figure-gain_raw .leads").nth(2).click()
    waits_for_count(shown, 6, 24)
    shown.go("#run")
    shown.page.locator("#figure-searches .leads").nth(3).press("Enter")
    waits_for_count(shown, 6, 24)


# --- compare --------------------------------------------------------------------------------------------------------


def test_the_same_question_at_other_steps_and_side_by_side(tmp_path: Path, open_page: Open) -> None:
    """A question that was drawn again is a link away, in other runs too; two rollouts stand side by side, turn by turn,
    with the words only one of them has marked."""
    runs = [write_run(tmp_path / name, batches=2, beta=beta) for beta, name in enumerate("ab")]
    shown = open_page(*runs, address="#rollout/0/1/0")
    assert shown.texts(".elsewhere a") == ["a step 3", "b step 1", "b step 3"]
    shown.page.get_by_label("Side by side with").select_option("#pair/0/1/0/0/1/1")
    shown.ready("#pair/0/1/0/0/1/1")
    first, second = shown.page.locator(".sides").nth(1).locator(".text").nth(0), shown.page.locator(".only")
    assert first.text_content() == "<think> part 0 </think> <search> term0 0 </search>"
    assert second.all_inner_texts()[:2] == ["term0", "term1"]
    assert shown.texts(".card.ended") == ["Ended before."]
    shown.go("#pair/0/1/0/1/9/9")
    assert "not in the page" in shown.texts("#content")[0]
    shown = open_page(*runs)
    assert "What differs between the recipes" in shown.texts("h2")
    assert shown.texts("table[aria-label='Recipe difference'] th") == ["key", "a", "b", "beta"]


def test_evaluations_flip_with_their_p(tmp_path: Path, open_page: Open) -> None:
    """Of eight questions four turn right and none wrong: a difference of 0.5 with the p of the paired t test, which is
    that of t = √7 with 7 degrees of freedom. Its rollouts are cards too."""
    run = write_run(tmp_path / "run", batches=1)
    text = "<think> hm </think> <search> bora </search> <result> a wind </result> <answer> \\boxed{gold} </answer>"
    write_evaluation(run, "before_greedy", [False] * 6 + [True] * 2, text=text)
    write_evaluation(run, "after_greedy", [True] * 4 + [False] * 2 + [True] * 2, text=text)
    shown = open_page(run, address="#evaluation")
    assert shown.texts(".flips")[0].startswith("+0.500 exact match from before, greedy to after, greedy on 8 questions")
    assert "p = 0.0331" in shown.texts(".flips")[0]
    shown.page.locator("summary").first.click()
    shown.page.wait_for_selector(".columns .part")  # drawn once the browser says that it is open
    assert shown.texts(".columns > div:first-child .part header b") == ["Thought", "Search", "Result", "Answer", "Text"]
    shown.page.get_by_label("Search evaluated questions").fill("BORA")
    shown.page.wait_for_function("!document.querySelector('.columns')")
    shown.page.locator("summary").first.click()
    shown.page.wait_for_selector(".columns mark")
    assert shown.texts(".columns > div:first-child mark") == ["bora"]


# --- take along -----------------------------------------------------------------------------------------------------


def test_a_rollout_as_json(tmp_path: Path, open_page: Open) -> None:
    """The download holds the record with the place it stands at in the log; every number but for rounding."""
    run = write_run(tmp_path / "run", batches=1, say=lambda *_: Spoken([(HOSTILE, HOSTILE)], HOSTILE))
    record = records_of(run)[5]
    shown = open_page(run, address="#rollout/0/1/5")
    assert "rollouts/step_000000.jsonl, line 6" in shown.texts(".facts dd")
    with shown.page.expect_download() as download:
        shown.page.get_by_role("button", name="Download JSON").click()
    saved = json.loads(Path(download.value.path()).read_text())
    assert (saved["file"], saved["line"]) == ("rollouts/step_000000.jsonl", 6)
    for name in ("group", "id", "prompt", "answer", "segments", "prediction", "reward", "valid", "reason"):
        assert saved[name] == record[name]
    for name in ("likelihood", "gain", "normalized_gain", "advantage", "clip_low", "clip_high"):
        assert saved[name] == pytest.approx(record[name], rel=1e-5)
    assert saved["calls"][0]["passage_ids"] == record["calls"][0]["passage_ids"]
    shown.requests[:] = shown.requests[:1]  # the download is no request of the page's


def test_every_metric_can_be_drawn(tmp_path: Path, open_page: Open) -> None:
    """Any name in metrics.jsonl is a figure when asked for, with named axes, and goes away again; a scale is
    logarithmic where all values are above 0, and is not offered elsewhere."""
    run = write_run(tmp_path / "run")
    shown = open_page(run)
    names = shown.texts("select[aria-label='Metric to draw'] option")[1:]
    assert "loss/ratio_mean" not in names and {"loss", "grad_norm", "seconds/update"} <= set(names)
    shown.page.get_by_label("Metric to draw").select_option("seconds/update")
    figure = shown.page.locator("[id='figure-metric-seconds/update']")
    assert figure.locator("canvas").count() == 1
    assert shown.page.locator("#figure-gain_raw svg text").all_text_contents()[-2:] == ["turn", "rise in probability"]
    before = figure.locator("canvas").evaluate("(canvas) => canvas.toDataURL()")
    shown.page.locator("#figure-entropy").get_by_role("button", name="log").click()
    assert shown.page.locator("#figure-entropy canvas").count() == 1
    assert shown.page.locator("#figure-metric-loss").count() == 0
    shown.page.get_by_label("Metric to draw").select_option("loss")
    assert shown.page.locator("#figure-metric-loss").get_by_role("button", name="log").count() == 0
    assert before.startswith("data:image/png")
    figure.get_by_title("Take seconds/update away").click()
    assert figure.count() == 0


# --- any screen -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "dark"), [(390, False), (768, True), (1440, True), (2560, False)])
def test_every_view_fits_the_screen(tmp_path: Path, open_page: Open, width: int, dark: bool) -> None:
    """No view scrolls sideways, no letter is smaller than 11 px, and the advantage of a turn is in sight."""
    run = write_run(
        tmp_path / "a_run_with_quite_a_long_name_of_its_own",
        batches=2,
        say=lambda *_: Spoken([("w" * 99, "r" * 99)], "x"),
    )
    for when in ("before", "after"):
        write_evaluation(run, f"{when}_greedy", [when == "after", False])
    shown = open_page(run)
    shown.page.set_viewport_size({"width": width, "height": 844})
    shown.page.emulate_media(color_scheme="dark" if dark else "light")
    for address in ("#run", "#rollout/0/1/2", "#group/0/1/0/2", "#pair/0/1/0/0/1/2", "#evaluation"):
        shown.go(address)
        shown.page.wait_for_timeout(50)
        wide = shown.page.evaluate(
            """() => [document.documentElement, ...document.querySelectorAll("#view, #content, .scroll")]
                .filter((one) => one.scrollWidth > Math.max(one.clientWidth, 1) + 1)
                .map((one) => one.className || one.id)"""
        )
        assert [name for name in wide if width < 1000 or name != "scroll"] == [], address
        small = shown.page.evaluate(
            """() => [...document.querySelectorAll("body *")].filter((one) => one.checkVisibility()
                && !one.matches(".unseen") && [...one.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())
                && parseFloat(getComputedStyle(one).fontSize) < 11).map((one) => one.outerHTML)"""
        )
        assert small == [], address
    shown.go("#rollout/0/1/2")
    advantage = shown.page.locator('td[data-name="advantage"]').first.bounding_box()
    assert advantage is not None and advantage["x"] >= 0 and advantage["x"] + advantage["width"] <= width


def test_a_phone_shows_the_list_or_the_rollout(tmp_path: Path, open_page: Open) -> None:
    """In a narrow window the list leads to a rollout and the rollout back to the list."""
    shown = open_page(write_run(tmp_path / "run", batches=1))
    shown.page.set_viewport_size({"width": 390, "height": 844})
    shown.go("#rollouts")
    assert shown.page.locator("#list").is_visible() and not shown.page.locator("#content").is_visible()
    shown.page.locator("#list .row").nth(1).click()
    shown.ready("#rollout/0/1/1")
    assert not shown.page.locator("#list").is_visible() and shown.page.locator(".turns").is_visible()
    shown.page.get_by_role("link", name="Rollouts").last.click()
    shown.ready("#rollouts/0")
    assert shown.page.locator("#list").is_visible()
