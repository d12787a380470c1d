# SPDX-License-Identifier: Apache-2.0
"""Generators: bit-exact replay, early stop, hooks, latents, identity, refusals."""

import threading

import numpy as np
import pytest
import torch
from networks import calls, hooks, own_images, shared

from stylefast.generators import Generator, load
from stylefast.generators.toy import RULES, toy


@pytest.fixture(params=["sg1", "sg2", "sg3"])
def generator(request):
    return shared(request.param)


def ignore(key, tensor):
    pass


# Styles and images


def test_replaying_own_styles_gives_own_image_bit_for_bit(generator):
    w = generator.latents(range(3))
    expected = own_images(generator, w)
    assert expected.std() > 0.05 and expected.shape == (3, 3, *generator.image_size) and expected.dtype == torch.float32
    assert torch.equal(generator.visit(w, ignore, (), image=True), expected)
    assert torch.equal(generator.synthesize(generator.styles(w), w), expected)


@pytest.mark.parametrize("kind", ["sg2", "sg3"])
def test_each_style_comes_from_its_own_row_of_w(kind):
    generator = shared(kind)
    w = generator.latents(range(generator.w_shape[0]))[None, :, 0]  # a different seed for every row
    assert torch.equal(generator.synthesize(generator.styles(w), w), own_images(generator, w))


def test_reference_styles_give_the_reference_image_bit_for_bit(generator):
    target, reference = generator.latents([0, 1, 2]), generator.latents([3, 4, 5])
    styles = generator.styles(reference)
    assert torch.equal(generator.synthesize(styles, reference), own_images(generator, reference))
    w_matters = generator.name != "toy:sg2"  # it drives the biases of StyleGAN1 and the input transform of StyleGAN3
    assert torch.equal(generator.synthesize(styles, target), own_images(generator, reference)) != w_matters


def test_one_w_serves_all_styles(generator):
    w, styles = generator.latents([7]), generator.styles(generator.latents([1, 2, 3]))
    got = generator.synthesize(styles, w)
    assert torch.equal(got, generator.synthesize(styles, w.repeat(3, *[1] * (w.ndim - 1))))
    assert not torch.equal(got[0], got[1])


@pytest.mark.parametrize(
    "kind, module", [("sg1", "layers.7.style"), ("sg2", "torgbs.3.affine"), ("sg3", "torgb.affine")]
)
def test_styles_are_the_outputs_of_the_modules(kind, module):
    """Test the last site. For StyleGAN1, the style is the first half of the output: the scale minus one."""
    generator = shared(kind)
    w, site = generator.latents(range(4)), generator.sites[-1]
    row = w if w.ndim == 2 else w[:, -1]
    output = generator.network.get_submodule(module)(row).detach()
    assert torch.equal(generator.styles(w)[:, site.slice], output[:, : site.channels])


def test_styles_of_a_batch_are_those_of_its_members(generator):
    w = generator.latents(range(4))
    torch.testing.assert_close(generator.styles(w), torch.cat([generator.styles(one[None]) for one in w]))


def test_styles_do_not_run_synthesis_if_w_is_their_only_input(generator):
    w = generator.latents([0])
    names = calls(generator, lambda: generator.styles(w))
    assert len(names) == len(generator.sites) and all(name.endswith(("affine", "style")) for name in names)


# Passes


def test_the_pass_stops_at_the_last_requested_tensor():
    generator = shared("sg2")
    w = generator.latents([0])
    names = calls(generator, lambda: generator.activations(w, ["convs.2", "convs.0"]))
    assert [name for name in names if not name.endswith("affine")] == ["convs.0", "torgbs.0", "convs.1"]
    assert calls(generator, lambda: generator.visit(w, ignore, ())) == []


def test_one_pass_gives_tensors_and_images(generator):
    w, site = generator.latents([0, 1]), generator.sites[1]
    seen = []
    images = generator.visit(w, lambda key, tensor: seen.append(key), [site.name], image=True)
    assert seen == [site.tensor] and torch.equal(images, own_images(generator, w))
    assert generator.visit(w, ignore, [site.name]) is None


def test_hooks_are_removed_even_after_an_exception(generator):
    w = generator.latents([0])
    styles = generator.styles(w)

    def fail(key, tensor):
        assert hooks(generator) > 0
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        generator.visit(w, fail, styles=styles)
    generator.activations(w, [generator.sites[0].name])
    generator.synthesize(styles, w)
    assert hooks(generator) == 0
    assert torch.equal(generator.synthesize(styles, w), own_images(generator, w))


def test_a_callback_cannot_run_the_generator_that_calls_it(generator):
    w = generator.latents([0])
    with pytest.raises(RuntimeError, match="toy:.* is running"):
        generator.visit(w, lambda key, tensor: generator.styles(w))
    generator.styles(w)


def test_threads_take_turns():
    generator = toy("sg2")
    one, two = generator.latents([1]), generator.latents([2])
    results = []
    thread = threading.Thread(target=lambda: results.append(generator.synthesize(generator.styles(two), two)))

    def start(key, tensor):
        thread.start()
        thread.join(timeout=0.2)
        assert thread.is_alive() and not results

    image = generator.visit(one, start, ["convs.4"], styles=generator.styles(one), image=True)
    thread.join()
    assert torch.equal(image, own_images(generator, one)) and torch.equal(results[0], own_images(generator, two))


def test_an_empty_batch_gives_an_empty_result(generator):
    w = generator.latents([])
    styles = generator.styles(w)
    assert styles.shape == (0, generator.style_width)
    assert generator.synthesize(styles, w).shape == (0, 3, 32, 32)


# Latents


def test_latents_of_a_seed_come_from_numpys_generator(generator):
    w = generator.latents([5, 0, 4294967295])
    z = np.concatenate([np.random.RandomState(seed).randn(1, 32) for seed in (5, 0, 4294967295)])
    with torch.no_grad():
        assert torch.equal(w, generator.network.mapping(torch.from_numpy(z).float()))
    assert w.shape == (3, *generator.w_shape)
    assert generator.w_shape == {"toy:sg1": (32,), "toy:sg2": (8, 32), "toy:sg3": (5, 32)}[generator.name]


def test_truncation_pulls_towards_the_mean(generator):
    w, mean = generator.latents([1, 2]), generator.w_mean
    torch.testing.assert_close(generator.latents([1, 2], truncation=0.0), mean.expand(2, *mean.shape))
    torch.testing.assert_close(generator.latents([1, 2], truncation=0.5), (w + mean) / 2)
    torch.testing.assert_close(generator.latents([1, 2], truncation=-1.0), 2 * mean - w)
    many = generator.latents(range(1, 1001)).mean(dim=0)
    torch.testing.assert_close(mean, many, atol=5 * float(w.std()) / 1000**0.5, rtol=0)
    assert torch.equal(mean, toy(generator.name[4:]).w_mean)


def test_a_mean_that_comes_with_the_network_is_used():
    network = shared("sg2").network
    mean = torch.arange(32.0)
    options = {"z_dim": 32, "mapping": network.mapping, "synthesis": network, "w_mean": mean}
    generator = Generator(network, RULES["sg2"], name="x", **options)
    assert torch.equal(generator.latents([0], truncation=0), mean.expand(1, 8, 32))


# Identity


def test_fingerprints_differ_with_weights_and_sites():
    first = toy("sg2", seed=0)
    assert toy("sg2", seed=0).fingerprint == first.fingerprint
    assert toy("sg2", seed=1).fingerprint["sites"] == first.fingerprint["sites"]
    assert toy("sg2", seed=1).fingerprint["weights"] != first.fingerprint["weights"]
    assert toy("sg3").fingerprint["sites"] != first.fingerprint["sites"]
    changed = toy("sg2", seed=0)
    changed.network.convs[2].noise[0, 0] += 1e-6
    assert changed.fingerprint["weights"] != first.fingerprint["weights"]


def test_toys_leave_the_global_random_state_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    toy("sg1", seed=5)
    assert torch.equal(torch.rand(2), expected)


def test_load_takes_the_names_of_toys():
    assert [load(f"toy:{kind}").name for kind in ("sg1", "sg2", "sg3")] == ["toy:sg1", "toy:sg2", "toy:sg3"]


# Refusals


@pytest.mark.parametrize(
    "run, error, message",
    [
        (
            lambda g, w, s: g.styles(w[:, :3]),
            ValueError,
            r"w must have shape \[N, rows, D\] with rows = 8, D = 32, got \(2, 3, 32\)",
        ),
        (lambda g, w, s: g.visit(w[0], ignore), ValueError, r"w must .* got \(8, 32\)"),
        (lambda g, w, s: g.styles(w.to("meta")), ValueError, r"w must be on cpu like toy:sg2, got meta"),
        (lambda g, w, s: g.styles(w.numpy()), TypeError, r"w must be a torch\.Tensor, got ndarray"),
        (lambda g, w, s: g.styles(w.long()), TypeError, r"w must be float32, .* got torch\.int64"),
        (lambda g, w, s: g.synthesize(s[:, :-1], w), ValueError, r"styles must .* S = 296, got \(2, 295\)"),
        (lambda g, w, s: g.synthesize(s[0], w), ValueError, r"styles must .* got \(296,\)"),
        (lambda g, w, s: g.synthesize(s[:1], w), ValueError, "w must have N = 1 rows to match styles .* got 2"),
        (lambda g, w, s: g.activations(w, ["convs.9"]), ValueError, r"among convs\.0, torgbs\.0, .*, got convs\.9"),
        (lambda g, w, s: g.latents([1], truncation=float("nan")), ValueError, "truncation must be a finite number"),
        (lambda g, w, s: g.latents([-1]), ValueError, r"seeds must be integers in \[0, 2\*\*32\)"),
        (lambda g, w, s: toy("sg4"), ValueError, "kind must be one of 'sg1', 'sg2', 'sg3', got 'sg4'"),
        (
            lambda g, w, s: load("ffhq"),
            ValueError,
            "must be one of random-face, toy:sg1, .* wheel or a .safetensors file .*, got 'ffhq'",
        ),
    ],
)
def test_wrong_arguments_are_refused(run, error, message):
    generator = shared("sg2")
    w = generator.latents([0, 1])
    with pytest.raises(error, match=message):
        run(generator, w, generator.styles(w))
