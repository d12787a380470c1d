# SPDX-License-Identifier: Apache-2.0
"""The tab Edit in a browser: edits follow the controls, and bad inputs are explained."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import browsers
import numpy as np
import pytest
from editors import catalog_of
from jobs import run
from parts_page import gate

from stylefast.app.controls import REFERENCE, TARGET
from stylefast.editing import Grid, SeedLatents, Sequential, StoredLatents

if browsers.missing() is None:
    from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from stylefast.app.workspace import Workspace

EDITED = "#edit-images .edit .whole .over"


@pytest.fixture
def tab(page: Page) -> Page:
    """The tab Edit with its first edit."""
    browsers.open_tab(page, "Edit")
    page.locator("#edit-figures dd").first.wait_for()
    return page


def address_of(tab: Page, selector: str = EDITED) -> str:
    return tab.locator(selector).get_attribute("src") or ""


def digest_of(address: str) -> str:
    """Digest of the bytes of an image, which is in its address."""
    return address.split("/")[-2]


def wait_for_another(tab: Page, address: str, selector: str = EDITED) -> str:
    """Wait until an image has another address, and return it."""
    tab.wait_for_function(
        "([selector, address]) => document.querySelector(selector)?.getAttribute('src') != address",
        arg=[selector, address],
    )
    return address_of(tab, selector)


def figures(tab: Page) -> dict[str, str]:
    names, values = (tab.locator(f"#edit-figures {tag}").all_inner_texts() for tag in ("dt", "dd"))
    return dict(zip(names, values, strict=True))


def saved(tab: Page, folder: Path) -> Path:
    """Save the edit with the button, and return its file."""
    with tab.expect_download() as download:
        tab.click("#edit-save")
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


@pytest.fixture
def other_file(catalog_file: Path) -> Iterator[Path]:
    """The file of the catalog, with other parts than those with which the server started."""
    replace(catalog_of("sg2"), parts={"mouth": [2], "ears": [3]}).save(catalog_file)
    yield catalog_file
    catalog_of("sg2").save(catalog_file)


@pytest.fixture
def slow_server(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the handlers of the tab Edit take longer than those of the tab Parts, as on a busy machine."""
    from stylefast.app import edit_tab

    fast = edit_tab.part_names
    monkeypatch.setattr(edit_tab, "part_names", lambda catalog: time.sleep(0.5) or fast(catalog))


def change_parts(page: Page, *buttons: str, name: str = "") -> None:
    """Choose the part eyes in the tab Parts, enter a name if there is one, and press buttons."""
    browsers.open_tab(page, "Parts")
    page.locator("#parts-choice input").click()
    page.get_by_role("option", name="eyes").click()
    page.locator("#parts-message", has_text="to change eyes").wait_for()
    if name:
        page.locator("#parts-name").locator("input, textarea").fill(name)
    for button in buttons:
        page.click(f"#parts-{button}")


def test_an_edit_appears_with_its_figures_and_is_saved(tab: Page, workspace: Workspace, tmp_path: Path):
    assert re.fullmatch(r"\d+\.\d\d s( \(cached\))?", figures(tab)["time of the edit"])
    assert int(figures(tab)["channels moved"].split()[0]) > 0
    assert float(figures(tab)["ΔE inside"]) > 0
    assert tab.locator("#edit-figures dt[title]").count() == len(figures(tab))
    images = "[...document.querySelectorAll('#edit-stage img')]"
    tab.wait_for_function(f"{images}.length == 2 * 5 && {images}.every(image => image.naturalWidth)")
    path = saved(tab, tmp_path)
    sources = (
        SeedLatents(workspace.generator, [seed], truncation=workspace.truncation) for seed in (TARGET, REFERENCE)
    )
    run(tmp_path / "job", Grid(*sources, "eyes", Sequential()), batch_size=1)
    assert path.read_bytes() == (tmp_path / "job" / path.name).read_bytes()


def test_the_image_follows_epsilon(tab: Page):
    first, channels = address_of(tab), figures(tab)["channels moved"]
    hint = tab.locator("#edit-hint p")
    assert hint.inner_text().startswith("adaptive uses ε = 16 and ρ = 0.55 × the largest contribution")
    slider = tab.locator("#edit-log-epsilon input[type=range]")
    slider.focus()
    tab.keyboard.press("End")
    second = wait_for_another(tab, first)
    assert tab.input_value("#edit-epsilon input") == "100"
    assert tab.input_value("#edit-strategy input") == "sequential"  # no longer adaptive
    tab.locator("#edit-hint p", has_text="sequential takes").wait_for()
    tab.wait_for_function("text => document.querySelector('#edit-figures dd')?.innerText != text", arg=channels)
    tab.fill("#edit-epsilon input", "1")
    third = wait_for_another(tab, second)
    assert float(slider.input_value()) == 0
    tab.fill("#edit-epsilon input", "100")
    wait_for_another(tab, third)
    assert address_of(tab) == second
    assert "(cached)" in tab.locator("#edit-images .edit figcaption").inner_text()


def test_bad_seeds_are_explained_in_the_page(tab: Page):
    first = address_of(tab)
    error = tab.locator("#edit-message .error")
    for seed in ("-5", "4294967296", "1.5"):
        tab.fill("#edit-target-seed input", seed)
        error.get_by_text(f"seed of target must be an integer in [0, 2**32), got {seed}.", exact=True).wait_for()
    assert address_of(tab) == first
    tab.fill("#edit-target-seed input", "3")
    wait_for_another(tab, first)
    error.wait_for(state="detached")


def test_a_part_without_channels_is_explained_in_the_page(tab: Page):
    first = address_of(tab)
    tab.fill("#edit-rho input[type=number]", "1")
    tab.keyboard.press("Enter")
    note = tab.locator("#edit-message .note")
    note.wait_for()
    text = "No channel of 'eyes' has a contribution above rho = 1 within epsilon = 1; lower rho or raise epsilon."
    assert note.inner_text() == text
    assert digest_of(wait_for_another(tab, first)) == digest_of(address_of(tab, "#edit-images .target .whole img"))


def test_neighbours_and_random_seeds_are_other_targets(tab: Page, monkeypatch: pytest.MonkeyPatch):
    from stylefast.app import picture_inputs

    monkeypatch.setattr(picture_inputs, "random", SimpleNamespace(randrange=lambda end: end - 1))
    first = address_of(tab, "#edit-images .target .whole img")
    tab.locator("#edit-target-seed-slider input[type=range]").focus()
    tab.keyboard.press("ArrowRight")
    second = wait_for_another(tab, first, "#edit-images .target .whole img")
    assert tab.input_value("#edit-target-seed input") == "2"
    tab.click("#edit-target-seed-random")
    wait_for_another(tab, second, "#edit-images .target .whole img")
    seed = int(tab.input_value("#edit-target-seed input"))
    assert seed == picture_inputs.RANDOM_SEEDS - 1
    assert tab.locator("#edit-images .target figcaption span").inner_text() == f"seed{seed:04}"
    slider = tab.locator("#edit-target-seed-slider input[type=range]")
    tab.wait_for_function(f"document.querySelector('#edit-target-seed-slider input[type=range]')?.value == {seed}")
    assert float(slider.get_attribute("min") or 0) <= seed <= float(slider.get_attribute("max") or 0)


def test_a_slider_keeps_a_move_during_a_slow_answer(tab: Page, monkeypatch: pytest.MonkeyPatch):
    from stylefast.app import picture_inputs

    slider = tab.locator("#edit-target-seed-slider input[type=range]")
    numbers, neighbours = [], picture_inputs.neighbours
    monkeypatch.setattr(picture_inputs, "neighbours", lambda *values: numbers.append(values[0]) or neighbours(*values))
    with gate(monkeypatch, picture_inputs, "neighbours") as step:
        tab.fill("#edit-target-seed input", "1500")
        step.wait()
        slider.focus()
        tab.keyboard.press("ArrowRight")
    for _ in range(browsers.TIMEOUT // 50):
        if numbers[-1:] == [2]:  # the page has shown the answer to 1500
            break
        tab.wait_for_timeout(50)
    assert numbers[-1:] == [2]
    expect(slider).to_have_attribute("min", "0")
    expect(slider).to_have_value("2")
    assert tab.input_value("#edit-target-seed input") == "2"


def test_several_parts_are_edited_at_once_and_magnified(tab: Page):
    first = address_of(tab)
    tab.click("#edit-add")
    second = wait_for_another(tab, first)
    assert tab.input_value("#edit-part-1 input") == "nose"
    tab.wait_for_function("document.querySelector('#edit-figures dd')?.innerText.includes('nose')")
    reference = address_of(tab, "#edit-images .reference .whole img")
    tab.locator("#edit-look label", has_text="nose").click()
    wait_for_another(tab, reference, "#edit-images .reference .whole img")
    assert tab.locator("#edit-images .reference figcaption span").inner_text() == f"seed{REFERENCE + 1:04}"
    tab.click("#edit-remove-0")
    third = wait_for_another(tab, second)
    assert third != first and not tab.locator("#edit-row-0").is_visible()
    assert tab.locator("#edit-row-1").is_visible() and not tab.locator("#edit-remove-1").is_visible()


def test_the_target_is_shown_while_the_edit_is_pressed(tab: Page):
    def is_edit_visible() -> bool:
        return tab.locator(EDITED).is_visible()

    for selector in ("#edit-images .edit .whole", "#edit-images .edit .zoom", "#edit-hold"):
        tab.hover(selector)
        assert is_edit_visible()
        tab.mouse.down()
        assert not is_edit_visible()
        assert tab.locator("#edit-images .edit figcaption").inner_text() == "target"
        tab.mouse.up()
        assert is_edit_visible()


def test_files_of_latents_are_targets_or_are_refused(
    tab: Page, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first = address_of(tab, "#edit-images .target .whole img")
    for name, seeds in {"people": [5, 6], "others": [7, 8]}.items():
        np.save(tmp_path / f"{name}.npy", workspace.generator.latents(seeds).numpy())
    (tmp_path / "bad.npy").write_bytes(b"no latents")
    upload = tab.locator("#edit-target-file").locator("xpath=..").locator("input[type=file]").first
    upload.set_input_files(tmp_path / "bad.npy")
    error = tab.locator("#edit-target-file-message .error")
    error.wait_for()
    assert error.inner_text().startswith("bad.npy cannot be used: it is a text file, not latents")
    upload.set_input_files(tmp_path / "people.npy")
    # The latents and the number of the row arrive one after the other, so that another image may be shown before.
    tab.locator("#edit-images .target figcaption span", has_text="people-0000").wait_for()
    assert address_of(tab, "#edit-images .target .whole img") != first and not error.is_visible()
    with gate(monkeypatch, StoredLatents, "load") as step:
        upload.set_input_files(tmp_path / "others.npy")
        step.wait()
        tab.click("#edit-target-file-seeds")
        tab.wait_for_timeout(1000)
        assert tab.locator("#edit-target-file-seeds").is_visible()  # the click waits for the file
    tab.locator(f"#edit-images .target .whole img[src='{first}']").wait_for()
    assert not tab.locator("#edit-target-file-seeds").is_visible()


@pytest.mark.usefixtures("slow_server")
def test_the_first_edit_and_batch_have_a_part_of_the_file(other_file: Path, open_page: Callable[[], Page]):
    page = open_page()
    browsers.open_tab(page, "Edit")
    page.wait_for_function("document.querySelector('#edit-part-0 input')?.value == 'mouth'")
    page.locator("#edit-save[href*='_mouth_']").wait_for()
    assert page.locator("#edit-message .error").count() == 0
    page.locator("#edit-part-0 input").click()
    assert [option.inner_text().split()[-1] for option in page.get_by_role("option").all()] == ["mouth", "ears"]
    page.keyboard.press("Escape")
    browsers.open_tab(page, "Batch")
    page.wait_for_function("document.querySelector('#batch-command textarea')?.value.includes('--parts mouth')")
    assert page.get_by_test_id("toast-body").count() == 0


def test_inputs_of_parts_are_sent_by_their_own_events(workspace: Workspace):
    pytest.importorskip("gradio")
    from stylefast.app.edit_tab import MAX_PARTS
    from stylefast.app.page import create_page

    page = create_page(workspace)  # Gradio refuses another event that sends a part that is gone
    names = ("parts-choice", "edit-look", "batch-parts", *(f"edit-part-{number}" for number in range(MAX_PARTS)))
    inputs = [key for key, block in page.blocks.items() if block.elem_id in names]
    functions = [(block._id, f) for f in page.fns.values() for block in f.inputs if block._id in inputs]
    events = {(key, *(source for source, _ in f.targets)) for key, f in functions}
    assert events == {(key, key) for key in inputs} and len(inputs) == len(names)


@pytest.mark.parametrize("buttons, name, part", [(["set"], "gaze", "gaze"), (["remove"], "", "nose")])
def test_an_edited_part_can_be_renamed_or_removed(tab: Page, buttons: list[str], name: str, part: str):
    change_parts(tab, *buttons, name=name)
    browsers.open_tab(tab, "Edit")
    tab.wait_for_function(f"document.querySelector('#edit-part-0 input')?.value == '{part}'")
    tab.locator(f"#edit-save[href*='_{part}_']").wait_for()
    assert tab.locator("#edit-message .error").count() == 0
