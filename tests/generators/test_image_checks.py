# SPDX-License-Identifier: Apache-2.0
"""Checks of a network's images when it is wrapped: range, noise, replay, and dependence on the batch size."""

import itertools
import warnings

import pytest
import torch
from checkpoint_files import write
from miniatures import MINIATURES, miniature
from networks import shared
from originals import Original
from originals3 import Original3
from torch import nn

from stylefast.generators import Generator, ImageRangeWarning, ReproducibilityWarning, Rule, load, wrap
from stylefast.generators.convert import convert
from stylefast.generators.toy import RULES


def generator_of(synthesis, **options):
    """A generator whose images are those of toy:sg2, changed by `synthesis`, a function of (network, w)."""
    network = shared("sg2").network
    return Generator(
        network,
        RULES["sg2"],
        name="changed",
        z_dim=32,
        mapping=network.mapping,
        synthesis=lambda w: synthesis(network, w),
        **options,
    )


def silent(run):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return run()


@pytest.mark.parametrize("name", MINIATURES)
def test_networks_of_known_code_bases_give_no_warning(name):
    silent(lambda: wrap(miniature(name), label=MINIATURES[name].label, **MINIATURES[name].options))


def test_an_image_is_made_seven_times_beside_the_probe():
    counts = []

    def count(network, w):
        counts.append(len(w))
        return network(w)

    generator_of(count)
    assert counts == [1, 1, 3, 3]
    counts.clear()
    generator_of(count, check=False)
    assert counts == [1]


# Range


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda x: (x + 1) / 2, r"image_range=\(0, 1\)"),
        (lambda x: torch.sigmoid(3 * x), r"image_range=\(0, 1\)"),
        (lambda x: (x + 1) * 127.5, r"image_range=\(0, 255\)"),
        (lambda x: ((x + 1) * 127.5).to(torch.uint8), r"image_range=\(0, 255\)"),
        (lambda x: x * 127.5, r"image_range=\(black, white\)"),
    ],
)
def test_another_image_range_is_noticed(change, expected):
    with pytest.warns(ImageRangeWarning, match=rf"contradicts the image range \[-1, 1\]: pass {expected}"):
        generator_of(lambda network, w: change(network(w)))
    silent(lambda: generator_of(lambda network, w: change(network(w)), image_range=(-1, 1)))


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x,
        lambda x: x * 0.01,
        lambda x: x * 0.01 + 0.1,
        lambda x: x * 15,
        lambda x: x * 0.7 + 0.4,
        lambda x: x * 0.3 + 0.7,
        lambda x: x - 0.5,
        lambda x: x * 0 + 0.3,
    ],
)
def test_images_in_the_usual_range_give_no_warning(change):
    silent(lambda: generator_of(lambda network, w: change(network(w))))


@pytest.mark.parametrize("invalid", [(0, 0), (0,), (0, 1, 2), (0, float("nan")), (0, float("inf")), "ab", 255, ()])
def test_invalid_image_ranges_are_refused(invalid):
    with pytest.raises(ValueError, match="image_range must be two different finite numbers"):
        generator_of(lambda network, w: network(w), image_range=invalid)


def test_wrap_takes_an_image_range():
    network = MINIATURES["rosinality"].build()
    network.to_rgbs[-1].conv.register_forward_hook(lambda module, inputs, output: output * 40 + 100)
    with pytest.warns(ImageRangeWarning, match=r"\(0, 255\)"):
        wrap(network)
    generator = silent(lambda: wrap(network, image_range=(0, 255)))
    w = generator.latents([0])
    with torch.no_grad():
        expected = network([w], input_is_latent=True, randomize_noise=False)[0] / 255
    torch.testing.assert_close(generator.synthesize(generator.styles(w), w), expected.clamp(0, 1))


def test_images_that_are_not_finite_are_refused():
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="must give finite images, got 3,072 of 3,072 values NaN or Inf"):
            generator_of(lambda network, w, value=value: network(w) * 0 + value)
    with pytest.raises(ValueError, match=r"images of shape \(3, 3, 32, 32\) for 3 latents, got \(1, 3, 32, 32\)"):
        generator_of(lambda network, w: network(w)[:1])


# Noise and replay


def test_noise_that_is_not_fixed_is_refused():
    with pytest.raises(ValueError, match="same images in every run, with fixed noise, got one image of changed with"):
        generator_of(lambda network, w: network(w) + 0.1 * torch.randn(len(w), 3, 32, 32))
    with pytest.raises(ValueError, match="got a batch of 3 images of changed"):
        generator_of(lambda network, w: network(w) + (len(w) > 1) * 0.1 * torch.randn(len(w), 3, 32, 32))


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("nvlabs2", {"noise_mode": "random"}, "noise_mode must be 'const' or 'none', .* got 'random'"),
        ("hammer2", {"noise_mode": "random"}, "noise_mode must be 'const' or 'none'"),
        ("rosinality", {"randomize_noise": True}, "randomize_noise must be False, .* got True"),
        ("genforce2", {"randomize_noise": 1}, "randomize_noise must be False, .* got 1"),
        ("mmagic", {"randomize_noise": True}, "randomize_noise must be False"),
    ],
)
def test_options_for_random_noise_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        wrap(miniature(name), **options)


@pytest.mark.filterwarnings("ignore::stylefast.generators.ReproducibilityWarning")
def test_small_differences_between_runs_are_said():
    run = itertools.count()
    message = "not reproduced exactly: one image has differences of up to 0.001 .* between two runs"
    with pytest.warns(ReproducibilityWarning, match=message):
        generator_of(lambda network, w: network(w) + 0.001 * (next(run) % 3))
    silent(lambda: generator_of(lambda network, w: network(w) + 1e-6 * torch.randn(len(w), 3, 32, 32)))


@pytest.mark.filterwarnings("ignore::stylefast.generators.ReproducibilityWarning")
def test_styles_that_do_not_give_the_own_image_are_refused():
    class Twice(nn.Module):
        """Network that runs its layer twice, with different styles."""

        def __init__(self):
            super().__init__()
            self.affine, self.mapping = nn.Linear(4, 3), nn.Identity()
            self.layer = nn.Identity()

        def forward(self, w):
            x = torch.linspace(-1, 1, 12).view(1, 3, 2, 2).expand(len(w), -1, -1, -1)
            x = self.layer(x) * self.affine(2 * w)[:, :, None, None]
            return (self.layer(x) * self.affine(w)[:, :, None, None]).tanh()

    network, rule = Twice(), Rule(r"(?P<site>affine)", "layer")
    with pytest.raises(ValueError, match="styles of twice, read and put back, must give the network's own images"):
        Generator(network, [rule], name="twice", z_dim=4, mapping=network.mapping, synthesis=network)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x + 0.05 * torch.arange(len(x))[:, None, None, None],
        lambda x: x + 0.02 * len(x),
        lambda x: x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)),
        lambda x: x - 0.1 * x.mean(dim=0, keepdim=True),
    ],
)
def test_dependence_on_the_batch_size_is_said(change):
    """The image at the end of a batch is compared: the first one may have the noise of an image alone."""
    with pytest.warns(ReproducibilityWarning, match="depend on the batch size: .* in a batch of 3 differ by up to"):
        generator_of(lambda network, w: change(network(w)))


@pytest.mark.parametrize("family", ["nvlabs", "stylegan3"])
def test_loaded_networks_are_not_checked(family, tmp_path, monkeypatch):
    write(tmp_path / "a.pkl", Original3() if family == "stylegan3" else Original(family))
    convert(tmp_path / "a.pkl", tmp_path / "a.safetensors")
    monkeypatch.setattr("stylefast.generators.generator.check_images", lambda *args, **options: pytest.fail("checked"))
    load(tmp_path / "a.safetensors")
