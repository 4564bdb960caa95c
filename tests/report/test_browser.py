"""The page in a real browser: it opens, switches, filters and answers keys, offline and without a complaint.

Every test also proves what `open_page` checks at its end: nothing on the console, no request but for the file itself.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.report.conftest import Watched
from tests.report.runs import HOSTILE, Spoken, save_tokenizer, write_evaluation, write_run

Open = Callable[..., Watched]


def picture(shown: Watched) -> str:
    """The entropy's chart as an image, without a cursor, once it has the width of its frame: a frame later."""
    shown.page.mouse.move(0, 0)
    return str(
        shown.page.evaluate(
            """() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() =>
                done(document.querySelector("#figure-entropy canvas").toDataURL()))))"""
        )
    )


def at_the_first_step(shown: Watched) -> str:
    """What the entropy's chart reads there."""
    shown.page.locator("#figure-entropy .u-over").hover(position={"x": 2, "y": 40})
    return shown.texts("#figure-entropy .readout b")[0]


def test_the_run_view(tmp_path: Path, open_page: Open) -> None:
    """Every figure is drawn, charts with a description of their own. The smoothing changes the curves: the mean of five
    points at the first of 1, 1/2 and 1/3 is 0.61. As logged they are drawn as they were."""
    run = write_run(tmp_path / "run")
    write_evaluation(run, "before_greedy", [False, False, True, False])
    write_evaluation(run, "after_greedy", [True, False, True, True])
    shown = open_page(run)
    assert shown.page.locator("figure").count() == 18
    assert shown.page.locator("figure canvas").count() == 12
    assert shown.page.locator("figure svg.chart").count() == 4
    label = shown.page.locator("#figure-entropy .plot").get_attribute("aria-label")
    assert label == "Entropy. Entropy: 1.00 to 0.17, step 1 to 6"
    assert "0.250 → 0.750" in shown.texts("table[aria-label=Runs] tbody tr")[0]
    logged = picture(shown)
    assert at_the_first_step(shown) == "1.00"
    shown.page.get_by_label("Smoothing of the curves").select_option("5")
    assert picture(shown) != logged
    assert at_the_first_step(shown) == "0.61"
    shown.page.get_by_label("Smoothing of the curves").select_option("1")
    assert picture(shown) == logged
    assert shown.page.locator("figure canvas").count() == 12


def test_reading_rollouts(tmp_path: Path, open_page: Open) -> None:
    """The table of a rollout's turns holds the numbers of the log, and another rollout is one click away."""
    run = write_run(tmp_path / "run", batches=1)
    records = [json.loads(line) for line in (run / "rollouts" / "step_000000.jsonl").read_text().splitlines()]
    shown = open_page(run, address="#rollouts")
    shown.page.locator("#list .row").nth(2).click()
    shown.ready("#rollout/0/1/2")
    rows = shown.page.locator("table[aria-label=Turns] tbody tr")
    assert rows.count() == 4
    cells = [text.replace("−", "-").lstrip("+") for text in rows.nth(1).locator("td").all_inner_texts()]
    record = records[2]
    assert [float(cell) for cell in cells[:3]] == pytest.approx(
        [record["likelihood"][1], record["likelihood"][2], record["gain"][1]], abs=6e-3
    )
    assert float(cells[6]) == pytest.approx(record["normalized_gain"][1], abs=6e-3)
    assert float(cells[9]) == pytest.approx(record["advantage"][1], abs=6e-3)
    low, high = (float(bound) for bound in cells[10].split(" … "))
    assert (low, high) == pytest.approx((record["clip_low"][1], record["clip_high"][1]), abs=1e-4)
    assert float(cells[11]) > 0 and cells[12] in ("clipped", "no")
    assert shown.page.locator(".turn").count() == 4 and shown.page.locator(".result").count() == 4
    assert shown.page.locator("#list [aria-current]").count() == 1


def test_a_signal_without_likelihoods(tmp_path: Path, open_page: Open) -> None:
    """A reward model or a function of the user's gives turns numbers and no likelihood, and a method without gains
    needs no answer: the page has the numbers under the signal's name, and neither likelihoods nor a gold answer."""
    run = write_run(tmp_path / "run", batches=1)
    file = run / "rollouts" / "step_000000.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    for record in records:
        del record["likelihood"]
        record["answer"] = None
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    shown = open_page(run, address="#rollout/0/1/2")
    rows = shown.page.locator("table[aria-label=Turns] tbody tr")
    assert rows.count() == 4
    assert shown.texts("table[aria-label=Turns] thead th")[:3] == ["turn", "turn signal", "n"]
    cell = rows.nth(0).locator("td").first.inner_text().replace("−", "-")
    assert float(cell) == pytest.approx(records[2]["gain"][0], abs=6e-3)
    assert "gold answer" not in shown.texts(".facts dt")
    shown.go("#run")
    assert "Exact match in training" not in shown.texts("h3") and "Turn signal, raw" in shown.texts("h3")


def test_tokens_show_the_loss_mask(tmp_path: Path, open_page: Open) -> None:
    """Exactly the policy's tokens are marked as in the loss and carry a log-ratio; without a tokenizer, by id."""
    run = write_run(tmp_path / "run", batches=1)
    record = json.loads((run / "rollouts" / "step_000000.jsonl").read_text().splitlines()[1])
    shown = open_page(run, address="#rollout/0/1/1")
    shown.page.keyboard.press("t")
    shown.page.keyboard.press("t")
    shown.page.wait_for_selector(".tokens")
    in_loss = [i for s in record["segments"] if s["turn"] >= 0 for i in s["ids"]]
    masked = [i for s in record["segments"] if s["turn"] < 0 for i in s["ids"]]
    assert [int(text) for text in shown.texts(".tokens .in-loss")] == in_loss
    assert [int(text) for text in shown.texts(".tokens .masked")] == masked
    titles = [one.get_attribute("title") for one in shown.page.locator(".tokens .in-loss").all()]
    assert all("log-ratio" in title for title in titles)
    assert "no tokenizer" in shown.texts(".token-legend")[0]


def test_tokens_are_shown_by_their_texts(tmp_path: Path, open_page: Open) -> None:
    """With the run's tokenizer each token is its text, one that the tokenizer does not know its id in brackets."""
    run = write_run(tmp_path / "run", batches=1)
    texts = save_tokenizer(run)
    record = json.loads((run / "rollouts" / "step_000000.jsonl").read_text().splitlines()[1])
    shown = open_page(run, address="#rollout/0/1/1")
    shown.page.keyboard.press("t")
    shown.page.keyboard.press("t")
    shown.page.wait_for_selector(".tokens")
    expected = [texts.get(i, f"⟨{i}⟩") for segment in record["segments"] for i in segment["ids"]]
    assert shown.texts(".tokens .token") == expected
    assert {text.startswith("⟨") for text in expected} == {True, False}
    assert "no tokenizer" not in shown.texts(".token-legend")[0]


def test_filters_order_and_search(tmp_path: Path, open_page: Open) -> None:
    """Filters narrow the list to what they say, the order follows the biggest gain, and search reads every text."""
    run = write_run(tmp_path / "run", batches=2)
    files = sorted((run / "rollouts").glob("step_??????.jsonl"))
    records = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    shown = open_page(run, address="#rollouts")

    def press(name: str) -> None:
        shown.page.get_by_role("button", name=name, exact=True).click()

    for name, number in (
        ("correct", 8),
        ("wrong", 8),
        ("ended badly", sum(r["termination"] != "answered" for r in records)),
    ):
        press(name)
        shown.page.wait_for_selector(f'#count:text-is("{number} of 16 rollouts")')
        press(name)
    shown.page.get_by_label("Order").select_option("gain")
    best = max(range(16), key=lambda i: max(records[i]["gain"]))
    link = f"#rollout/0/{1 + 2 * (best // 8)}/{best % 8}"
    shown.page.wait_for_selector(f'#list > .question:first-child + .row[href="{link}"]')
    shown.page.get_by_label("Step", exact=True).select_option("3")
    shown.page.get_by_label("Search questions, turns and results").fill("FACT 2")
    deep = sum(len(record["gain"]) == 3 for record in records[8:])
    shown.page.wait_for_selector(f'#count:text-is("{deep} of 16 rollouts")')


def test_keys(tmp_path: Path, open_page: Open) -> None:
    """j and k walk the list, g and the arrows the turn group, / goes to the search, ? lists the keys."""
    shown = open_page(write_run(tmp_path / "run", batches=1), address="#rollout/0/1/0")
    shown.press("j", "#rollout/0/1/1")
    shown.press("j", "#rollout/0/1/2")
    shown.press("k", "#rollout/0/1/1")
    shown.press("g", "#group/0/1/0/1")
    shown.press("ArrowRight", "#group/0/1/0/2")
    shown.press("ArrowLeft", "#group/0/1/0/1")
    shown.press("g", "#rollout/0/1/0")
    shown.page.keyboard.press("/")
    shown.page.keyboard.type("j?")
    assert shown.page.get_by_label("Search questions, turns and results").input_value() == "j?"
    shown.page.keyboard.press("Escape")
    shown.page.keyboard.press("?")
    assert shown.page.locator("#keys").is_visible()
    shown.page.keyboard.press("Escape")
    assert not shown.page.locator("#keys").is_visible()
    shown.press("1", "#run")


def test_a_turn_group(tmp_path: Path, open_page: Open) -> None:
    """At each depth: the rollouts that searched there, best gain first, their mean and spread; the others as ended."""
    run = write_run(tmp_path / "run", batches=1, questions=1, rollouts=6)
    records = [json.loads(line) for line in (run / "rollouts" / "step_000000.jsonl").read_text().splitlines()]
    shown = open_page(run, address="#group/0/1/0/3")
    gains = [record["gain"][2] for record in records if len(record["gain"]) > 2]
    numbers = shown.texts(".group-head dd")
    assert numbers[0] == "2 of 6"
    assert float(numbers[1].replace("−", "-")) == pytest.approx(sum(gains) / 2, abs=1e-4)
    assert float(numbers[2]) == pytest.approx(abs(gains[0] - gains[1]) / 2, abs=1e-4)
    cards = [text.replace("−", "-") for text in shown.texts(".card dl div:first-child dd")]
    assert [float(card) for card in cards[:2]] == pytest.approx(sorted(gains, reverse=True), abs=1e-4)
    assert shown.page.locator(".card.ended").count() == 2
    assert shown.page.locator(".strip-plot circle").count() == sum(len(record["gain"]) for record in records)


def test_hostile_text_stays_text(tmp_path: Path, open_page: Open) -> None:
    """Markup in turns, results, evaluations and the name of the run is shown letter for letter and runs nowhere."""

    def hostile(question: int, rollout: int, n_process: int) -> Spoken:
        return Spoken([(HOSTILE, HOSTILE)] * n_process, HOSTILE)

    run = write_run(tmp_path / "<script>run&quot;", batches=1, say=hostile, note=HOSTILE)
    write_evaluation(run, "eval_greedy", [True], text=HOSTILE)
    shown = open_page(run, address="#rollout/0/1/0")
    assert shown.page.locator(".turn .text").first.text_content() == HOSTILE
    shown.go("#group/0/1/0/1")
    assert shown.page.locator(".card .text").first.text_content() == HOSTILE
    shown.go("#evaluation")
    shown.page.locator("summary").first.click()
    shown.page.wait_for_selector(".columns")
    assert shown.page.locator(".columns .text").first.text_content() == f"{HOSTILE} 0"
    assert shown.page.title() == "<script>run&quot; · a2tgpo report"
    assert shown.page.locator("main script, main img").count() == 0
    assert shown.page.locator(".text[dir=auto]").count() > 0


def test_two_evaluations_question_by_question(tmp_path: Path, open_page: Open) -> None:
    """Two runs are compared on the questions both were asked; each kind of change is counted and can be singled out."""
    first, second = tmp_path / "a", tmp_path / "b"
    for path, correct in ((first, [True, False, True, False, False]), (second, [True, True, False, False])):
        path.mkdir()
        (path / "config.yaml").write_text("n_eval_questions: 5\n")
        write_evaluation(path, "eval_greedy", correct)
    shown = open_page(first, second)
    assert shown.page.locator("table[aria-label=Evaluations] tbody tr").count() == 2
    shown.go("#evaluation/0.eval_greedy/1.eval_greedy")
    assert shown.texts("[aria-label=Filters] button") == [
        "all 4",
        "wrong → right 1",
        "right → wrong 1",
        "both right 1",
        "both wrong 1",
    ]
    shown.page.get_by_role("button", name="right → wrong 1").click()
    assert shown.page.locator("summary").count() == 1
    assert "question 2?" in shown.texts("summary")[0]


def test_a_run_with_no_rollouts(tmp_path: Path, open_page: Open) -> None:
    """A run that has only begun opens in every view and says what is not there yet."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("max_steps: 4\n")
    shown = open_page(run)
    assert "No step has been logged yet" in shown.texts("main")[0]
    shown.go("#rollouts")
    assert "No rollouts of this run" in shown.texts("main")[0]
    shown.go("#evaluation")
    assert "Nothing has been evaluated yet" in shown.texts("main")[0]


def test_a_run_cut_off(tmp_path: Path, open_page: Open) -> None:
    """Metrics and rollouts that end in half a line leave a page of the rest that says so."""
    run = write_run(tmp_path / "run")
    for file in (run / "metrics.jsonl", run / "rollouts" / "step_000004.jsonl"):
        file.write_bytes(file.read_bytes()[:-40])
    shown = open_page(run)
    notices = shown.texts("[aria-label=Notices] li")
    assert any("run/metrics.jsonl: 1 line could not be read" in notice for notice in notices)
    assert "step 5 of 8, not finished" in shown.texts("table[aria-label=Runs] tbody tr")[0]
    assert any("the batch of step 5 holds 7 rollouts, others 8" in notice for notice in notices)
    shown.go("#rollouts", lands=shown.page.locator(".opening a").first.get_attribute("href"))
    assert shown.texts("#count") == ["23 of 23 rollouts"]


def test_links_that_lead_nowhere(tmp_path: Path, open_page: Open) -> None:
    """A link to a rollout, question, run or evaluation the page does not hold says so or shows what there is."""
    shown = open_page(write_run(tmp_path / "run", batches=1), address="#rollout/0/1/999")
    assert "not in the page" in shown.texts("#content")[0]
    shown.go("#group/0/99/0/1")
    assert "not in the page" in shown.texts("#content")[0]
    shown.go("#rollout/7/1/0")
    assert "No rollouts of this run" in shown.texts("main")[0]
    shown.go("#evaluation/9.nothing/9.else")
    assert "Nothing has been evaluated" in shown.texts("main")[0]
    shown.go("#%E0%A4%A")
    assert shown.page.locator("figure").count() > 0


def test_every_control_has_a_name(tmp_path: Path, open_page: Open) -> None:
    """In every view each link, button, field and list of choices has a name a screen reader can say."""
    run = write_run(tmp_path / "run", batches=1)
    write_evaluation(run, "eval_greedy", [True, False])
    shown = open_page(run)
    for address in ("#run", "#rollout/0/1/0", "#group/0/1/0/1", "#evaluation"):
        shown.go(address)
        unnamed = shown.page.evaluate(
            """() => [...document.querySelectorAll("a, button, input, select, summary")]
                .filter((one) => !(one.getAttribute("aria-label") || one.labels?.[0]?.textContent
                    || one.textContent || one.querySelector("title")?.textContent || "").trim())
                .map((one) => one.outerHTML)"""
        )
        assert unnamed == []


def test_two_thousand_rollouts(tmp_path: Path, open_page: Open) -> None:
    """2,000 rollouts of about 1,000 tokens, three passages a search: below 8 MB, and drawn in less than 2 s."""
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=generator.randint(2, 9))) for _ in range(8000)]
    passages: list[str] = []

    def long(question: int, rollout: int, n_process: int) -> Spoken:
        if rollout == 0:
            passages[:] = [" ".join(generator.choices(words, k=160)) for _ in range(8)]
        turns = []
        for _ in range(n_process):
            found = "\n".join(generator.sample(passages, 3))
            turns.append((" ".join(generator.choices(words, k=30)), found))
        return Spoken(turns, " ".join(generator.choices(words, k=20)))

    run = write_run(tmp_path / "run", batches=25, questions=10, rollouts=8, say=long)
    shown = open_page(run)
    assert (tmp_path / "report.html").stat().st_size < 8e6
    loads = [float(shown.page.locator("body").get_attribute("data-milliseconds"))]
    shown.go("#rollout/0/1/0")
    assert shown.texts("#count") == ["2,000 of 2,000 rollouts"]
    shown.requests.clear()
    shown.page.reload()
    shown.page.wait_for_selector("body[data-milliseconds]")
    loads.append(float(shown.page.locator("body").get_attribute("data-milliseconds")))
    assert min(loads) < 2000
    shown.press("j", "#rollout/0/1/1")


def test_evaluations_too_large(tmp_path: Path, open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the texts of evaluated questions would take half the page, the page keeps their answers and says so."""
    run = write_run(tmp_path / "run", batches=1)
    write_evaluation(run, "eval_greedy", [True, False], text="a long text")
    monkeypatch.setattr("a2tgpo.report.page.TEXT_BYTES", 400)
    shown = open_page(run, address="#evaluation")
    assert "lead" in shown.texts("summary")[1]
    shown.page.locator("summary").first.click()
    shown.page.wait_for_selector(".columns")
    assert "too large" in shown.texts(".columns .text")[0]


def test_a_page_too_large_shows_fewer_rollouts(
    tmp_path: Path, open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the texts would outgrow the page, whole batches are left out, evenly, and the page says how many."""
    run = write_run(tmp_path / "run", batches=8)
    monkeypatch.setattr("a2tgpo.report.page.TEXT_BYTES", 9_000)
    shown = open_page(run)
    assert "of 8 batches" in shown.texts("table[aria-label=Runs] tbody tr")[0]
    shown.go("#rollout/0/1/0")
    assert "the run made 64" in shown.texts("#count")[0]
    steps = [int(text.split()[1]) for text in shown.texts("select[aria-label=Step] option")[1:]]
    assert steps[0] == 1 and steps[-1] == 15 and 1 < len(steps) < 8
