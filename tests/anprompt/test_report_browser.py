"""The report in a real browser: sorted, filtered, switched, pointed at, with nothing asked outside.

Needs Chromium with its driver, and selenium; skipped where they are not there.
"""

import csv
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from called import report
from kept_runs import keep
from PIL import Image
from written_runs import write_base_new

from anprompt.results.table import ELEVEN

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
DRIVER = shutil.which("chromedriver")
if not (BROWSER and DRIVER):
    pytest.skip("no Chromium with chromedriver on this machine", allow_module_level=True)
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

pytestmark = pytest.mark.slow

METHODS = ("ZeroshotCLIP", "CoOp", "MaPLe", "ANPrompt")
NAUGHTY = "<img src=x onerror=alert(1)>"


def write_tree(root: Path, datasets, methods, seeds, count: int, classes: int = 4) -> None:
    """Base-to-new runs with predictions, the later methods the better."""
    for d, dataset in enumerate(datasets):
        for m, method in enumerate(methods):
            for seed in seeds[:1] if method == "ZeroshotCLIP" else seeds:
                folders = write_base_new(root, method, dataset, 0, 0, seed=seed)
                for part, folder in enumerate(folders):
                    hard = np.random.default_rng([d, part]).random(count)
                    own = np.random.default_rng([d, m, seed]).random(count)
                    right = 0.7 * hard + 0.3 * own < 0.45 + 0.3 * m / len(methods) + 0.01 * d
                    keep(folder, right, classes, NAUGHTY)


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    size = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    write_tree(folder / "output", ("Caltech101", "EuroSAT", "UCF101"), METHODS, (1, 2), 60)
    (folder / "data/EuroSAT" / NAUGHTY).parent.mkdir(parents=True)
    # keep() writes paths "EuroSAT/NAME/00000.png", whose NAME is that of the class
    target = folder / "data/EuroSAT" / NAUGHTY
    target.mkdir()
    for i in range(60):
        Image.new("RGB", (200, 100), (4 * i, 100, 50)).save(target / f"{i:05d}.png")
    path = folder / "report.html"
    arguments = [folder / "output", "-o", path, "--root", folder / "data"]
    assert report(arguments) == 0
    return path


@pytest.fixture
def opened(browser, page):
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(page.as_uri())
    yield browser
    assert browser.get_log("browser") == []
    asked = [entry["message"] for entry in browser.get_log("performance")]
    asked = [message for message in asked if "Network.requestWillBeSent" in message]
    assert all(page.as_uri() in message or '"url":"data:' in message for message in asked)


def run(browser, script: str, *arguments):
    return browser.execute_script(script, *arguments)


def texts(browser, selector: str) -> list[str]:
    """Text of what is shown of some elements."""
    script = """return [...document.querySelectorAll(arguments[0])]
        .filter(own => own.getClientRects().length).map(own => own.textContent)"""
    return run(browser, script, selector)


def methods(browser) -> list[str]:
    return texts(browser, "#matrix tbody th")


def columns(browser) -> list[str]:
    script = """return [...document.querySelectorAll('#matrix thead th[data-column] button')]
        .map(own => own.firstChild.textContent)"""
    return run(browser, script)


def column(browser, name: str) -> list[float]:
    script = """return [...document.querySelectorAll('#matrix tbody tr')]
        .map(row => row.cells[arguments[0]].firstChild.textContent)"""
    return [float(text) for text in run(browser, script, columns(browser).index(name))]


def choose(browser, label: str, text: str) -> None:
    script = """
        const label = [...document.querySelectorAll('label')]
            .find(own => own.textContent.startsWith(arguments[0]) && own.offsetParent);
        const select = label.querySelector('select');
        select.value = [...select.options].find(own => own.textContent === arguments[1]).value;
        select.dispatchEvent(new Event('change', {bubbles: true}))"""
    run(browser, script, label, text)


SMALL_TEXT = """
    const found = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
        const text = walk.currentNode.data.trim(), own = walk.currentNode.parentElement;
        if (!text || own.matches('script, style, noscript')) continue;
        const svg = own.closest('svg'), box = svg?.viewBox.baseVal;
        const scale = box?.width ? svg.getBoundingClientRect().width / box.width : 1;
        const size = parseFloat(getComputedStyle(own).fontSize) * scale;
        if (size < 11.95 && own.getClientRects().length) found.push([own.tagName, size, text]);
    }
    return found"""


def find(browser, selector: str):
    return browser.find_element("css selector", selector)


def test_first_screen_is_the_matrix_with_its_average(opened):
    assert columns(opened) == ["method", "average of 3", "Caltech101", "EuroSAT", "UCF101"]
    assert methods(opened) == list(METHODS)
    box = find(opened, "#matrix").rect
    assert box["y"] + box["height"] < 900
    mean = np.mean([column(opened, name)[3] for name in columns(opened)[2:]])
    assert column(opened, "average of 3")[3] == pytest.approx(mean, abs=0.5)


def test_sorting(opened):
    header = "#matrix th[data-column='1'] button"
    given = column(opened, "Caltech101")
    for expected, order in ((sorted(given)[::-1], "descending"), (sorted(given), "ascending"),
                            (given, "none")):  # fmt: skip
        find(opened, header).send_keys(Keys.ENTER)
        assert column(opened, "Caltech101") == expected
        assert find(opened, "#matrix th[data-column='1']").get_attribute("aria-sort") == order


def test_filter_by_method_and_data_set(opened):
    field = find(opened, "#explorer input[type=search]")
    field.send_keys("coop, euro")
    assert methods(opened) == ["CoOp"] and columns(opened) == ["method", "EuroSAT"]
    field.clear()
    field.send_keys("nothing-of-the-kind")
    assert "Nothing fits" in find(opened, "#explorer [role=status]").text


def test_methods_are_switched_off_everywhere(opened):
    chip = opened.find_elements("css selector", ".chips button")[1]
    assert chip.text == "CoOp"
    chip.click()
    assert "CoOp" not in methods(opened)
    assert chip.get_attribute("aria-pressed") == "false"
    run(opened, "openTo('#base-new')")
    shown = texts(opened, "#base-new tbody th")
    assert shown and not any(name.startswith("CoOp") for name in shown)
    assert not texts(opened, "#base-new .series-1") and texts(opened, "#base-new .series-2")
    chip.click()
    assert "CoOp" in methods(opened)


def test_metric_and_seed_are_chosen(opened):
    choose(opened, "Show", "base")
    mean = column(opened, "EuroSAT")[1]
    single = []
    for seed in ("1", "2"):
        choose(opened, "Seed", seed)
        single.append(column(opened, "EuroSAT")[1])
    assert mean == pytest.approx(np.mean(single), abs=0.011)
    choose(opened, "Seed", "mean over seeds")
    choose(opened, "Show", "ECE, base")
    assert "calibration error" in find(opened, "#matrix-caption").text
    find(opened, "#matrix th[data-column='0'] button").click()  # lowest first
    values = column(opened, "average of 3")
    assert values == sorted(values)


def test_values_on_hover_focus_and_touch(opened):
    from selenium.webdriver import ActionChains

    tip, cell = find(opened, "#tip"), find(opened, "#matrix tbody tr:nth-child(2) td.cell")
    ActionChains(opened).move_to_element(cell).perform()
    assert tip.is_displayed() and "CoOp, average of 3" in tip.text and "less the best" in tip.text
    ActionChains(opened).move_to_element(find(opened, "h1")).perform()
    assert not tip.is_displayed()
    run(opened, "document.querySelector('#matrix [tabindex=\"0\"]').focus()")
    assert tip.is_displayed() and "ZeroshotCLIP" in tip.text
    opened.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    assert "CoOp" in tip.text
    opened.switch_to.active_element.send_keys(Keys.ENTER)
    panel = find(opened, "#origin")
    assert panel.is_displayed() and "results.json \u2192 accuracy" in panel.text
    opened.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not panel.is_displayed() and not tip.is_displayed()


def test_points_of_figures_say_their_values(opened):
    run(opened, "openTo('#base-new')")
    run(opened, "document.querySelector('#base-new .point[tabindex=\"0\"]').focus()")
    tip = find(opened, "#tip")
    first = tip.text
    assert "base " in first and "new " in first
    opened.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert tip.is_displayed() and tip.text != first


def test_drill_down_to_images(opened):
    run(opened, "openTo('#answers')")
    choose(opened, "Test", "Base to new: EuroSAT, base classes")
    cards = opened.find_elements("css selector", ".gallery .card")
    assert len(cards) > 5
    for card in cards[:3]:  # methods disagree: some are right, some are not
        assert "\u2713" in card.text and "\u2717" in card.text
        assert NAUGHTY in card.text
    script = """return [...document.querySelectorAll('.gallery img')]
        .map(image => [image.naturalWidth, image.src.slice(0, 15)])"""
    sizes = run(opened, script)
    assert sizes[0] == [96, "data:image/jpeg"]
    assert all(width in (0, 96) and start == "data:image/jpeg" for width, start in sizes)
    choose(opened, "Images", "errors of CoOp, most confident first")
    shares = texts(opened, ".gallery tr[data-method='1'] td:last-child")
    shares = [int(text.rstrip("%")) for text in shares]
    assert len(shares) > 3 and shares == sorted(shares, reverse=True)
    choose(opened, "Confusion", "MaPLe")
    detail = find(opened, ".detail").text
    assert detail.startswith("MaPLe, seed 1: accuracy")
    cells = [int(text or 0) for text in texts(opened, ".confusion :is(td.hit, td.miss)")]
    assert sum(cells) == 60 and find(opened, ".reliability svg").is_displayed()


def test_settings_of_two_runs(opened):
    run(opened, "openTo('#settings')")
    assert "settings differ" in find(opened, "#settings").text


def test_copies(opened):
    buttons = {b.text: b for b in opened.find_elements("css selector", ".copy button")}
    texts = {}
    for name, button in buttons.items():
        button.click()
        texts[name] = find(opened, "#explorer textarea").get_property("value")
    rows = list(csv.DictReader(io.StringIO(texts["CSV"])))
    assert [row["method"] for row in rows] == list(METHODS)
    assert [float(row["EuroSAT"]) for row in rows] == column(opened, "EuroSAT")
    assert texts["LaTeX"].count(r" \\") == 5 and r"\mathbf" in texts["LaTeX"]
    lines = texts["Markdown"].splitlines()
    assert len(lines) == 6 and len({line.count("|") for line in lines}) == 1


def test_names_are_text_and_letters_are_large_enough(opened):
    run(opened, "for (const d of document.querySelectorAll('details')) d.open = true")
    assert run(opened, "return document.querySelectorAll('img[onerror]').length") == 0
    small = run(opened, SMALL_TEXT)
    assert not small, small[:5]
    assert run(opened, "return document.querySelectorAll('th:not([scope])').length") == 0


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_screen(opened, width, scheme):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    try:
        run(opened, "for (const d of document.querySelectorAll('details')) d.open = true")
        assert run(opened, "return document.documentElement.scrollWidth") <= width
        background = run(opened, "return getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(20, 23, 26)") == (scheme == "dark")
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        size |= {"width": 1280, "mobile": False}
        opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


@pytest.mark.slow
def test_eleven_data_sets_twelve_methods_three_seeds(browser, tmp_path):
    twelve = ("ZeroshotCLIP", "CoOp", "CoCoOp", "KgCoOp", "ProGrad", "TCP", "VPT", "IVLP", "MaPLe",
              "PromptSRC", "MMRL", "ANPrompt")  # fmt: skip
    write_tree(tmp_path / "output", ELEVEN, twelve, (1, 2, 3), 100)
    path = tmp_path / "report.html"
    assert report([tmp_path / "output", "-o", path]) == 0
    assert path.stat().st_size < 12_000_000
    browser.get(path.as_uri())
    assert len(columns(browser)) == 13 and len(methods(browser)) == 12
    assert run(browser, "return document.documentElement.scrollHeight") < 6000
    assert find(browser, "#matrix").rect["width"] <= 1280
    assert browser.get_log("browser") == []
