"""The demo "Choose a threshold" in headless Chromium, against ebmlib.metrics."""

import numpy as np
import pytest

from ebmlib import metrics


def saved(reader) -> dict:
    """The saved run that the page shows."""
    return reader.page.evaluate("THRESHOLD_RUN")


def table(reader) -> np.ndarray:
    """Defective and normal x flagged and passed, as printed."""
    cells = reader.demo.locator(".ebm-table tbody td").all_inner_texts()
    return np.array(cells, dtype=int).reshape(2, 2)


def expected(run: dict, threshold: float) -> np.ndarray:
    flagged, bad = np.array(run["scores"]) >= threshold, np.array(run["kind"]) > 0
    return np.array(
        [[(flag & kind).sum() for flag in (flagged, ~flagged)] for kind in (bad, ~bad)]
    )


def test_the_threshold_is_dragged_and_the_table_counts(visit_demo):
    reader = visit_demo("threshold")
    run, mouse, seen = saved(reader), reader.page.mouse, set()
    x, y = reader.center(reader.canvas)
    mouse.move(x, y)
    mouse.down()
    for shift in (-100, -40, 20, 80):
        mouse.move(x + shift, y)
        reader.settle()
        t = reader.get("ebm.state.threshold")
        seen.add(t)
        assert (table(reader) == expected(run, t)).all()
    mouse.up()
    assert len(seen) == 4
    before, now = reader.get("[ebm.state.before, ebm.state.threshold]")
    scores = np.array(run["scores"])
    moved = ((scores >= before) != (scores >= now)).sum()
    assert reader.get("ebm.changed().length") == moved


def test_the_threshold_follows_the_keyboard(visit_demo):
    reader = visit_demo("threshold")
    slider = reader.demo.locator("input[type=range]:visible").first
    reader.key(slider, "PageUp")
    reader.key(slider, "ArrowRight")
    t = reader.get("ebm.state.threshold")
    assert (table(reader) == expected(saved(reader), t)).all()
    reader.key(slider, "Home")
    assert table(reader)[:, 1].sum() == 0  # everything is flagged
    reader.key(slider, "End")
    assert table(reader)[:, 0].sum() == 0


def test_presets_and_the_shift(visit_demo):
    reader = visit_demo("threshold")
    run = saved(reader)
    labels = np.array(run["kind"]) > 0
    fpr, tpr, t = metrics.roc_curve(np.array(run["scores"]), labels)
    reader.press("Best on the test")
    best = t[(tpr - fpr).argmax()]
    assert reader.get("ebm.state.threshold") == pytest.approx(best)
    reader.press("held-out")
    normal = expected(run, reader.get("ebm.state.threshold"))[1]
    rate = normal[0] / normal.sum()
    assert int(reader.figure("alarms")) == pytest.approx(2000 * 0.98 * rate, abs=1)
    assert np.allclose(reader.get("[ebm.roc.fpr, ebm.roc.recall]"), [fpr, tpr])


def test_the_map_threshold_has_its_pro(visit_demo):
    reader = visit_demo("threshold")
    run = saved(reader)
    reader.choose("maps")
    assert not reader.demo.locator(".ebm-table").is_visible()
    area = float(reader.figure("area"))
    assert area == pytest.approx(run["maps"]["au_pro"], abs=6e-4)
    slider = reader.demo.locator("input[type=range]:visible").first
    reader.key(slider, "Home")
    assert reader.figure("pro") == "100.0 %"
    reader.key(slider, "End")
    assert float(reader.figure("pro").split()[0]) < 50
    reader.canvas.scroll_into_view_if_needed()
    reader.page.mouse.click(*reader.center(reader.canvas))
    reader.settle()
    bins = len(run["maps"]["edges"])
    assert 0.3 * bins < reader.get("ebm.state.bin") < 0.7 * bins
