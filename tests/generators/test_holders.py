# SPDX-License-Identifier: Apache-2.0
"""A module that holds a network is opened only if it draws its images by this network."""

import pytest
import torch
from miniatures import MINIATURES, WIDTH, holder, miniature
from torch import nn
from torch.optim.swa_utils import AveragedModel

from stylefast.generators import wrap


class Outer(nn.Module):
    """A module with a network under a given name, further modules, and a given forward pass."""

    def __init__(self, run, network=None, name="generator", **children):
        super().__init__()
        self.add_module(name, network or miniature("rosinality"))
        for child, module in children.items():
            self.add_module(child, module)
        self.run = run

    def forward(self, *args, **options):
        return self.run(self, *args, **options)


def images(generator):
    w = generator.latents([0])
    return generator.synthesize(generator.styles(w), w)


def with_extrinsic_style(self, styles, exstyles):  # as DualStyleGAN
    return self.generator(styles)[0] + exstyles.mean()


def by_its_layers(self, z):  # as VToonify: the layers of the network, without its forward pass
    network = self.generator
    return network.images(network.style(z)[:, None].repeat(1, network.n_latent, 1), False)


@pytest.mark.parametrize(
    "run, why",
    [
        (lambda self, z: self.generator([z], randomize_noise=False)[0] + 0.1, "whose images differ from"),
        (lambda self, z: self.generator([z])[0].mul_(0.5), "whose images differ from"),
        (lambda self, z: (0 * self.generator([z])[0], None), "whose images differ from"),
        (lambda self, z, c: {"image": self.generator([z])[0].flip(3)}, "whose images differ from"),
        (by_its_layers, "whose images differ from"),
        (with_extrinsic_style, "which cannot be called to compare its images with"),
        (lambda self, x, style, degree: x, "which cannot be called to compare its images with"),
    ],
)
def test_modules_that_draw_other_images_are_refused(run, why):
    message = rf"got Outer, {why} those of its generator; pass module.generator to edit .* of rosinality .* alone"
    with pytest.raises(ValueError, match=message):
        wrap(Outer(run, res=nn.Linear(2, 2)))


@pytest.mark.parametrize(
    "name, run",
    [
        ("generator", lambda self, z: self.generator([z])[0]),
        ("anything", lambda self, styles: self.anything(styles)),
        ("G", lambda self, z, c: {"image": self.G([z])[0], "label": c}),
    ],
)
def test_modules_that_draw_by_their_network_are_opened(name, run):
    """Their noise is random, and they may have any name."""
    outer = Outer(run, name=name, other=nn.Linear(2, 2))
    assert torch.equal(images(wrap(outer)), images(wrap(miniature("rosinality"))))


def psp(self, x, resize=True, input_code=False):
    codes = x if input_code else self.encoder(x).view(1, -1, WIDTH)
    image = self.decoder([codes], input_is_latent=not input_code)[0]
    return self.face_pool(image) if resize else image


def encoder_decoder(run, encoder=None, **children):
    """pSp, whose encoder takes an image of 256 x 256."""
    encoder = encoder or nn.Sequential(nn.AvgPool2d(128), nn.Flatten(), nn.Linear(WIDTH, 6 * WIDTH))
    pool = nn.AdaptiveAvgPool2d(8)
    outer = Outer(run, name="decoder", encoder=encoder, face_pool=pool, **children)
    outer.register_buffer("latent_avg", torch.ones(WIDTH))
    return outer


@pytest.mark.parametrize("input_code", [True, False])
def test_encoders_with_a_decoder_are_opened(input_code):
    outer = encoder_decoder(psp if input_code else lambda self, x, resize=True: psp(self, x, resize))
    assert torch.equal(images(wrap(nn.DataParallel(outer))), images(wrap(miniature("rosinality"))))
    assert torch.equal(wrap(nn.DataParallel(outer)).w_mean, torch.ones(WIDTH))


def test_encoders_that_change_the_image_are_refused():
    with pytest.raises(ValueError, match="whose images differ from those of its decoder; pass module.decoder"):
        wrap(encoder_decoder(lambda self, x, resize=True: -psp(self, x, resize)))


def test_uncallable_encoders_are_known_by_their_children():
    """HyperStyle needs more than one image."""

    def run(self, x, other):
        return psp(self, x)

    with pytest.warns(UserWarning, match="images of Outer were not compared with those of its decoder"):
        assert wrap(encoder_decoder(run)).image_size == (16, 16)
    with pytest.raises(ValueError, match="cannot be called to compare its images with those of its decoder"):
        wrap(encoder_decoder(run, refine=nn.Conv2d(3, 3, 1)))


def test_parallel_and_averaging_modules_are_opened():
    network = miniature("rosinality")
    for outer in (nn.DataParallel(network), AveragedModel(network), nn.DataParallel(nn.DataParallel(network))):
        assert torch.equal(images(wrap(outer)), images(wrap(network)))

    class Changed(nn.DataParallel):
        def forward(self, *inputs):
            return -self.module(*inputs)[0]

    replaced = nn.DataParallel(network)
    replaced.forward = lambda *inputs: -network(*inputs)[0]
    for outer in (Changed(network), replaced):
        with pytest.raises(ValueError, match="whose images differ from those of its module"):
            wrap(outer)


def test_averaged_weights_in_a_container_come_first():
    networks = {name: MINIATURES["rosinality"].build() for name in ("generator", "discriminator", "g_ema")}
    assert wrap(nn.ModuleDict(networks)).network is networks["g_ema"]
    two = nn.ModuleDict({"a": networks["generator"], "b": networks["g_ema"]})
    with pytest.raises(ValueError, match="must hold one network.* in a, b; pass one of them, such as module.a"):
        wrap(two)


def test_networks_with_additions_to_their_synthesis_are_refused():
    class Refined(MINIATURES["nvlabs2"].build):
        def forward(self, z, c):
            return self.refine(self.synthesis(self.mapping(z, c)))

    network = Refined()
    network.refine = nn.Conv2d(3, 3, 1)
    with pytest.raises(ValueError, match="by its synthesis alone.* got Refined with refine, whose images differ"):
        wrap(network)
    nn.init.dirac_(network.refine.weight)
    nn.init.zeros_(network.refine.bias)
    assert wrap(network).image_size == (16, 16)


@pytest.mark.parametrize("child", [None, nn.PixelShuffle(1)])
def test_networks_that_change_their_synthesis_image_are_refused(child):
    class Changed(MINIATURES["nvlabs2"].build):
        def forward(self, z, c):
            return self.sign * self.synthesis(self.mapping(z, c))

    network = Changed()
    network.child, network.sign = child, -1
    with pytest.raises(ValueError, match="by its synthesis alone.* got Changed, whose images differ"):
        wrap(network)
    network.sign = 1
    assert wrap(network).image_size == (16, 16)


def test_parallel_modules_with_hooks_are_compared():
    outer = nn.DataParallel(miniature("rosinality"))
    outer.register_forward_hook(lambda module, inputs, output: -output[0])
    with pytest.raises(ValueError, match="whose images differ from those of its module"):
        wrap(outer)


def test_comparing_changes_neither_modes_nor_random_numbers():
    norm = nn.BatchNorm1d(2)
    outer = Outer(lambda self, z: self.generator([z + 0 * self.norm(z[:, :2]).sum()])[0], norm=norm)
    outer.train()
    state = torch.get_rng_state()
    wrap(outer)
    assert int(norm.num_batches_tracked or 0) == 0 and norm.training and outer.training
    assert torch.equal(torch.get_rng_state(), state)


def test_containers_without_a_forward_pass_are_opened():
    assert wrap(holder(nested=holder(network=miniature("mmagic")))).name == "mmagic StyleGAN2"
