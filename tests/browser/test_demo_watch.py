"""The demo "Watch it train" in headless Chromium."""

import pytest


def test_scrubbing_shows_the_figures_of_the_log(visit_demo):
    reader = visit_demo("watch")
    slider = reader.demo.locator("input[type=range]").first
    assert "–" in reader.figure("gap")  # before the first update there is none
    for kind in ("points", "images"):
        reader.choose(kind)
        reader.key(slider, "ArrowRight", 5)
        step = 5 * reader.get("ebm.run().every")
        shown = reader.demo.locator("[data-key=gap] .ebm-value").all_inner_texts()
        for side, text in zip(("healthy", "diverging"), shown, strict=True):
            gap = reader.get(f"ebm.run().{side}.log.gap[{step - 1}]")
            found = float(text.replace("−", "-"))
            assert found == pytest.approx(gap, rel=0.06, abs=0.006)
        assert slider.get_attribute("aria-valuetext").startswith(f"{step} of")


def test_replay_runs_to_the_end_and_starts_again(visit_demo):
    reader = visit_demo("watch", reduced_motion="no-preference")
    last = reader.get("ebm.run().steps / ebm.run().every")
    assert reader.get("ebm.state.place") == 0  # it waits to be started
    reader.get(f"ebm.show({last} - 1)")
    reader.button("Play").click()
    reader.wait("!ebm.loop.running")
    assert reader.get("ebm.state.place") == last
    reader.button("Play").click()
    reader.wait("ebm.state.place > 0.3")
    reader.press("Pause")
    assert 0 < reader.get("ebm.state.place") < last
    place = round(reader.get("ebm.state.place"))
    reader.press("On")
    assert reader.get("ebm.state.place") == place + 1
    reader.press("Back")
    assert reader.get("ebm.state.place") == place
