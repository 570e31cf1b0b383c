"""The page in a real browser: sorted, filtered, pointed at, by mouse and by keyboard, in light, dark and print."""

import csv
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfam_bench.report.figures.colours import overlay
from tests.browser.conftest import FAILED, FLAT, GRID, HOSTILE, MATCH, METHODS, OTHER, Opened, points_of_run, raw_map

pytestmark = pytest.mark.slow

AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
PIXELS = "canvas => Array.from(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data)"


def pixels(page: Any, method: str, side: str) -> list[int]:
    """What is drawn on a canvas."""
    return page.locator(f'canvas[data-method="{method}"].{side}').evaluate(PIXELS)


def settled(page: Any) -> str:
    """The address, when changes have come to it."""
    page.wait_for_timeout(250)
    return str(page.evaluate("location.hash"))


def names(table: Any) -> list[str]:
    """The rows of a table that are seen."""
    return list(table.locator("tbody tr:visible th").all_inner_texts())


def table_with(page: Any, head: str) -> Any:
    """The first table with this column."""
    return page.locator("figure.table").filter(has=page.locator("thead th", has_text=head)).first


def labels(page: Any, selector: str) -> list[str]:
    """The accessible names of some elements."""
    return list(page.locator(selector).evaluate_all("all => all.map(one => one.getAttribute('aria-label'))"))


def until(page: Any, expression: str, given: Any = None) -> None:
    """Wait until it holds; Playwright's own waiting evaluates text in the page, which the page's policy forbids."""
    end = time.monotonic() + 20
    while not page.evaluate(expression, given):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(20)


def test_it_opens_from_disk_and_says_how_fast(opened: Opened, capsys: pytest.CaptureFixture[str]) -> None:
    start = time.perf_counter()
    page = opened.open()
    with capsys.disabled():
        size = opened.index.stat().st_size / 1e6
        print(f"\nopened in {time.perf_counter() - start:.2f} s, {size:.2f} MB")
    assert page.locator("#panels canvas").count() == 2 * (1 + len(METHODS))
    assert "7 of 8 pairs" in page.inner_text("#count")


def test_a_class_named_as_markup_is_text(opened: Opened) -> None:
    page = opened.open()
    assert any(name.startswith(HOSTILE) for name in labels(page, "#pair [role=option]"))
    page.fill("#class", "<script")
    assert HOSTILE in page.inner_text("#pair-title")
    assert page.evaluate("[...document.scripts].filter(s => s.textContent.includes('alert(1)') && !s.type).length") == 0


def test_columns_are_sorted_by_number_and_the_third_click_gives_the_first_order(opened: Opened) -> None:
    table = table_with(opened.open(), "deletion AUC (mean colour)")
    first, head = names(table), table.locator("thead th", has_text="deletion AUC (mean colour)").first
    column = head.evaluate("head => head.cellIndex")
    seen = []
    for state in ("descending", "ascending", None):  # insertion - deletion: higher is better
        head.click()
        assert head.get_attribute("aria-sort") == state
        values = [
            float(text.split()[0]) for text in table.locator(f"tbody td:nth-child({column + 1})").all_inner_texts()
        ]
        seen.append((names(table), values))
    assert seen[1][1] == sorted(seen[1][1]) != seen[0][1] == sorted(seen[0][1], reverse=True)
    assert seen[2][0] == first


def test_the_first_click_sorts_the_best_first(opened: Opened) -> None:
    table = table_with(opened.open(), "selectivity (energy) ↑")
    head = table.locator("thead th", has_text="selectivity (energy) ↑").first
    head.click()
    assert head.get_attribute("aria-sort") == "descending"
    assert names(table) == ["sfam", "grad_cam", "lafam"]


def test_a_table_is_downloaded_as_it_is_shown(opened: Opened) -> None:
    page = opened.open()
    page.fill("#rows", "grad, lafam")
    table = table_with(page, "selectivity (energy) ↑")
    files = {}
    for kind in ("CSV", "LaTeX"):
        with page.expect_download() as found:
            table.get_by_role("button", name=kind).click()
        files[found.value.suggested_filename.rpartition(".")[2]] = Path(found.value.path()).read_text(encoding="utf-8")
    rows = [row["explainer"] for row in csv.DictReader(files["csv"].splitlines())]
    assert rows == names(table) == ["grad_cam", "lafam"]
    shown = table.locator("tbody tr:visible td").first.inner_text().split()[0]
    assert f"grad_cam,{shown}," in files["csv"]
    assert f"grad\\_cam & {shown}" in files["tex"] or f"grad\\_cam & \\textbf{{{shown}}}" in files["tex"]
    assert "selectivity (energy) $\\uparrow$" in files["tex"]


def test_a_click_on_a_cell_gives_what_hovering_does(opened: Opened) -> None:
    table = table_with(opened.open(), "selectivity (energy) ↑")
    cell = table.locator("tbody td[title]").first
    cell.click()
    assert table.locator("p[role=status]").inner_text().endswith(cell.get_attribute("title"))


def test_a_phone_scrolls_the_figure_sideways_and_not_the_page(opened: Opened) -> None:
    opened.page.set_viewport_size({"width": 400, "height": 800})
    page = opened.open()
    page.evaluate("document.getElementById('pair-title').textContent = 'Red_winged_Blackbird'.repeat(9)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert page.locator(".answer .scroll").first.evaluate("box => box.scrollWidth > box.clientWidth")
    assert page.get_by_text("Scroll the figure sideways").first.is_visible()
    page.set_viewport_size({"width": 1400, "height": 900})
    assert not page.get_by_text("Scroll the figure sideways").first.is_visible()


@pytest.mark.parametrize("width", [1400, 400])
def test_the_menu_of_metrics_is_on_screen_and_closes(opened: Opened, width: int) -> None:
    opened.page.set_viewport_size({"width": width, "height": 900})
    page = opened.open()
    page.click("summary")
    page.wait_for_timeout(200)
    box = page.locator("#metrics").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    assert box["y"] >= 0
    assert box["y"] + box["height"] <= 900
    page.keyboard.press("Escape")
    assert not page.locator("#metrics").is_visible()


def test_tables_are_not_cut_in_a_wide_window(opened: Opened) -> None:
    opened.page.set_viewport_size({"width": 1400, "height": 900})
    page = opened.open()
    cut = "all => all.filter(one => one.scrollWidth > one.clientWidth).map(one => one.getAttribute('aria-label'))"
    assert page.locator("figure.table .scroll").evaluate_all(cut) == []


def test_pairs_are_chosen_by_their_small_images(opened: Opened) -> None:
    page = opened.open()
    options = page.locator("#pair [role=option]")
    until(page, "[...document.querySelectorAll('#pair img')].every(one => one.naturalWidth > 0)")
    options.nth(3).click()
    until(page, "document.querySelectorAll('#pair [role=option]')[3].getAttribute('aria-selected') === 'true'")
    assert page.inner_text("#pair-title") == options.nth(3).get_attribute("aria-label")
    page.locator("#pair").press("ArrowDown")
    until(page, "document.querySelectorAll('#pair [role=option]')[4].getAttribute('aria-selected') === 'true'")


@pytest.mark.parametrize("right", ["made-first-similarity/grad_cam", "made-second-similarity/grad_cam"])
def test_two_maps_are_compared_with_one_slider(opened: Opened, right: str) -> None:
    page = opened.open()
    page.select_option("#left", "made-first-similarity/sfam")
    page.select_option("#right", right)
    compared = page.locator("figure.panel", has=page.locator("#wipe")).locator("canvas.query")
    seen = {}
    for share in (0, 50, 100):
        page.locator("#wipe").fill(str(share))
        page.wait_for_timeout(100)
        seen[share] = np.array(compared.evaluate(PIXELS)).reshape(48, 60, 4)
    alone = [np.array(pixels(page, name, "query")).reshape(48, 60, 4) for name in ("sfam", "grad_cam")]
    assert not np.array_equal(*alone)
    assert np.array_equal(seen[100][:, :-2], alone[0][:, :-2])
    assert np.array_equal(seen[0][:, 2:], alone[1][:, 2:])
    assert np.array_equal(seen[50][:, :28], alone[0][:, :28])
    assert np.array_equal(seen[50][:, 32:], alone[1][:, 32:])
    again = opened.open(settled(page))
    assert again.input_value("#right") == right


def ends_of_line(page: Any) -> list[tuple[float, float]]:
    """Where the last line begins in the query and ends in the reference, as shares of height and width."""
    ends = page.locator(".joins line").last.evaluate(
        "line => ['x1', 'y1', 'x2', 'y2'].map(name => Number(line.getAttribute(name)))"
    )
    outer = page.locator(".panel .sides").first.bounding_box()
    boxes = [page.locator(f'canvas[data-method=""].{side}').bounding_box() for side in ("query", "reference")]
    return [
        ((y + outer["y"] - box["y"]) / box["height"], (x + outer["x"] - box["x"]) / box["width"])
        for box, (x, y) in zip(boxes, (ends[:2], ends[2:]), strict=True)
    ]


def test_lines_join_the_regions_that_match(opened: Opened) -> None:
    page = opened.open()
    assert page.locator(".joins").count() == 0
    page.select_option("#lines", "points")
    cells = [
        int(down * rows) * cols + int(across * cols)
        for (down, across), (rows, cols) in zip(ends_of_line(page), (GRID, OTHER), strict=True)
    ]
    assert points_of_run()[0].reshape(12, 20)[tuple(cells)] != 0
    page.select_option("#lines", "grad_cam")
    assert np.ravel(ends_of_line(page)) == pytest.approx(MATCH[:4], abs=0.02)
    page.select_option("#lines", "")
    assert page.locator(".joins").count() == 0


def test_enter_sorts_too_and_the_order_is_in_the_address(opened: Opened) -> None:
    page = opened.open()
    head = table_with(page, "deletion AUC (mean colour)").locator("thead th").first
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    address, order = settled(page), names(table_with(page, "deletion AUC (mean colour)"))
    assert order == sorted(order)
    again = opened.open(address)
    assert names(table_with(again, "deletion AUC (mean colour)")) == order


def test_rows_blind_methods_and_columns_are_filtered(opened: Opened) -> None:
    page = opened.open()
    table = table_with(page, "deletion AUC (mean colour)")
    assert names(table) == [*METHODS]
    page.check("#blind")
    assert names(table) == ["sfam", "grad_cam"]
    page.fill("#rows", "GRAD, lafam")
    assert names(table) == ["grad_cam"]
    page.uncheck("#blind")
    assert names(table) == ["grad_cam", "lafam"]
    page.fill("#rows", "nothing like it")
    assert names(table) == []
    assert table.locator(".none").is_visible()
    page.fill("#rows", "")
    page.click("summary")
    page.uncheck('#metrics input[value="deletion AUC (mean colour)"]')
    assert (
        not page.locator("thead th:visible", has_text="deletion AUC (mean colour)")
        .filter(has_not_text="insertion")
        .count()
    )
    assert page.locator("#values th", has_text="insertion - deletion AUC (mean colour)").count() == 1
    assert page.locator("#values th").filter(has_text="deletion AUC (mean colour)").count() == 1


def test_failures_come_first_then_flags_and_both_are_in_words(opened: Opened) -> None:
    page = opened.open()
    assert labels(page, "#pair [role=group]") == ["Failures (1)", "Flagged (1)", "Others, worst first (5)"]
    assert f"q/{FAILED}" in page.inner_text("#pair-title")
    assert "selectivity (energy) of sfam is -0.200: no better than chance" in page.inner_text("#flags")
    page.keyboard.press("j")
    until(page, f"document.querySelector('#pair-title').textContent.includes('q/{FLAT} ')")
    until(page, "document.querySelector('#flags').textContent.includes('constant map (grad_cam)')")
    assert page.locator("#values td.why").first.inner_text() == "constant map"
    assert "no map, or a constant map" in page.locator('canvas[data-method="grad_cam"].query').get_attribute(
        "aria-label"
    )


def test_pairs_are_chosen_by_kind_and_class(opened: Opened) -> None:
    page = opened.open()
    page.select_option("#kind", "nearest positive")
    assert page.locator("#pair [role=option]").count() == 3
    page.fill("#class", "bird 1")
    assert page.locator("#pair [role=option]").count() == 1
    page.fill("#class", "no such bird")
    assert page.inner_text("#pair-title") == "No pair matches"
    assert not page.locator("#stage").is_visible()


@pytest.mark.parametrize(("side", "grid"), [("query", GRID), ("reference", OTHER)])
def test_the_overlay_is_that_of_the_figures(opened: Opened, side: str, grid: tuple[int, int]) -> None:
    page = opened.open()
    picture = np.array(pixels(page, "", side), np.uint8).reshape(48, 60, 4)[..., :3]
    drawn = np.array(pixels(page, "sfam", side)).reshape(48, 60, 4)[..., :3]
    expected = overlay(np.ascontiguousarray(picture), raw_map(grid, 0))
    assert np.abs(drawn - expected.astype(int)).max() <= 6  # maps come in 255 steps


def test_sliders_change_the_overlay(opened: Opened) -> None:
    page = opened.open()
    before, plain = pixels(page, "sfam", "query"), pixels(page, "", "query")
    page.locator("#threshold").fill("100")
    page.wait_for_timeout(100)
    most = pixels(page, "sfam", "query")
    page.locator("#threshold").fill("0")
    page.locator("#opacity").fill("0")
    page.wait_for_timeout(100)
    none = pixels(page, "sfam", "query")
    grey = all(abs(none[at] - none[at + 1]) <= 1 and abs(none[at] - none[at + 2]) <= 1 for at in range(0, len(none), 4))
    assert grey
    assert before != none
    changed = [sum(one != other for one, other in zip(drawn, none, strict=True)) for drawn in (before, most)]
    assert changed[0] > changed[1]  # the threshold leaves the strongest alone
    assert pixels(page, "", "query") == plain


def test_methods_are_chosen_several_at_once(opened: Opened) -> None:
    page = opened.open()
    page.uncheck('#methods input[value="lafam"]')
    assert page.locator("#panels figcaption").all_inner_texts() == ["The pair", "sfam", "grad_cam"]
    assert page.locator("#curves polyline").count() == 2 * 2
    page.uncheck('#methods input[value="sfam"]')
    page.uncheck('#methods input[value="grad_cam"]')
    assert page.locator("#panels canvas").count() == 2
    again = opened.open(settled(page))
    assert again.locator("#panels canvas").count() == 2


def brightest(page: Any, side: str) -> tuple[float, float]:
    """Where the overlay is strongest, as shares of height and width."""
    return tuple(
        page.locator(f'canvas[data-method=""].{side}').evaluate(
            "canvas => { const {width, height} = canvas;"
            "const d = canvas.getContext('2d').getImageData(0, 0, width, height).data;"
            "let [rows, cols, sum] = [0, 0, 0]; for (let i = 0; i < width * height; i++) {"
            "const w = Math.max(d[4*i], d[4*i+1], d[4*i+2]) - Math.min(d[4*i], d[4*i+1], d[4*i+2]) > 40 ? 1 : 0;"
            "rows += w * Math.floor(i / width); cols += w * (i % width); sum += w; }"
            "return [rows / sum / height, cols / sum / width]; }"
        )
    )


@pytest.mark.parametrize(
    ("side", "cell", "other", "expected"),
    [("query", (1, 1), "reference", (1, 1)), ("reference", (1, 1), "query", (1, 1))],
)
def test_a_click_shows_which_points_of_the_other_image_go_with_it(
    opened: Opened, side: str, cell: tuple[int, int], other: str, expected: tuple[int, int]
) -> None:
    # query position 5, (1, 1) of 3 x 4, goes with reference position 6, (1, 1) of 4 x 5, and with no other
    page = opened.open()
    grids = {"query": (3, 4), "reference": (4, 5)}
    canvas = page.locator(f'canvas[data-method=""].{side}')
    box, (rows, cols) = canvas.bounding_box(), grids[side]
    at = {"x": (cell[1] + 0.5) / cols * box["width"], "y": (cell[0] + 0.5) / rows * box["height"]}
    canvas.click(position=at)
    assert "contributes 0.0625 of 0.75" in page.inner_text("#point")
    row, col = brightest(page, other)
    rows, cols = grids[other]
    assert (int(row * rows), int(col * cols)) == expected
    page.keyboard.press("Escape")
    assert "Click a point" in page.inner_text("#point")


def test_arrows_move_the_point_on_a_picture_and_the_pair_elsewhere(opened: Opened) -> None:
    page = opened.open()
    title = page.inner_text("#pair-title")
    page.locator('canvas[data-method=""].query').focus()
    page.keyboard.press("ArrowRight")
    assert "Row 2, column 3 of the query" in page.inner_text("#point")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    assert "Row 1, column 3 of the query" in page.inner_text("#point")  # not past the border
    assert page.inner_text("#pair-title") == title
    page.locator("#next").focus()
    page.keyboard.press("ArrowRight")
    until(page, "title => document.querySelector('#pair-title').textContent !== title", title)
    page.keyboard.press("k")
    until(page, "title => document.querySelector('#pair-title').textContent === title", title)
    page.keyboard.press("k")  # there is none before the first
    assert page.inner_text("#pair-title") == title
    page.locator("#class").press("j")
    assert page.input_value("#class") == "j"


def test_the_skip_link_is_first_and_leads_to_the_content(opened: Opened) -> None:
    page = opened.open()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_curves_say_their_values_under_the_pointer(opened: Opened) -> None:
    page = opened.open()
    page.locator("#curves svg").first.scroll_into_view_if_needed()
    box = page.locator("#curves svg").first.bounding_box()
    page.mouse.move(box["x"] + (44 + 288 / 4) / 340 * box["width"], box["y"] + box["height"] / 2)  # at 25 %
    assert page.locator(".tip:visible").inner_text().split("\n") == [
        "at 25 %",
        "0.600  sfam",
        "0.500  grad_cam",
        "0.400  lafam",
    ]


def test_dark_follows_the_system_until_it_is_chosen(opened: Opened) -> None:
    page = opened.open()
    back = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(back)
    page.emulate_media(color_scheme="dark")
    until(page, f"{back} !== {light!r}")
    page.select_option("#theme", "light")
    assert page.evaluate(back) == light
    page.select_option("#theme", "dark")
    dark = page.evaluate(back)
    page.emulate_media(color_scheme="light")
    assert page.evaluate(back) == dark != light
    assert opened.open(settled(page)).evaluate(back) == dark


def test_the_address_holds_everything(opened: Opened) -> None:
    page = opened.open()
    page.select_option("#run", "made-second-similarity")
    page.select_option("#kind", "partial match")
    page.locator("#pair [role=option]").nth(2).click()
    page.check('#methods input[value="grad_cam"]')
    page.uncheck('#methods input[value="sfam"]')
    page.locator("#opacity").fill("35")
    page.locator("#threshold").fill("20")
    page.fill("#rows", "grad")
    page.check("#blind")
    page.locator('canvas[data-method=""].reference').click()
    address = settled(page)
    shown = (
        "document.querySelector('#pair-title').textContent + document.querySelector('#point').textContent"
        "+ ['run', 'kind', 'opacity', 'threshold', 'rows', 'blind'].map(id => [$(id).value, $(id).checked])"
        "+ [...document.querySelectorAll('#methods input')].map(one => one.checked)"
    )
    shown = shown.replace("$(", "document.getElementById(")
    told, drawn = page.evaluate(shown), pixels(page, "grad_cam", "query")
    again = opened.open(address)
    assert again.evaluate(shown) == told
    assert "Row" in again.inner_text("#point")
    assert pixels(again, "grad_cam", "query") == drawn


@pytest.mark.parametrize(
    "address", ["#run=none&query=x&point=9.9.9&opacity=abc&sort=99.1.up", "#made-first-similarity", "#="]
)
def test_an_address_that_makes_no_sense_is_no_accident(opened: Opened, address: str) -> None:
    page = opened.open(address)
    assert f"q/{FAILED}" in page.inner_text("#pair-title")
    assert page.input_value("#opacity") == "80"


def test_it_prints_with_tables_and_without_controls(opened: Opened, tmp_path: Path) -> None:
    page = opened.open()
    pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF")
    assert pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") + pdf.count(b"/Type/Page/") > 1
    page.emulate_media(media="print")
    assert not page.locator(".controls:visible, nav:visible").count()
    assert page.locator("figure.table:visible").count() == page.locator("figure.table").count() > 3
    assert page.locator("#panels canvas:visible").count()


@pytest.mark.parametrize("width", [1400, 400])
def test_a_window_does_not_scroll_sideways(opened: Opened, width: int) -> None:
    opened.page.set_viewport_size({"width": width, "height": 800})
    page = opened.open()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_touch_devices_get_words_for_touch(chromium: Any, index: Path) -> None:
    context = chromium.new_context(viewport={"width": 400, "height": 800}, has_touch=True, is_mobile=True)
    page = Opened(context.new_page(), index).open()
    assert "Tap a point" in page.inner_text("#point")
    assert page.locator("#next").inner_text() == "next →"
    assert not page.locator(".mouse:visible").count()
    assert page.locator(".touch:visible").count()
    context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(opened: Opened, theme: str) -> None:
    if not AXE.is_file():
        pytest.skip("axe-core is missing: npm ci --prefix tests/browser")
    page = opened.open(f"#theme={theme}&left=x/sfam&right=x/lafam&lines=points")
    page.click("summary")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    assert [(one["id"], [node["html"][:120] for node in one["nodes"][:3]]) for one in found] == []
