"""The demo "Sculpt an energy" in headless Chromium."""

import numpy as np
import pytest


def place(reader, x: float, y: float) -> tuple[float, float]:
    """A point of the plane in pixels of the window."""
    box = reader.canvas.bounding_box()
    side = box["width"]
    return box["x"] + (x + 3.5) / 7 * side, box["y"] + (3.5 - y) / 7 * side


def test_a_reader_who_wants_stillness_gets_it_until_play_is_pressed(visit_demo):
    reader = visit_demo("sculpt")
    before = reader.looks()
    reader.page.wait_for_timeout(300)
    assert reader.looks() == before
    reader.button("Play").click()
    reader.wait("ebm.scene.cloud.steps > 0")
    reader.press("Pause")
    steps = reader.get("ebm.scene.cloud.steps")
    reader.page.wait_for_timeout(200)
    assert reader.get("ebm.scene.cloud.steps") == steps


def test_particles_move_by_themselves_otherwise(visit_demo):
    reader = visit_demo("sculpt", reduced_motion="no-preference")
    reader.wait("ebm.scene.cloud.steps > 0")
    first = reader.get("ebm.scene.cloud.steps")
    reader.wait(f"ebm.scene.cloud.steps > {first}")


def test_a_well_is_dragged_by_mouse_and_z_follows(visit_demo):
    reader = visit_demo("sculpt")
    z = reader.get("ebm.scene.exact.logZ")
    reader.drag([place(reader, -1.5, 0.6), place(reader, 1.0, -1.0)], steps=8)
    bump = reader.get("ebm.state.bumps[0]")
    assert bump["x"] == pytest.approx(1.0, abs=0.05)
    assert bump["y"] == pytest.approx(-1.0, abs=0.05)
    assert reader.get("ebm.scene.exact.logZ") != pytest.approx(z, abs=0.05)
    reader.drag([place(reader, -3.0, -3.0), place(reader, 3.0, 3.0)])  # holds nothing
    assert reader.get("ebm.state.bumps[0]") == bump


def test_a_well_is_dragged_by_a_finger(visit_demo):
    reader = visit_demo(
        "sculpt", viewport={"width": 390, "height": 844}, has_touch=True
    )
    session = reader.page.context.new_cdp_session(reader.page)

    def touch(kind, *at):
        points = [{"x": at[0], "y": at[1]}] if at else []
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", *place(reader, -1.5, 0.6))
    for k in range(1, 6):
        touch("touchMove", *place(reader, -1.5, 0.6 - 0.3 * k))
    touch("touchEnd")
    reader.settle()
    assert reader.get("ebm.state.bumps[0].y") == pytest.approx(-0.9, abs=0.08)


def test_wells_and_hills_by_keyboard_and_buttons(visit_demo):
    reader = visit_demo("sculpt")
    keys = reader.page.keyboard
    reader.canvas.focus()
    keys.press("ArrowRight")
    keys.press("Shift+ArrowUp")
    first = reader.get("ebm.state.bumps[0]")
    assert (first["x"], first["y"]) == pytest.approx((-1.4, 1.1))
    keys.press("n")
    assert reader.get("ebm.state.chosen") == 1
    keys.press("w")
    keys.press("h")
    heights = reader.get("ebm.state.bumps.map((b) => b.height)")
    assert heights[3] < 0 < heights[4]
    for _ in range(5):
        keys.press("Delete")
    assert reader.get("ebm.state.bumps.length") == 0
    assert reader.button("Remove").is_disabled()
    for words, count in (("Add well", 1), ("Add hill", 2), ("Remove", 1)):
        reader.button(words).focus()
        keys.press("Enter")
        assert reader.get("ebm.state.bumps.length") == count


def test_step_reset_and_seed_repeat(visit_demo):
    reader = visit_demo("sculpt")
    position = "Array.from(ebm.scene.cloud.x)"
    start = reader.get(position)
    reader.press("One step")
    once = reader.get(position)
    assert once != start and reader.get("ebm.scene.cloud.steps") == 1
    reader.press("Reset")
    assert reader.get(position) == start
    reader.press("One step")
    assert reader.get(position) == once
    reader.press("New seed")
    assert reader.get(position) != start
    assert "now 2" in reader.button("New seed").inner_text()


def test_the_trials_show_what_they_promise(visit_demo):
    reader = visit_demo("sculpt")
    apart, means = {}, {}
    for words in ("A good chain", "Too large", "Too cold", "Stuck", "Clipped"):
        reader.press(words)
        reader.get("ebm.advance(1500)")
        apart[words] = reader.get("ebm.scene.apart")
        means[words] = np.mean(reader.get("Array.from(ebm.scene.cloud.x)"))
    assert apart["A good chain"] < 0.06
    assert all(apart[w] > 0.25 for w in ("Too large", "Too cold", "Stuck"))
    assert apart["Clipped"] > 0.15
    assert means["Stuck"] < -1


def test_a_good_chain_finds_each_known_density(visit_demo):
    reader = visit_demo("sculpt")
    for energy in ("gaussian", "moons", "ring", "wells"):
        reader.choose(energy)
        reader.get("ebm.advance(800)")
        assert reader.get("ebm.scene.apart") < 0.08, energy
        assert "exact" in reader.figure("z")


def test_noise_and_temperature_follow_one_another(visit_demo):
    reader = visit_demo("sculpt")
    heat = "ebm.state.noise ** 2 / (2 * ebm.state.step)"
    reader.key(reader.slider("Temperature"), "ArrowLeft", 5)
    cooler = reader.get(heat)
    assert cooler < 0.9
    reader.key(reader.slider("Step size"), "ArrowRight", 5)
    assert reader.get(heat) == pytest.approx(cooler)
    reader.key(reader.slider("Noise"), "ArrowRight", 5)
    assert reader.get(heat) > cooler
