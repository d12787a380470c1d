# SPDX-License-Identifier: Apache-2.0
"""Engines make the images of "eager" from any styles, are refused where they do not, and are recorded by jobs."""

import copy
import pickle
import threading
from functools import partial
from unittest.mock import Mock

import pytest
import torch
from commands import run as run_command
from editors import catalog_of
from fake_engines import Fake, use_fakes
from forked import printed
from jobs import grid, manifest
from jobs import run as run_job
from miniatures import MINIATURES
from networks import hooks

from stylefast.editing import StyleEditor
from stylefast.generators import load, wrap
from stylefast.generators.engines import ENGINES, EngineUse, engine, openvino
from stylefast.generators.engines.switch import EngineSwitch
from stylefast.generators.image_checks import ROUNDING
from stylefast.generators.toy import toy


@pytest.fixture
def needs_openvino():
    pytest.importorskip("openvino", reason="OpenVINO is an extra")


def edited(generator):
    """Styles of edits and the latents of their targets."""
    w = generator.latents([3, 4, 5])
    styles = generator.styles(w)
    return styles.lerp(styles.flip(0), 0.7), w


@pytest.mark.usefixtures("needs_openvino")
@pytest.mark.parametrize("name", ["toy:sg1", "toy:sg2", "toy:sg3", "nvlabs2", "hammer3", "rosinality"])
def test_openvino_makes_the_images_of_eager(name):
    generator = load(name) if name.startswith("toy") else wrap(MINIATURES[name].build(), check=False)
    styles, w = edited(generator)
    expected, plain = generator.synthesize(styles, w), generator.styles(w)
    n_hooks = hooks(generator)
    generator.use_engine("openvino")
    assert generator.engine.name == "openvino" and 0 < generator.engine.difference < ROUNDING
    images = generator.synthesize(styles, w)
    torch.testing.assert_close(images, expected, atol=ROUNDING, rtol=0)
    assert images.dtype == torch.float32 and images.is_contiguous()
    # An image does not depend on its batch, one w serves all rows, and other methods run the network itself.
    assert torch.equal(generator.synthesize(styles[1:2], w[1:2]), images[1:2])
    assert torch.equal(generator.synthesize(styles[[1, 0]], w[1:2])[0], images[1])
    assert generator.synthesize(styles[:0], w[:0]).shape == (0, 3, *generator.image_size)
    assert torch.equal(generator.styles(w), plain) and hooks(generator) == n_hooks
    generator.use_engine("eager")
    assert generator.engine == EngineUse() and torch.equal(generator.synthesize(styles, w), expected)


def test_compile_makes_the_images_of_eager(monkeypatch):
    monkeypatch.setitem(
        ENGINES, "compile", engine.EngineKind(partial(engine.make_compiled, backend="eager"), lambda target: None, bool)
    )
    torch._dynamo.reset()
    generator = toy("sg3")
    styles, w = edited(generator)
    expected = generator.synthesize(styles, w)
    generator.use_engine("compile")
    assert generator.engine.name == "compile" and generator.engine.difference < ROUNDING
    assert len(generator._engine._styles) == 1
    torch.testing.assert_close(generator.synthesize(styles, w), expected, atol=ROUNDING, rtol=0)
    generator.use_engine("eager")
    assert hooks(generator) == 0 and torch.equal(generator.synthesize(styles, w), expected)
    generator.use_engine("compile", batch_size=2)
    assert len(generator._engine._styles) == 2
    torch.testing.assert_close(generator.synthesize(styles, w), expected, atol=ROUNDING, rtol=0)
    generator.compile(2, backend="eager")
    assert generator.engine == EngineUse("compile", None, None)
    for size in (0, 2.5, True, "4"):
        with pytest.raises(ValueError, match=f"batch_size must be an integer >= 1, got {size!r}"):
            generator.use_engine("compile", batch_size=size)
    torch._dynamo.reset()


@pytest.mark.usefixtures("needs_openvino")
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_a_copy_builds_its_own_graph(copied):
    original = load("toy:sg3", engine="openvino")
    styles, w = edited(original)
    images = original.synthesize(styles, w)
    other = copied(original)
    assert other.engine == original.engine and torch.equal(other.synthesize(styles, w), images)
    with torch.no_grad():
        for x in other.network.parameters():
            x.mul_(1.25)
    third = copied(other)
    assert not torch.equal(third.synthesize(styles, w), images)
    assert torch.equal(original.synthesize(styles, w), images)


@pytest.mark.usefixtures("needs_openvino")
def test_the_graph_follows_the_number_of_threads(monkeypatch):
    generator = load("toy:sg2", engine="openvino")
    styles, w = edited(generator)
    built = []
    build = openvino.OpenVINOSynthesis._build
    monkeypatch.setattr(openvino.OpenVINOSynthesis, "_build", lambda *args: built.append(args[2]) or build(*args))
    before = torch.get_num_threads()
    try:
        for n in (before, before + 1, before + 1):
            torch.set_num_threads(n)
            generator.synthesize(styles, w)
    finally:
        torch.set_num_threads(before)
    assert built == [before + 1]


def test_networks_that_openvino_cannot_run_are_refused(monkeypatch):
    cpu, half = torch.device("cpu"), torch.float16
    monkeypatch.setattr(openvino, "find_spec", lambda name: name)
    assert openvino.refusal(cpu, torch.float32) is None
    assert openvino.refusal(torch.device("cuda", 1), torch.float32).endswith("and the network is on cuda:1")
    assert openvino.refusal(cpu, half) == "it computes in float32, and the network is in float16"
    monkeypatch.setattr(openvino, "find_spec", lambda name: None)
    message = "able to run toy:sg2, got openvino: OpenVINO is not installed; `pip install openvino` installs it"
    with pytest.raises(ValueError, match=message):
        load("toy:sg2", engine="openvino")
    assert load("toy:sg2", engine="auto").engine.name == "eager"
    network = toy("sg2").network
    network.float16_resolutions = 1
    target = engine.Target(network, [], (), torch.float32, cpu)
    assert ENGINES["openvino"].refusal(target) == "it computes in float32, and the network has layers in float16"
    with pytest.raises(ValueError, match="engine must be .*, got 'fast'"):
        load("toy:sg2", engine="fast")


@pytest.mark.parametrize(
    "error, message",
    [(0.005, r"differences of up to 0\.0025 of"), (float("nan"), "up to nan of"), (None, "no kernel for this network")],
)
def test_an_engine_that_makes_other_images_is_refused(monkeypatch, error, message):
    made = use_fakes(monkeypatch, wrong=error)
    generator = toy("sg2")
    styles, w = edited(generator)
    expected = generator.synthesize(styles, w)
    with pytest.raises(
        ValueError, match=f"engine must .* of toy:sg2, .*{message}|to run toy:sg2, got wrong: {message}"
    ):
        generator.use_engine("wrong")
    assert made["wrong"].removed and generator.engine == EngineUse()
    assert torch.equal(generator.synthesize(styles, w), expected)


@pytest.mark.parametrize(
    "seconds, chosen, speedup", [((3.0, 1.5, 1.0), "second", 3.0), ((3.0, 2.0, 2.9), "first", 1.5)]
)
def test_auto_takes_the_fastest_engine(monkeypatch, seconds, chosen, speedup):
    made = use_fakes(monkeypatch, first=0.001, wrong=1.0, second=0.0)
    timed = []
    monkeypatch.setattr(EngineSwitch, "_time", lambda self, engines, size: timed.extend(engines) or list(seconds))
    generator = toy("sg2")
    generator.use_engine("auto")
    assert timed == [None, made["first"], made["second"]]
    assert (generator.engine.name, generator.engine.speedup) == (chosen, speedup)
    assert generator._engine is made[chosen]
    assert {name for name, fake in made.items() if fake.removed} == {"first", "wrong", "second"} - {chosen}
    assert str(generator.engine).startswith(
        f"engine {chosen}: {speedup:.2f} times as fast as eager, largest difference"
    )


def test_an_engine_is_not_removed_while_a_thread_uses_it(monkeypatch):
    made = use_fakes(monkeypatch, right=0.0)
    generator = toy("sg2")
    styles, w = edited(generator)
    expected = generator.synthesize(styles, w)
    generator.use_engine("right")
    run, removed = Fake.__call__, []
    thread = threading.Thread(target=generator.use_engine, args=("eager",))

    def call(self, synthesis, styles, w):
        thread.start()
        thread.join(0.2)
        removed.append(self.removed)
        yield from run(self, synthesis, styles, w)

    monkeypatch.setattr(Fake, "__call__", call)
    assert torch.equal(generator.synthesize(styles, w), expected)
    thread.join()
    assert removed == [False] and made["right"].removed and generator.engine == EngineUse()


def test_engines_get_styles_in_the_dtype_of_the_network(monkeypatch):
    use_fakes(monkeypatch, right=0.0)
    generator = toy("sg2")
    styles, w = edited(generator)
    generator.use_engine("right")
    run, dtypes = Fake.__call__, []

    def call(self, synthesis, styles, w):
        dtypes.append(styles.dtype)
        yield from run(self, synthesis, styles, w)

    monkeypatch.setattr(Fake, "__call__", call)
    assert torch.equal(generator.synthesize(styles.double(), w), generator.synthesize(styles, w))
    assert dtypes == [torch.float32] * 2


def test_auto_keeps_eager_if_it_is_nearly_as_fast(monkeypatch):
    made = use_fakes(monkeypatch, right=0.0)
    monkeypatch.setattr(EngineSwitch, "_time", lambda self, engines, size: [1.05, 1.0])
    generator = toy("sg2")
    generator.use_engine("auto")
    assert generator.engine == EngineUse() and made["right"].removed
    assert str(generator.engine) == "engine eager"


def test_auto_leaves_out_an_engine_without_memory(monkeypatch):
    use_fakes(monkeypatch, large=0.0)
    monkeypatch.setattr(Fake, "__call__", Mock(side_effect=MemoryError))
    generator = toy("sg2")
    generator.use_engine("auto")
    assert generator.engine == EngineUse()


def test_auto_times_each_engine(monkeypatch):
    use_fakes(monkeypatch, right=0.0)
    generator = toy("sg2")
    generator.use_engine("auto")
    assert generator.engine.speedup > 0


# Jobs


def test_jobs_record_the_engine_and_never_mix_two(monkeypatch, tmp_path):
    use_fakes(monkeypatch, other=0.0)
    generator = toy("sg2")
    editor, plan = StyleEditor(generator, catalog_of("sg2")), grid((1,), generator=generator)
    generator.use_engine("other")
    run_job(tmp_path / "other", plan, editor=editor)
    lines = manifest(tmp_path / "other")
    assert {(line["engine"], line["engine_difference"]) for line in lines} == {("other", generator.engine.difference)}
    generator._engine_use = EngineUse("other", 1e-6, None)  # measured on another machine
    assert run_job(tmp_path / "other", plan, editor=editor).n_existing == len(lines) == 4
    generator.use_engine("eager")
    with pytest.raises(ValueError, match='its engine is "other", not "eager"'):
        run_job(tmp_path / "other", plan, editor=editor)
    run_job(tmp_path / "eager", plan, editor=editor)
    assert not any("engine" in name for line in manifest(tmp_path / "eager") for name in line)
    with pytest.raises(ValueError, match="metadata must not have .* got engine"):
        run_job(tmp_path / "other", plan, editor=editor, metadata={"engine": "x"})


@pytest.mark.usefixtures("needs_openvino")
def test_the_command_line_uses_and_reports_the_engine(tmp_path):
    catalog = tmp_path / "toy.safetensors"
    catalog_of("sg2").save(catalog)
    options = ["--network", "toy:sg2", "--seeds", "1", "--references", "2", "--parts", "eyes"]
    output = run_command("edit", "--catalog", catalog, *options, "--engine", "openvino", "--outdir", tmp_path / "out")
    assert "engine openvino: largest difference" in output
    assert [line["engine"] for line in manifest(tmp_path / "out")] == ["openvino"]


@pytest.mark.usefixtures("needs_openvino")
def test_openvino_is_imported_late_and_without_telemetry():
    code = """
import sys
from stylefast.generators import load
generator = load("toy:sg2")
assert not any(name.startswith("openvino") for name in sys.modules)
generator.use_engine("openvino")
assert "openvino" in sys.modules and not any(name.startswith("openvino_telemetry") for name in sys.modules)
"""
    printed(code)
