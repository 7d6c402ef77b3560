"""The report's page in a headless Chromium that is already there: what a reader does, and that nothing leaves it."""

import json
import re
import shutil

import numpy as np
import pytest

from ahmf_jax.export import Trained, save_bundle
from ahmf_jax.models import DSDMSR
from experiments.benchmark_programs import random_params
from experiments.evaluations import find, read_image
from experiments.pictures import depth_colours
from experiments.report.make import report
from experiments.report.sources import read_training
from tests.experiments.reports import EVIL, HEIGHT, WIDTH, scene, write_diffused, write_evaluation, write_sources

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# SwiftShader draws the 3D view where no graphics card is, and the driver then says that reading it back is slow; Plotly
# reads text's size back from a canvas.
HARMLESS = re.compile(r"GPU stall due to ReadPixels|Canvas2D: Multiple readback operations|GroupMarkerNotSet")


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium is installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--enable-unsafe-swiftshader"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_sources(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page_file(folders):
    return report(folders, folders[0].parent / "report.html").page


@pytest.fixture(scope="module")
def one_context(browser):
    context = browser.new_context(viewport={"width": 1200, "height": 900}, reduced_motion="reduce")
    yield context
    context.close()


class Watched:
    """A page, with what it asked for and complained of."""

    def __init__(self, context, path):
        self.page = context.new_page()
        self.requests, self.complaints = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self.heard)
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-ready]", state="attached")

    def heard(self, message):
        if not HARMLESS.search(message.text):
            self.complaints.append(f"{message.type}: {message.text}")

    def part(self, name):
        return self.page.locator(f'[data-part="{name}"]')

    def until(self, script):
        """Waits for a script to give true; Playwright's own way evaluates text, which the page's policy forbids."""
        for _ in range(200):
            if self.page.evaluate(script):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"{script} did not come true")

    def views(self):
        """Zoom and centre of each pane, once the next picture is painted."""
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return self.page.eval_on_selector_all("canvas.pane", "panes => panes.map((pane) => pane.dataset.view)")

    def colour(self, x, y):
        """The colour of the compared picture at a point given in parts of its size."""
        self.views()
        return self.page.evaluate(
            """([x, y]) => {
              const canvas = document.querySelector('[data-part="compare"]');
              const at = [Math.floor(x * canvas.width), Math.floor(y * canvas.height), 1, 1];
              return [...canvas.getContext("2d").getImageData(...at).data].slice(0, 3);
            }""",
            [x, y],
        )


@pytest.fixture
def opened(one_context, page_file):
    """The page; no complaint, and no request but for the page itself, whatever the test does with it."""
    watched = Watched(one_context, page_file)
    watched.page.wait_for_selector(".viewer[data-complete]")
    watched.part("stage").evaluate("stage => stage.scrollIntoView()")
    yield watched
    watched.page.close()
    assert watched.complaints == []
    asked = [url for url in watched.requests if not url.startswith(("data:", "blob:"))]
    assert asked == [page_file.as_uri()], "a request left the page"


def test_the_page_shows_the_worst_image_first(opened):
    names = opened.page.eval_on_selector_all('[data-part="images"] span', "spans => spans.map((s) => s.textContent)")
    assert names == ["hard", EVIL, "easy"]
    assert opened.page.locator(".viewer").get_attribute("data-image") == "hard"
    assert opened.page.title().endswith("test, x4") and EVIL in opened.page.title()
    opened.part("images").locator("button").nth(1).click()
    opened.page.wait_for_selector(f".viewer[data-complete={json.dumps(EVIL)}]")
    assert opened.part("images").locator('[aria-pressed="true"]').inner_text().startswith(EVIL)


def test_the_slider_moves_by_dragging_and_by_keys(opened, folders):
    slider, pane = opened.part("slider"), opened.part("compare")
    image = read_image(next(iter(find(folders[0]))).kept()["hard"])
    known = image["depth_hr"][image["mask_hr"]]
    truth = depth_colours(image["depth_hr"], known.min(), known.max())[20, 44].tolist()
    spot = (44.5 / WIDTH, 20.5 / HEIGHT)
    opened.part("left").select_option("truth")
    opened.part("right").select_option("guide")
    assert opened.part("left-name").inner_text() == "truth"
    right = opened.colour(*spot)  # the divide is at a half, the spot right of it
    box = pane.bounding_box()
    opened.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    opened.page.mouse.down()
    opened.page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + box["height"] / 3, steps=4)
    opened.page.mouse.up()
    left = opened.colour(*spot)
    assert slider.get_attribute("aria-valuenow") == "90"
    assert right != left == truth, "the divide moved and the picture did not"
    slider.focus()
    opened.page.keyboard.press("Home")
    assert opened.colour(*spot) == right and slider.get_attribute("aria-valuenow") == "0"
    for _ in range(5):
        opened.page.keyboard.press("ArrowRight")
    opened.views()
    assert slider.get_attribute("aria-valuenow") == "10"
    opened.page.keyboard.press("End")
    assert opened.colour(*spot) == left
    opened.page.keyboard.press("ArrowLeft")
    opened.views()
    assert slider.get_attribute("aria-valuenow") == "98" and "truth" in slider.get_attribute("aria-valuetext")


def test_zoom_and_pan_keep_in_step(opened):
    start = opened.views()
    assert len(start) == 4 and set(start) == {f"1.000 {WIDTH / 2:.3f} {HEIGHT / 2:.3f}"}  # the pair, and three errors
    opened.part("slider").focus()
    seen = [start[0]]
    for keys in ("+", "+", "l", "j", "Shift+ArrowLeft", "h", "k", "-"):
        opened.page.keyboard.press(keys)
        views = opened.views()
        assert len(set(views)) == 1, (keys, views)
        assert views[0] != seen[-1], keys
        seen.append(views[0])
    # The wheel zooms at the pointer, over an error map as over the pair, and dragging pans.
    error = opened.part("errors").locator("canvas").nth(1)
    error.scroll_into_view_if_needed()
    box = error.bounding_box()
    opened.page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 4)
    opened.page.mouse.wheel(0, -200)
    opened.until(f"document.querySelector('.pane').dataset.view !== '{seen[-1]}'")
    zoomed = opened.views()
    assert len(set(zoomed)) == 1 and float(zoomed[0].split()[0]) > float(seen[-1].split()[0])
    opened.page.mouse.down()
    opened.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 3, steps=3)
    opened.page.mouse.up()
    panned = opened.views()
    assert len(set(panned)) == 1 and panned != zoomed
    zoom, x, _ = map(float, zoomed[0].split())
    moved = x - float(panned[0].split()[1])
    assert abs(moved - 0.25 * WIDTH / zoom) < 0.2, "the picture follows the hand"
    opened.part("reset").click()
    assert opened.views() == start


def test_the_values_under_the_cursor_are_those_of_the_maps(opened, folders):
    kept = [next(iter(find(folder))).kept()["hard"] for folder in folders]
    ours, theirs = map(read_image, kept)
    box = opened.part("compare").bounding_box()

    def values(x, y):
        scale = box["width"] / WIDTH
        opened.page.mouse.move(box["x"] + (x + 0.5) * scale, box["y"] + (y + 0.5) * scale)
        opened.views()
        rows = opened.part("values").locator("tr").all()
        return [[cell.inner_text() for cell in row.locator("td").all()] for row in rows]

    truth, floor = ours["depth_hr"][20, 44], ours["floor"][20, 44]
    sign = "+" if floor >= truth else "\u2212"
    assert values(44, 20) == [
        [f"{ours['depth_lr'][5, 11]:.0f}", ""],
        [f"{floor:.0f}", f"{sign}{abs(floor - truth):.0f}"],
        [f"{ours['prediction'][20, 44]:.0f}", "+12"],
        [f"{theirs['prediction'][20, 44]:.0f}", "+24"],
        [f"{truth:.0f}", ""],
    ]
    assert values(2, 2)[-1] == ["unknown", ""] and values(2, 2)[2][1] == ""


def test_the_worst_region_is_where_the_error_is(opened):
    button = opened.part("regions").locator("button").first
    assert button.inner_text() == "12 grey levels at 40, 16"
    button.click()
    zoom, x, y = map(float, opened.views()[0].split())
    assert zoom > 1.5 and (x, y) == (44, 20)
    # The list is of what is on the right, until another is chosen there.
    opened.part("right").select_option("m1")
    assert opened.part("regions-of").input_value() == opened.part("cloud-of").input_value() == "m1"
    assert opened.part("regions").locator("button").first.inner_text().startswith("24 grey levels")
    opened.part("right").select_option("truth")
    assert opened.part("regions-of").input_value() == "m1", "the truth has no errors"
    opened.part("regions-of").select_option("m0")
    assert opened.part("regions").locator("button").first.inner_text().startswith("12 grey levels")
    opened.part("right").select_option("floor")
    assert (opened.part("regions-of").input_value(), opened.part("cloud-of").input_value()) == ("m0", "floor")
    # One scale for all error maps; twice as coarse, and a legend that says so.
    before = opened.part("legend-end").inner_text()
    opened.part("error-more").click()
    after = opened.part("legend-end").inner_text()
    assert before != after and after.endswith("grey levels")


def test_a_line_that_is_drawn_gives_its_profile(opened, folders):
    image = read_image(next(iter(find(folders[0]))).kept()["hard"])
    pane = opened.part("compare")
    opened.part("draw").click()
    box = pane.bounding_box()
    scale = box["width"] / WIDTH
    opened.page.mouse.move(box["x"] + 10.5 * scale, box["y"] + 20.5 * scale)
    opened.page.mouse.down()
    opened.page.mouse.move(box["x"] + 60.5 * scale, box["y"] + 20.5 * scale, steps=5)
    opened.page.mouse.up()
    opened.page.wait_for_selector('[data-part="profile-chart"][data-drawn]')
    drawn = opened.part("profile-chart").evaluate("div => div.data.map((d) => [d.name, d.x, d.y])")
    assert [name for name, _, _ in drawn] == [
        "low resolution",
        "matlab_bicubic",
        "AHMF",
        'B &lt;script&gt;alert("x")&lt;/script&gt;\'&amp;',
        "truth",
    ]
    lines = {name: np.array(y, float) for name, _, y in drawn}
    x = np.array(drawn[0][1])
    assert x[0] == 0 and abs(x[-1] - 50) < 0.1 and abs(len(x) - 51) <= 1
    columns = np.minimum(np.floor(10.5 + x + 1e-6).astype(int), 60)
    for name, array in (("truth", "depth_hr"), ("AHMF", "prediction"), ("matlab_bicubic", "floor")):
        np.testing.assert_allclose(lines[name], image[array][20, columns], atol=0.51, err_msg=name)
    np.testing.assert_allclose(lines["low resolution"], image["depth_lr"][5, columns // 4], atol=0.51)
    assert opened.part("draw").get_attribute("aria-pressed") == "false"


def test_the_colours_of_depth_have_a_scale(opened, folders):
    image = read_image(next(iter(find(folders[0]))).kept()["hard"])
    known = image["depth_hr"][image["mask_hr"]]
    assert opened.part("depth-low").inner_text() == f"\u2264 {known.min():.0f}"
    assert opened.part("depth-high").inner_text() == f"\u2265 {known.max():.0f} grey levels"
    assert "linear-gradient" in opened.part("depth-bar").evaluate("bar => bar.style.background")


def test_nothing_is_larger_than_is_of_use(opened):
    """One error map alone, and a bar of many comparisons: all of it is in sight or scrolls down."""
    sizes = opened.part("errors").evaluate(
        """(grid) => {
          for (const figure of [...grid.children].slice(1)) figure.hidden = true;
          const { width, height } = grid.children[0].getBoundingClientRect();
          return [width, height, grid.getBoundingClientRect().width];
        }"""
    )
    assert sizes[0] <= 576 < sizes[2] and sizes[1] < 0.9 * 900
    right = opened.page.evaluate(
        """() => {
          const nav = document.querySelector("nav");
          for (let i = 0; i < 9; i++) nav.prepend(nav.firstElementChild.cloneNode(true));
          return [...nav.children].map((a) => a.getBoundingClientRect().right - nav.getBoundingClientRect().right);
        }"""
    )
    assert max(right) <= 0


def test_the_points_of_the_relief_are_those_of_the_map(opened, folders):
    image = read_image(next(iter(find(folders[0]))).kept()["hard"])
    opened.part("show-cloud").click()
    opened.page.wait_for_selector('[data-part="cloud-chart"][data-drawn]')
    x, depth, y = opened.part("cloud-chart").evaluate("div => [div.data[0].x, div.data[0].y, div.data[0].z]")
    assert len(x) == WIDTH * HEIGHT
    np.testing.assert_array_equal(np.array(depth), image["prediction"][y, x])
    assert opened.part("cloud-chart").locator("canvas").count() > 0
    opened.part("cloud-of").select_option("truth")
    opened.page.wait_for_selector('[data-part="cloud-chart"][aria-label^="truth"]')
    points = WIDTH * HEIGHT - 30  # where the truth is unknown there is none
    opened.until(f"document.querySelector('[data-part=cloud-chart]').data[0].x.length === {points}")
    assert opened.part("cloud-title").inner_text().startswith(f"In view, as relief (x 0\u2013{WIDTH - 1}, y 0")
    # It is of what is in view, also when that changes.
    opened.part("regions").locator("button").first.click()
    opened.until(f"document.querySelector('[data-part=cloud-chart]').data[0].x.length < {points // 2}")
    x, y = opened.part("cloud-chart").evaluate("div => [div.data[0].x, div.data[0].z]")
    ends = f"x {min(x)}\u2013{max(x)}, y {min(y)}\u2013{max(y)}"
    assert ends in opened.part("cloud-title").inner_text()
    opened.part("reset").click()
    opened.until(f"document.querySelector('[data-part=cloud-chart]').data[0].x.length === {points}")


def test_without_colour_there_is_no_guide_to_choose(one_context, tmp_path):
    folder = write_evaluation(tmp_path / "e", names=("easy",), colour=False)
    watched = Watched(one_context, report([folder], tmp_path / "r.html").page)
    watched.page.wait_for_selector(".viewer[data-complete]")
    keys = watched.part("left").evaluate("choice => [...choice.options].map(({ value }) => value)")
    assert keys == ["lr", "floor", "m0", "truth"]
    watched.part("show-cloud").click()
    watched.page.wait_for_selector('[data-part="cloud-chart"][data-drawn]')
    chart = watched.part("cloud-chart")
    assert chart.get_attribute("aria-label") == "AHMF as relief, in the colours of its depth"
    depth, colours = chart.evaluate("({ data: [d] }) => [d.y, d.marker.color]")
    arrays = scene("easy")
    known = arrays["depth_hr"][arrays["mask_hr"]]
    wanted = depth_colours(np.array(depth)[None], known.min(), known.max())[0]
    found = np.array([[int(part) for part in re.findall(r"\d+", colour)] for colour in colours])
    assert np.abs(found - wanted).max() <= 2 and len({*colours}) > 20, "a palette of 256"
    watched.page.close()
    assert watched.complaints == []


def test_the_scales_of_the_stages_have_colours(one_context, tmp_path):
    model, weights = DSDMSR(4), tmp_path / "w.safetensors"
    save_bundle(weights, Trained(model, random_params(model), "range", "grey level", 255.0))
    folder = write_evaluation(tmp_path / "e", names=("easy",), weights=str(weights))
    watched = Watched(one_context, report([folder], tmp_path / "r.html").page)
    ramps = watched.page.eval_on_selector_all("#stages-0 [data-ramp]", "bars => bars.map((b) => b.style.background)")
    assert len(ramps) == 2 and len({*ramps}) == 2 and all(ramp.startswith("linear-gradient") for ramp in ramps)
    widths = watched.page.eval_on_selector_all("#stages-0 img", "images => images.map((i) => Math.round(i.width))")
    assert len(widths) == 10 and max(widths) - min(widths) <= 1, "of one size, whatever their resolution"
    watched.page.set_viewport_size({"width": 360, "height": 740})
    assert watched.page.evaluate("document.documentElement.scrollWidth") == 360
    watched.page.close()
    assert watched.complaints == []


def test_curves_are_the_runs_and_tables_sort(opened, folders):
    curves = opened.page.locator("[data-curves]")
    assert curves.count() == 2
    curves.first.scroll_into_view_if_needed()
    opened.page.wait_for_selector('[data-curves="1"][data-drawn]')
    loss = curves.nth(0).evaluate("div => [div.data[0].x, div.data[0].y]")
    training = read_training(folders[0])
    assert loss == [list(training.loss.steps), list(training.loss.values)]
    names = curves.nth(1).evaluate("div => div.data.map((d) => [d.name, d.line.dash, d.y])")
    assert names == [
        ["run", "solid", [0.25, 0.125, pytest.approx(0.5 / 6)]],
        ["interpolation (run)", "dash", [0.4] * 3],
    ]

    table = opened.page.locator("main table").first
    first = "table => [...table.tBodies[0].rows].map((row) => row.querySelector('.method').textContent)"
    assert table.evaluate(first) == ["matlab_bicubic", "AHMF", f"B {EVIL}"]
    mean = table.locator("thead button").last
    mean.click()
    assert table.evaluate(first) == ["AHMF", f"B {EVIL}", "matlab_bicubic"]
    mean.click()
    assert table.evaluate(first) == ["matlab_bicubic", f"B {EVIL}", "AHMF"]
    assert table.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"


def test_light_and_dark(browser, page_file, opened):
    paper = "getComputedStyle(document.body).backgroundColor"
    light = opened.page.evaluate(paper)
    opened.page.locator("#theme").click()
    dark = opened.page.evaluate(paper)
    assert light != dark and opened.page.locator("#theme").get_attribute("aria-pressed") == "true"
    opened.page.locator("#theme").click()
    assert opened.page.evaluate(paper) == light
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert page.evaluate(paper) == dark, "as the system has it"
    context.close()


def test_a_phone_scrolls_in_one_direction(browser, page_file):
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    watched = Watched(context, page_file)
    watched.page.wait_for_selector(".viewer[data-complete]")
    wide = """() => [document.documentElement.scrollWidth, ...[...document.querySelectorAll("main *")]
      .filter((e) => !e.closest(".scroll, .images, .frame") && e.getBoundingClientRect().right > 361)
      .map((e) => e.outerHTML)]"""
    watched.page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert watched.page.evaluate(wide) == [360]
    scroll = watched.page.locator(".scroll").first
    assert scroll.evaluate("e => e.scrollWidth > e.clientWidth"), "a wide table scrolls inside itself"
    assert watched.complaints == []
    context.close()


def test_everything_is_reached_with_the_tab_key(opened):
    reached = set()
    for _ in range(80):
        opened.page.keyboard.press("Tab")
        part = opened.page.evaluate("document.activeElement.dataset.part ?? document.activeElement.id")
        if part:
            outlined = opened.page.evaluate("document.activeElement.matches(':focus-visible')")
            assert outlined, part
            reached.add(part)
    wanted = {
        "theme",
        "left",
        "right",
        "swap",
        "slider",
        "zoom-in",
        "zoom-out",
        "reset",
        "draw",
        "across",
        "show-cloud",
    }
    assert reached >= wanted | {"regions-of", "error-less", "error-more"}


def painted(page, name):
    """The colours of a canvas of the diffusion, as one number."""
    return page.evaluate(
        """(name) => {
          const canvas = document.querySelector(`.diffusion [data-part="${name}"]`);
          return canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.reduce((a, b) => a + b);
        }""",
        name,
    )


@pytest.fixture(scope="module")
def diffused(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diffused")
    return report([write_diffused(folder / "a", names=("easy",))], folder / "r.html").page


def test_the_diffusion_is_stepped_through(one_context, diffused):
    watched = Watched(one_context, diffused)
    page, told, time = watched.page, watched.part("told"), watched.part("frame")
    page.locator(".diffusion").scroll_into_view_if_needed()
    page.wait_for_selector(".diffusion[data-complete]")
    page.wait_for_selector(".diffusion .chart[data-drawn]")
    last, shown = told.inner_text(), {name: painted(page, name) for name in ("depth", "error")}
    assert last.startswith("8,000 iterations: MAE ")
    page.wait_for_timeout(1800)
    assert watched.part("play").inner_text() == "Play" and told.inner_text() == last, "less motion was asked for"
    time.focus()
    page.keyboard.press("Home")
    first = told.inner_text()
    assert first.startswith("0 iterations: MAE ") and time.get_attribute("aria-valuetext") == first
    assert all(painted(page, name) != shown[name] for name in shown), "the pictures stayed"
    page.keyboard.press("ArrowRight")
    assert told.inner_text().startswith("1 iteration: MAE ")
    watched.part("play").click()
    watched.until("""document.querySelector('.diffusion [data-part="told"]').textContent.startsWith("3 iterations")""")
    watched.part("play").click()
    for pause in (lambda: None, lambda: (watched.part("play").click(), time.press("Home"))):
        pause()
        stopped = told.inner_text()
        page.wait_for_timeout(1800)
        assert told.inner_text() == stopped and watched.part("play").inner_text() == "Play"
    page.close()
    assert watched.complaints == []
    assert [url for url in watched.requests if not url.startswith(("data:", "blob:"))] == [diffused.as_uri()]


def test_the_diffusion_is_there_before_it_is_seen(one_context, diffused):
    watched = Watched(one_context, diffused)
    page = watched.page
    assert not page.evaluate("document.querySelector('.diffusion').dataset.complete"), "frames are decoded later"
    for name in ("depth", "error"):
        width = page.evaluate(f"document.querySelector('.diffusion [data-part={name}]').width")
        assert width == 64 and painted(page, name) > 0, "a page that is printed has it"
    page.wait_for_selector(".diffusion .chart[data-drawn]")
    assert page.evaluate("scrollY") == 0
    page.close()
    assert watched.complaints == []


def test_the_diffusion_plays_by_itself_and_fits_a_phone(browser, diffused):
    context = browser.new_context(viewport={"width": 360, "height": 740}, reduced_motion="no-preference")
    watched = Watched(context, diffused)
    watched.page.wait_for_timeout(300)
    told = watched.part("told")
    assert told.inner_text().startswith("8,000"), "it waits until it is seen"
    told.evaluate("told => told.scrollIntoView({behavior: 'instant'})")
    watched.until("""document.querySelector('.diffusion [data-part="told"]').textContent.startsWith("2 iterations")""")
    assert watched.part("play").inner_text() == "Pause"
    watched.page.evaluate("scrollTo({top: 0, behavior: 'instant'})")
    watched.page.wait_for_timeout(300)
    unseen = told.inner_text()
    watched.page.wait_for_timeout(600)
    assert told.inner_text() == unseen, "nobody sees it"
    assert watched.page.evaluate("document.documentElement.scrollWidth") == 360
    context.close()
    assert watched.complaints == []
