"""The explorer and the report in a real browser, without a network."""

import itertools
import re
import shutil
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import psutil
import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from horizons.report.explorer import explorer_page
from horizons.report.labels import label_texts
from horizons.store.files import read_candidates, write_results
from made_up import ODD_TEXTS, make_any_order_table, make_table, write_run, write_tables
from workflows import run_snakemake

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "workflow" / "report" / "explorer"
PARTS = {
    "page": FOLDER / "explorer.html",
    "style": FOLDER / "explorer.css",
    "script": FOLDER / "explorer.js",
}
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
FLAGS += ["--disable-sync", "--no-first-run"]
ATTACK = "</script><img src=x onerror=alert(1)><b>"

TEXTS = [".token", "#detail td", "#detail th", ".quiet", "label", "select", "#list li", ".prompt b", ".key"]
CONTRAST = """element => {
  const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const luminance = colour => {
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    const parts = [...context.getImageData(0, 0, 1, 1).data].slice(0, 3).map(part => part / 255)
      .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  let behind = element;
  while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
  const [a, b] = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor].map(luminance);
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""


@pytest.fixture(scope="module")
def browser():
    names = ["chromium", "chromium-browser", "google-chrome"]
    executable = next((path for path in map(shutil.which, names) if path), None)
    if executable is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is installed (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Opens a file offline; at the end nothing may have been logged, thrown or asked of a network."""
    complaints, contexts = [], []

    def open_file(path, wait_for, at="", **options):
        context = browser.new_context(offline=True, **{"viewport": {"width": 1200, "height": 900}} | options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: complaints.append(f"thrown: {error}"))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}") or dialog.dismiss())
        page.on("console", lambda message: message.type == "error" and complaints.append(f"logged: {message.text}"))
        page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url[:80]}"))
        page.on(
            "request",
            lambda request: (
                request.url.split(":")[0] in ("file", "data", "blob") or complaints.append(f"asked for: {request.url}")
            ),
        )
        page.goto(f"{path.as_uri()}#{at}")
        page.wait_for_selector(wait_for)
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture(scope="module")
def explorer(tmp_path_factory):
    """The page of 12 made-up samples: its path, their table and their candidates' probabilities."""
    folder = tmp_path_factory.mktemp("explorer")
    texts = ["alpha", ATTACK, *ODD_TEXTS]
    table = make_table(samples=12)
    random = np.random.default_rng(1)
    table["final_token_id"] = table["relative_position"]
    table["top1_token_id"] = np.where(table["horizon"] == 1, table["final_token_id"], random.integers(0, 5, len(table)))
    table.loc[(table["sample_idx"] == 7) & (table["horizon"] == 2), "kl"] = np.inf
    outputs = [
        {
            "task": ["sort", "copy"][n % 2],
            "label": "x",
            "score": float(n % 3 == 0),
            "prompt": [{"role": "user", "content": "Say it."}],
        }
        for n in range(12)
    ]
    results, candidates = write_run(folder, table, texts, outputs)
    points = {"00000": {"generation.temperature": 0.5}}
    return write_page(folder, table, points, [(results, candidates)], "made up"), table


def write_page(folder, table, points, files, name="x", **options):
    """Write the explorer of a table; `files` are results and candidates of each of its runs."""
    path = folder / "explorer.html"
    page = explorer_page(name, write_tables(folder, table), points, *zip(*files, strict=True), PARTS, **options)
    path.write_text(page, encoding="utf-8")
    return path


def shown_samples(page):
    return page.locator("#list [role=option] .name").all_inner_texts()


def test_a_click_shows_the_predictions_of_a_token(open_page, explorer):
    path, table = explorer
    page = open_page(path, ".token", at="sample=0")
    assert page.locator("#run").input_value() == "00000"
    assert page.locator("#run option").inner_text() == "00000: temperature 0.5"
    assert page.locator("#run-label").inner_text() == "Run (temperature)"
    page.locator(".token").nth(4).click()
    assert page.locator("#detail-title").inner_text().startswith("Position 4:")
    entries = table.query("sample_idx == 0 and relative_position == 4").sort_values("horizon")
    names = ["Final (horizon 1)", *(f"Horizon {h}" for h in entries["horizon"][1:])]
    assert page.locator("#detail thead th").all_inner_texts() == names
    rows = rows_of(page)
    assert rows["Timestep"] == entries["timestep"].astype(str).tolist()
    assert [name for name in rows if name.startswith("Candidate")] == [f"Candidate {n}" for n in range(1, 6)]
    for name, number in {"KL divergence (nats)": "kl", "Entropy (nats)": "entropy", "Confidence": "confidence"}.items():
        assert [float(value) for value in rows[name]] == pytest.approx(entries[number].tolist(), rel=0.06, abs=1e-3)
    assert page.locator("#detail svg circle").count() == 2 * len(entries)


def test_the_keyboard_alone_reaches_everything(open_page, explorer):
    path, _ = explorer
    page = open_page(path, ".token", at="sample=0")
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.classList[0]"))
    header = ["run", "number", "horizon", "keep", "save-svg", "save-png"]
    assert reached == [*header, "search", "task", "score", "sort", "list", "token"]
    page.focus("#list")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.locator("[role=option][aria-selected=true] .name").inner_text() == "q2"
    assert page.locator("#text-title").inner_text().startswith("q2")
    page.keyboard.press("Tab")
    page.keyboard.press("Home")
    for key, position in [("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", 11), ("ArrowRight", 11)]:
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.dataset.position") == str(position)
        assert page.locator("#detail-title").inner_text().startswith(f"Position {position}:")
    page.keyboard.press("Home")
    assert page.locator(".token[aria-pressed=true]").get_attribute("data-position") == "0"


def test_samples_are_filtered_and_sorted(open_page, explorer):
    path, table = explorer
    page = open_page(path, ".token", at="sample=0")
    page.select_option("#task", "copy")
    assert shown_samples(page) == [f"q{n}" for n in range(1, 12, 2)]
    page.select_option("#score", "right")
    assert shown_samples(page) == ["q3", "q9"]
    assert page.locator("#text-title").inner_text() == "q3 (right)"
    page.select_option("#task", "")
    page.select_option("#score", "wrong")
    assert shown_samples(page) == [f"q{n}" for n in range(12) if n % 3]
    page.select_option("#score", "all")
    page.select_option("#number", "js")
    page.select_option("#horizon", "8")
    page.select_option("#sort", "high")
    means = table.query("horizon == 8").groupby("question_id")["js"].mean().sort_values(ascending=False)
    assert shown_samples(page) == means.index.tolist()
    page.select_option("#sort", "low")
    assert shown_samples(page) == means.index.tolist()[::-1]
    page.select_option("#number", "kl")
    page.select_option("#horizon", "2")
    page.select_option("#sort", "high")
    first = page.locator("[role=option]").first.inner_text()
    assert "q7" in first
    assert "∞" in first


def test_colours_follow_the_number(open_page, explorer):
    path, table = explorer
    page = open_page(path, ".token", at="sample=0")
    page.select_option("#number", "js")
    page.select_option("#horizon", "4")
    shares = page.locator(".token").evaluate_all(
        "tokens => tokens.map(token => token.style.getPropertyValue('--share'))"
    )
    assert shares[:3] == ["", "", ""]  # no prediction was made for them four ahead
    expected = table.query("sample_idx == 0 and horizon == 4")["js"] / np.log(2)
    assert [float(share.rstrip("%")) / 100 for share in shares[3:]] == pytest.approx(expected.tolist(), rel=0.01)


def test_text_of_any_kind_is_shown_as_text(open_page, explorer):
    path, _ = explorer
    page = open_page(path, ".token", at="sample=0")
    assert page.locator(".token").nth(1).evaluate("token => token.textContent") == ATTACK
    assert page.locator("img, b:not(.prompt b)").count() == 0
    shown = page.locator(".token").evaluate_all("tokens => tokens.map(token => token.textContent)")
    assert shown[2:8] == ["↵", "⇥", "␣", "∅", "$x$", "<b>bold</b>"]
    assert all(shown)


def test_the_address_keeps_what_is_shown(open_page, explorer):
    path, _ = explorer
    page = open_page(path, ".token")
    page.evaluate("location.hash = '#run=00000&sample=3&position=5&number=entropy&horizon=4'")
    page.wait_for_function("document.querySelector('#text-title').textContent.startsWith('q3')")
    assert page.locator("#detail-title").inner_text().startswith("Position 5:")
    assert (page.locator("#number").input_value(), page.locator("#horizon").input_value()) == ("entropy", "4")
    page.evaluate("location.hash = '#run=00000&question=q4&position=x&number=nonsense&horizon=3'")
    page.wait_for_function("document.querySelector('#text-title').textContent.startsWith('q4')")
    assert page.locator("#detail-title").inner_text().startswith("Position 0:")
    page.locator(".token").nth(3).click()
    assert "question=q4&position=3" in page.evaluate("location.hash")


def most_to_see(table, run):
    """The sample with the largest mean finite KL before the end of the text, by a plain loop."""
    found = {}
    for entry in table[table["run"] == run].itertuples():
        if not entry.after_eos and np.isfinite(entry.kl):
            found.setdefault(entry.sample_idx, []).append(entry.kl)
    means = {sample_idx: sum(values) / len(values) for sample_idx, values in found.items()}
    best = max(means, key=means.get)
    return f"q{best}", means[best]


def test_the_page_opens_on_the_sample_with_the_most_to_see_unless_a_link_names_one(open_page, tmp_path):
    table = make_table(runs=2, samples=6, seed=3)
    table.loc[(table["run"] == "00001") & (table["horizon"] > 1), "kl"] += 1
    table.loc[(table["sample_idx"] == 0) & (table["horizon"] == 4), "kl"] = np.inf
    table.loc[(table["sample_idx"] == 1) & (table["relative_position"] > 8), ["kl", "after_eos"]] = [99.0, True]
    files = [write_run(tmp_path, table[table["run"] == run], list("abcde")) for run in ("00000", "00001")]
    points = {"00000": {"dataset.task": "任"}, "00001": {"dataset.task": "务"}}
    path = write_page(tmp_path, table, points, files)
    page = open_page(path, ".token")
    (first, less), (second, more) = (most_to_see(table, run) for run in points)
    assert more > less
    assert (page.locator("#run").input_value(), page.locator("#text-title").inner_text()) == ("00001", second)
    assert page.locator("[role=option][aria-selected=true] .name").inner_text() == second
    assert page.locator("#run option").all_inner_texts() == ["00000: 任", "00001: 务"]
    page.select_option("#run", "00000")
    assert page.locator("#text-title").inner_text() == first
    page = open_page(path, ".token", at="run=00000&sample=0")
    assert (page.locator("#run").input_value(), page.locator("#text-title").inner_text()) == ("00000", "q0")
    page = open_page(path, ".token", at="run=00000")
    assert page.locator("#text-title").inner_text() == first


def test_texts_that_look_alike_are_told_apart_in_menu_list_and_text(open_page, tmp_path):
    table = make_table(samples=3, max_tokens=6)
    table["final_token_id"] = table["relative_position"]
    outputs = [{"task": task, "question_id": f"q{task}"} for task in ("a", "a\u200b", "a ")]
    results, candidates = write_run(tmp_path, table, ["x", " x", "é", "e\u0301", "\u200b", "\u202e"], outputs)
    path = write_page(tmp_path, table, {"00000": {}}, [(results, candidates)])
    page = open_page(path, ".token", at="sample=0")
    assert page.locator("#task option").all_inner_texts() == ["all", "a", "a␣", r"a\u200b"]
    assert shown_samples(page) == ["qa", r"qa\u200b", "qa␣"]
    shown = page.locator(".token").evaluate_all("tokens => tokens.map(token => token.textContent)")
    assert shown == ["x", "␣x", "é #2", "e\u0301 #3", r"\u200b", r"\u202e"]
    for task, name in ((r"a\u200b", r"qa\u200b"), ("a␣", "qa␣"), ("a", "qa")):
        page.select_option("#task", label=task)
        assert shown_samples(page) == [name]


def test_a_phone_shows_it_without_scrolling_sideways(open_page, explorer):
    page = open_page(explorer[0], ".token", viewport={"width": 390, "height": 844}, has_touch=True)
    page.locator(".token").nth(10).tap()
    assert page.locator("#detail-title").inner_text().startswith("Position 10:")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_enough_to_read(open_page, explorer, scheme):
    """At least 4.5 : 1, as the WCAG asks of text (AA)."""
    page = open_page(explorer[0], ".token", color_scheme=scheme)
    page.select_option("#number", "top1_agreement")  # 0 or 1: the two ends of the scale
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    for selector in TEXTS:
        ratios = [element.evaluate(CONTRAST) for element in page.locator(selector).all()]
        assert min(ratios) >= 4.5, f"{selector} in {scheme}"


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """The page of two made-up runs of the same six prompts, 16 horizons deep, and their table."""
    folder = tmp_path_factory.mktemp("two_runs")
    table = make_table(runs=2, samples=6, max_tokens=20, horizons=tuple(range(1, 17)), seed=5)
    table.loc[(table["run"] == "00000") & (table["horizon"] > 1), "kl"] *= 0.001
    table.loc[table["horizon"] == 2, "final_token_probability"] = 4e-7
    outputs = [{"prompt": f"Say number {n}.", "label": "gold" if n == 4 else "lead"} for n in range(6)]
    texts = ["alpha", " beta", "gamma", "delta", "9"]
    files = [write_run(folder, table[table["run"] == run], texts, outputs) for run in ("00000", "00001")]
    points = {"00000": {"generation.temperature": 0.0}, "00001": {"generation.temperature": 0.5}}
    return write_page(folder, table, points, files), table


def shares_of(page, tokens="#tokens"):
    return page.locator(f"{tokens} .token").evaluate_all(
        "tokens => tokens.map(token => parseFloat(token.style.getPropertyValue('--share')) / 100)"
    )


def test_a_colour_means_the_same_in_every_run_and_at_every_horizon(open_page, two_runs):
    path, table = two_runs
    page = open_page(path, ".token", at="run=00000&question=q1")
    ends = set()
    for run, horizon in itertools.product(("00000", "00001"), ("2", "8")):
        page.select_option("#run", run)
        page.select_option("#horizon", horizon)
        ends.add(page.locator("#high").inner_text())
        sample = page.locator("#text-title").inner_text()
        expected = table[(table["run"] == run) & (table["question_id"] == sample) & (table["horizon"] == int(horizon))]
        shown = [share for share in shares_of(page) if share == share]
        assert shown == pytest.approx(np.minimum(expected["kl"], 1).tolist(), abs=0.006)
    assert ends == {"≥ 1 nats"}  # 95 % of the values of the second run, uniform up to 1, are below 0.95


def test_it_opens_on_the_most_telling_token(open_page, two_runs):
    path, table = two_runs
    page = open_page(path, ".token", at="run=00001&question=q3")
    entries = table[(table["run"] == "00001") & (table["question_id"] == "q3") & (table["horizon"] == 2)]
    farthest = entries.loc[entries["js"].idxmax(), "relative_position"]
    assert page.locator("#detail-title").inner_text().startswith(f"Position {farthest}:")


def test_two_runs_lie_side_by_side_on_the_same_prompt(open_page, two_runs):
    path, table = two_runs
    page = open_page(path, ".token", at="run=00000&question=q2&position=5")
    page.locator("#keep").click()
    page.select_option("#run", "00001")
    assert page.locator("#text-title").inner_text() == "00001: temperature 0.5 – q2"
    assert page.locator("#beside-title").inner_text() == "00000: temperature 0.0 – q2"
    of_run = {
        run: table[(table["run"] == run) & (table["question_id"] == "q2") & (table["horizon"] == 2)]["kl"].tolist()
        for run in ("00000", "00001")
    }
    assert shares_of(page)[1:] == pytest.approx(of_run["00001"], abs=0.006)
    assert shares_of(page, "#beside-tokens")[1:] == pytest.approx(of_run["00000"], abs=0.006)
    page.locator("#beside-tokens .token").nth(7).click()
    assert page.locator("#detail-title").inner_text().startswith("Position 7:")
    assert page.locator("#beside-detail table").count() == 1
    left, right = (page.locator(selector).bounding_box() for selector in ("#tokens", "#beside-tokens"))
    assert left["x"] + left["width"] <= right["x"]
    assert left["y"] == right["y"]
    page.locator("#timestep").fill("3")
    for tokens in ("#tokens", "#beside-tokens"):
        assert page.locator(f"{tokens} .token.masked, {tokens} .token.guessed").count() == 17
    page.locator("#timestep").fill("20")
    address = page.evaluate("location.hash")
    page = open_page(path, ".token", at=address[1:])
    assert page.locator("#beside-title").inner_text() == "00000: temperature 0.0 – q2"
    page.locator("#keep").click()
    assert page.locator("#beside").is_hidden()
    assert "beside" not in page.evaluate("location.hash")


def test_a_link_to_what_there_is_not_says_so_and_shows_nothing_else(open_page, two_runs):
    path, _ = two_runs
    for at, said in {
        "run=00001&question=nope": "This page has no sample “nope” of run 00001.",
        "run=00001&sample=99": "This page has no sample number 99 of run 00001.",
        "run=00007&question=q1": "This page has no run 00007.",
        "run=00000&question=q1&beside_run=00001&beside_question=q77": "This page has no sample “q77” of run 00001.",
    }.items():
        page = open_page(path, "#notice", at=at)
        assert page.locator("#notice").inner_text() == said
        assert page.locator(".token").count() == 0 or page.locator("#tokens").is_hidden()
        assert page.locator("[role=option][aria-selected=true]").count() == 0
        page.locator("#list [role=option]").nth(1).click()
        assert page.locator("#notice").is_hidden()
        assert page.locator("#text-title").inner_text().endswith("q1")


def test_a_search_finds_prompts_labels_and_tokens(open_page, two_runs):
    path, _ = two_runs
    page = open_page(path, ".token", at="run=00000&question=q0&position=0")
    page.locator("#search").fill("number 3")
    assert shown_samples(page) == ["q3"]
    page.locator("#search").fill("GOLD")
    assert shown_samples(page) == ["q4"]
    page.locator("#search").fill("q5")
    assert shown_samples(page) == ["q5"]
    page.locator("#search").fill("alpha beta")  # over two tokens, with the space of the second
    assert shown_samples(page) == [f"q{n}" for n in range(6)]
    marked = "tokens => tokens.map(token => Number(token.dataset.position))"
    assert page.locator("#tokens .token.found").evaluate_all(marked) == [0, 1, 5, 6, 10, 11, 15, 16]
    page.locator("#search").fill("delta")
    page.locator("#tokens .token").first.click()
    for position in (3, 8, 13, 18):
        page.focus("#search")
        page.keyboard.press("Enter")
        assert page.locator("#detail-title").inner_text().startswith(f"Position {position}:")
    page.keyboard.press("Enter")
    assert page.locator("[role=option][aria-selected=true] .name").inner_text() != "q5"
    page.locator("#search").fill("nothing like this")
    assert page.locator("#list .empty").count() == 1


def test_samples_and_tokens_are_picked_out_by_group(open_page, tmp_path):
    table = make_table(samples=6)
    outputs = [{"fields": {"level": ["hard", "easy"][n % 2]}} for n in range(6)]
    results, candidates = write_run(tmp_path, table, ["alpha", "12", ",", "delta", "9"], outputs)
    classes = dict(enumerate(["word start", "number", "punctuation", "word start", "number"]))
    write_results(candidates, read_candidates(candidates) | {"token_classes": {str(n): classes[n] for n in classes}})
    groups = {"kind": {"token": "class"}, "level": {"prompt": "level"}}
    path = write_page(tmp_path, table, {"00000": {}}, [(results, candidates)], groups=groups)
    page = open_page(path, ".token", at="question=q0")
    page.select_option("#group", label="kind: number")
    apart = "tokens => tokens.map(token => token.classList.contains('apart'))"
    assert page.locator("#tokens .token").evaluate_all(apart) == [n % 5 not in (1, 4) for n in range(12)]
    chosen = table[(table["final_token_id"].isin([1, 4])) & (table["horizon"] == 2)]
    means = chosen.groupby("question_id")["kl"].mean()
    shown = [float(text) for text in page.locator("#list .mean").all_inner_texts()]
    assert shown == pytest.approx(means.tolist(), abs=0.006)
    page.select_option("#group", label="level: easy")
    assert shown_samples(page) == ["q1", "q3", "q5"]
    assert not any(page.locator("#tokens .token").evaluate_all(apart))


def test_the_final_prediction_is_first_and_stays_in_sight_with_16_horizons(open_page, two_runs):
    path, _ = two_runs
    page = open_page(path, ".token", at="run=00000&question=q1&position=18")
    heads = page.locator("#detail thead th").all_inner_texts()
    assert heads == ["Final (horizon 1)", *(f"Horizon {h}" for h in range(2, 17))]
    page.locator("#detail .scroll").evaluate("scroll => scroll.scrollLeft = scroll.scrollWidth")
    box, frame = (page.locator(selector).bounding_box() for selector in ("td.final >> nth=2", "#detail .scroll"))
    stub = page.locator("#detail tbody th").nth(2).bounding_box()
    assert stub["x"] == pytest.approx(frame["x"], abs=1)
    assert box["x"] == pytest.approx(stub["x"] + stub["width"], abs=1)
    assert page.locator("#detail thead th").last.bounding_box()["x"] > box["x"]


def test_a_tiny_probability_is_not_shown_as_0(open_page, two_runs):
    path, _ = two_runs
    page = open_page(path, ".token", at="run=00000&question=q1&position=18")
    assert rows_of(page)["P(committed token)"][1] == "< 0.001"
    assert "0" not in rows_of(page)["P(committed token)"]
    assert rows_of(page)["Rank of the committed token"][0] != "< 0.001"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_view_is_saved_as_svg_and_png(open_page, two_runs, tmp_path, scheme):
    path, _ = two_runs
    page = open_page(path, ".token", at="run=00000&question=q1&position=18", color_scheme=scheme)
    page.locator("#keep").click()
    page.select_option("#run", "00001")
    for kind in ("svg", "png"):
        with page.expect_download() as download:
            page.locator(f"#save-{kind}").click()
        assert download.value.suggested_filename == f"00001-q1-{page.evaluate('state.position')}.{kind}"
        download.value.save_as(tmp_path / f"view.{kind}")
    svg = ElementTree.parse(tmp_path / "view.svg").getroot()
    words = [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert words.count("Horizon 16") == 2  # whole, though the page scrolls to it
    assert {"alpha", "00000: temperature 0.0 – q1"} <= {word.strip() for word in words}
    colours = {value for element in svg.iter() for name, value in element.items() if name in ("fill", "stroke")}
    assert all(re.fullmatch(r"none|rgb\(\d+,\d+,\d+\)", colour) for colour in colours)
    with Image.open(tmp_path / "view.png") as image:
        assert image.size == (2 * int(svg.get("width")), 2 * int(svg.get("height")))
        paper = image.convert("RGB").getpixel((3, 3))
    assert paper == ((255, 255, 255) if scheme == "light" else (22, 24, 27))


# Of the last sample the two positions after its end are committed first.
COMMITS = [[0, 1, 2, 3, 4, 5], [5, 3, 0, 0, 2, 1], [1, 2, 2, 0, 0, 1], [5, 4, 3, 2, 0, 1]]


@pytest.fixture(scope="module")
def any_order(tmp_path_factory):
    """The page of four made-up samples committed in any order: its path, and their table."""
    folder = tmp_path_factory.mktemp("any_order")
    table = make_any_order_table(COMMITS)
    table["after_eos"] = (table["sample_idx"] == 3) & (table["relative_position"] > 3)
    results, candidates = write_run(folder, table, ["alpha", ATTACK, "w" * 60, " ", "e"])
    return write_page(folder, table, {"00000": {}}, [(results, candidates)]), table


def expected_tokens(table, sample, timestep):
    """What is shown of each position at a timestep, by a plain loop: its kind and its token id."""
    entries = table[(table["sample_idx"] == sample) & ~table["after_eos"]]
    found = []
    for position in range(entries["relative_position"].max() + 1):
        of_position = entries[entries["relative_position"] == position].sort_values("timestep")
        final, made_now = of_position.iloc[-1], of_position[of_position["timestep"] == timestep]
        if final["timestep"] < timestep:
            found.append(("fresh" if final["timestep"] == timestep - 1 else "committed", final["final_token_id"]))
        elif len(made_now):
            found.append(("guessed", made_now.iloc[0]["top1_token_id"]))
        else:
            found.append(("masked", None))
    return found


def shown_tokens(page):
    """The kind and the text of each token of the page."""
    kinds = ("fresh", "guessed", "masked")
    tokens = page.locator(".token").evaluate_all(
        "tokens => tokens.map(token => [[...token.classList], token.textContent])"
    )
    return [(next((kind for kind in kinds if kind in classes), "committed"), text) for classes, text in tokens]


def boxes_of(page):
    return page.locator(".token").evaluate_all(
        "tokens => tokens.map(token => { const box = token.getBoundingClientRect();"
        " return [box.left, box.top, box.width, box.height].map(Math.round); })"
    )


@pytest.mark.parametrize(("name", "sample"), [*(("any_order", sample) for sample in range(4)), ("explorer", 2)])
def test_each_timestep_shows_what_was_committed_and_what_it_predicts(open_page, request, name, sample):
    path, table = request.getfixturevalue(name)
    page = open_page(path, ".token", at=f"sample={sample}")
    whole, boxes = shown_tokens(page), boxes_of(page)
    text_of = {int(token): text for token, text in token_texts(path).items()}
    shares = "tokens => tokens.map(token => token.style.getPropertyValue('--share'))"
    coloured = page.locator(".token").evaluate_all(shares)
    count = int(page.locator("#timestep").get_attribute("max"))
    assert count == table[(table["sample_idx"] == sample) & ~table["after_eos"]]["timestep"].max() + 1
    for timestep in range(count):
        page.locator("#timestep").fill(str(timestep))
        shown = shown_tokens(page)
        expected = expected_tokens(table, sample, timestep)
        assert [kind for kind, _ in shown] == [kind for kind, _ in expected]
        for (_, text), (kind, token) in zip(shown, expected, strict=True):
            assert text == ("▢" if kind == "masked" else text_of[token])
        revealed = [kind in ("committed", "fresh") for kind, _ in expected]
        now = page.locator(".token").evaluate_all(shares)
        assert now == [share if there else "" for share, there in zip(coloured, revealed, strict=True)]
        assert page.locator("#moment").inner_text().startswith(f"{timestep} of {count} timesteps, {sum(revealed)} of ")
        assert boxes_of(page) == boxes  # nothing moves
    page.locator("#timestep").fill(str(count))
    assert shown_tokens(page) == whole


def token_texts(path):
    """How the page of a made-up run shows each of its tokens."""
    texts = read_candidates(next(path.parent.glob("*.candidates.json.gz")))["token_texts"]
    return label_texts(texts)


def test_a_sample_plays_from_its_first_timestep_to_its_last_and_stops(open_page, any_order):
    page = open_page(any_order[0], ".token", at="sample=1")
    page.clock.install()
    whole = shown_tokens(page)
    page.locator("#play").click()
    seen = []
    for _ in range(6):
        seen.append(page.locator("#timestep").input_value())
        assert page.locator("#play").inner_text() == "❚❚ Pause"
        page.clock.run_for(700)
    assert seen == ["0", "1", "2", "3", "4", "5"]
    assert page.locator("#play").inner_text() == "▶ Play"
    assert shown_tokens(page) == whole
    page.locator("#play").click()
    page.clock.run_for(1400)
    page.locator("#play").click()
    page.clock.run_for(5000)
    assert page.locator("#timestep").input_value() == "2"
    page.locator("#play").click()
    page.locator("#list [role=option]").first.click()  # another sample: whole, and at rest
    page.clock.run_for(5000)
    assert page.locator("#play").inner_text() == "▶ Play"
    assert page.locator("#timestep").input_value() == page.locator("#timestep").get_attribute("max")


def test_the_player_is_used_by_keyboard_alone(open_page, any_order):
    page = open_page(any_order[0], ".token", at="sample=1")
    page.clock.install()
    page.focus("#list")
    reached = []
    for _ in range(3):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.classList[0]"))
    assert reached == ["token", "play", "timestep"]
    for key, timestep in [("Home", 0), ("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", 6)]:
        page.keyboard.press(key)
        assert page.locator("#timestep").input_value() == str(timestep)
    assert page.locator("#timestep").get_attribute("aria-valuetext") == "6 of 6 timesteps, 6 of 6 tokens"
    page.keyboard.press(" ")
    page.clock.run_for(1400)
    page.keyboard.press(" ")
    page.clock.run_for(5000)
    assert page.locator("#timestep").input_value() == "2"
    page.focus("#play")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#timestep").input_value() == "3"
    page.keyboard.press(" ")
    page.clock.run_for(700)
    page.keyboard.press("ArrowLeft")  # stops it
    page.clock.run_for(5000)
    assert page.locator("#timestep").input_value() == "4"


def test_nothing_moves_by_itself_where_less_motion_is_preferred(open_page, any_order):
    page = open_page(any_order[0], ".token", at="sample=1", reduced_motion="reduce")
    page.clock.install()
    assert page.locator("#play").inner_text() == "Next timestep"
    page.locator("#play").click()
    page.locator("#play").click()
    page.clock.run_for(10_000)
    assert page.locator("#timestep").input_value() == "1"
    assert page.locator(".token").first.evaluate("token => getComputedStyle(token).transitionDuration") == "0s"


def test_a_link_leads_to_a_timestep(open_page, any_order):
    page = open_page(any_order[0], ".token", at="sample=1&timestep=2")
    assert page.locator("#timestep").input_value() == "2"
    page.locator("#timestep").fill("4")
    assert "timestep=4" in page.evaluate("location.hash")
    page.locator("#timestep").fill("6")
    assert "timestep" not in page.evaluate("location.hash")
    page.evaluate("location.hash = '#sample=1&timestep=99'")
    page.wait_for_function("document.querySelector('#timestep').value === '5'")


def test_the_table_says_which_position_was_revealed_last(open_page, any_order):
    page = open_page(any_order[0], ".token", at="sample=1&position=0")
    rows = rows_of(page)
    assert rows["Timestep"] == ["5", "4", "2"]  # position 0 is committed at timestep 5; horizons 1, 2 and 4
    assert [cell.rpartition(" at ")[2] for cell in rows["Last revealed"]] == ["1", "1", "5"]
    page = open_page(any_order[0], ".token", at="sample=3&position=3&timestep=3")
    assert rows_of(page)["Timestep"] == ["2", "1"]
    assert rows_of(page)["Last revealed"] == ["after the end, at 5", "after the end, at 4"]
    assert page.locator("#moment").inner_text() == "3 of 6 timesteps, 1 of 4 tokens, 2 after the end"


def rows_of(page):
    """The cells of the table of predictions, by the name of their row."""
    rows = page.locator("#detail tbody tr").all()
    return {row.locator("th").inner_text(): row.locator("td").all_inner_texts() for row in rows}


def test_a_phone_plays_without_scrolling_sideways(open_page, any_order):
    page = open_page(any_order[0], ".token", at="sample=2", viewport={"width": 360, "height": 740}, has_touch=True)
    for timestep in range(4):
        page.locator("#timestep").fill(str(timestep))
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        heights = page.locator("#play, #timestep").evaluate_all(
            "controls => controls.map(control => control.getBoundingClientRect().height)"
        )
        assert min(heights) >= 36


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_faint_can_be_read(open_page, any_order, scheme):
    page = open_page(any_order[0], ".token", at="sample=1&timestep=1", color_scheme=scheme)
    for selector in (".token.guessed", ".token.masked", ".token.fresh", "#moment", "#playing", "#play"):
        ratios = [element.evaluate(CONTRAST) for element in page.locator(selector).all()]
        assert ratios, selector
        assert min(ratios) >= 4.5, f"{selector} in {scheme}"


def seconds_of_processes():
    """Seconds of a core that each process of the browser has had: not those on the clock, which other tests share."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found[process.pid] = times.user + times.system
    return found


def test_a_hundred_samples_of_64_tokens_open_in_two_seconds(open_page, tmp_path):
    table = make_table(samples=100, max_tokens=64)
    results, candidates = write_run(tmp_path, table, [f"token{number}" for number in range(5000)])
    path = write_page(tmp_path, table, {"00000": {}}, [(results, candidates)])
    open_page(path, ".token").close()  # the browser itself has started
    before = seconds_of_processes()
    page = open_page(path, ".token")
    assert sum(seconds - before.get(pid, 0) for pid, seconds in seconds_of_processes().items()) < 2
    assert page.locator("#list [role=option]").count() == 100


@pytest.fixture(scope="module")
def report(finished, tmp_path_factory):
    """The report of the small experiment, made by the workflow itself."""
    folder = shutil.copytree(finished, tmp_path_factory.mktemp("reported") / "repository")
    run = run_snakemake(folder, "results/small/summary.csv", "--report", "report.html")
    assert run.returncode == 0, run.stderr
    return folder / "report.html"


def test_every_part_of_the_report_is_shown(open_page, report):
    page = open_page(report, "text=This workflow measures")
    page.get_by_text("Results", exact=True).first.click()
    captions = {}
    for part in ("Figures", "Tables", "Explorer"):
        page.get_by_text(part, exact=True).first.click()
        page.locator("[iconname=eye]").first.wait_for()
        captions[part] = [look_at(page, part, number) for number in range(page.locator("[iconname=eye]").count())]
        page.get_by_text("small", exact=True).first.click()
    assert {part: len(found) for part, found in captions.items()} == {"Figures": 8, "Tables": 4, "Explorer": 1}
    assert len(set(captions["Figures"])) == 8
    assert all("How to read it:" in caption for caption in captions["Figures"])
    assert all(len(caption) > 100 for found in captions.values() for caption in found)


def look_at(page, part, number):
    """Open one result of a part, wait until it is shown, and give its caption."""
    eye = page.locator("[iconname=eye]").nth(number)
    if not eye.get_attribute("download"):  # a CSV is for other programs
        eye.click()
        if part == "Figures":
            page.wait_for_function("[...document.images].some(image => image.naturalWidth > 600)")
        else:
            page.frame_locator("iframe").locator("td, .token").first.wait_for()
    page.locator("[iconname=information-circle]").nth(number).click()
    page.get_by_text("Description", exact=True).first.wait_for()
    caption = page.inner_text("body").partition("DESCRIPTION\n")[2].partition("\nSIZE\n")[0]
    page.get_by_text(part, exact=True).first.click()
    page.locator("[iconname=eye]").first.wait_for()
    return caption
