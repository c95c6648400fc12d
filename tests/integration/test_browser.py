"""The explorer and the report in a real browser, without a network."""

import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from playwright.sync_api import sync_playwright

from horizons.report.explorer import explorer_page
from made_up import ODD_TEXTS, make_table, write_run, write_tables
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


def write_page(folder, table, points, files, name="x"):
    """Write the explorer of a table; `files` are results and candidates of each of its runs."""
    path = folder / "explorer.html"
    page = explorer_page(name, write_tables(folder, table), points, *zip(*files, strict=True), PARTS)
    path.write_text(page, encoding="utf-8")
    return path


def shown_samples(page):
    return page.locator("#list [role=option] .name").all_inner_texts()


def test_a_click_shows_the_predictions_of_a_token(open_page, explorer):
    path, table = explorer
    page = open_page(path, ".token", at="sample=0")
    assert page.locator("#run").input_value() == "00000"
    assert page.locator("#run option").inner_text() == "00000: temperature 0.5"
    page.locator(".token").nth(4).click()
    assert page.locator("#detail-title").inner_text().startswith("Position 4:")
    entries = table.query("sample_idx == 0 and relative_position == 4").sort_values("timestep")
    assert page.locator("#detail thead th").all_inner_texts() == [f"Horizon {h}" for h in entries["horizon"]]
    rows = {
        row.locator("th").inner_text(): row.locator("td").all_inner_texts()
        for row in page.locator("#detail tbody tr").all()
    }
    assert rows["Timestep"] == entries["timestep"].astype(str).tolist()
    assert [name for name in rows if name.startswith("Candidate")] == [f"Candidate {n}" for n in range(1, 6)]
    for name, number in {"KL divergence (nats)": "kl", "Entropy (nats)": "entropy", "Confidence": "confidence"}.items():
        assert [float(value) for value in rows[name]] == pytest.approx(entries[number].tolist(), rel=0.06, abs=1e-3)
    assert page.locator("#detail svg circle").count() == 2 * len(entries)


def test_the_keyboard_alone_reaches_everything(open_page, explorer):
    path, _ = explorer
    page = open_page(path, ".token", at="sample=0")
    reached = []
    for _ in range(10):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.classList[0]"))
    assert reached[:8] == ["run", "number", "horizon", "task", "score", "sort", "list", "token"]
    page.focus("#list")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.locator("[role=option][aria-selected=true] .name").inner_text() == "q2"
    assert page.locator("#text-title").inner_text().startswith("q2")
    page.keyboard.press("Tab")
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
    page.evaluate("location.hash = '#run=99999&sample=-7&position=x&number=nonsense&horizon=3'")
    page.wait_for_function("document.querySelector('#text-title').textContent.startsWith('q0')")


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
    assert {part: len(found) for part, found in captions.items()} == {"Figures": 7, "Tables": 3, "Explorer": 1}
    assert len(set(captions["Figures"])) == 7
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
