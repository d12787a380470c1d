# SPDX-License-Identifier: Apache-2.0
"""Arguments of single code bases in `wrap`: texts, cameras, photos, extrinsic styles; networks that are refused."""

import copy
import pickle

import pytest
import torch
from miniatures import CHANNELS, EXTRINSIC, MINIATURES, WIDTH, miniature
from miniatures.lists import Rosinality
from miniatures.relatives import Variant, gfpgan, vtoonify
from miniatures.text_and_camera import EG3D, TEXT, camera

from stylefast.generators import wrap
from stylefast.generators.code_bases.fixed_random import FixedRandom


def image(generator, w):
    return generator.visit(w, lambda key, tensor: None, (), image=True)


def unit(images):
    return (images * 0.5 + 0.5).clamp(0, 1)


def wrapped(name, **options):
    row = MINIATURES[name]
    return wrap(miniature(name), **{"label": row.label, **row.options, **options})


# Texts


def test_a_text_and_its_embedding_give_the_same_images():
    by_text = wrapped("stylegan-t", label="a dog")
    embedding = miniature("stylegan-t").mapping.clip.encode_text(["a dog"])[0]
    by_embedding, other = wrapped("stylegan-t", label=embedding), wrapped("stylegan-t")
    w = by_text.latents([0])
    assert torch.equal(w[0, 0, -TEXT:], embedding) and torch.equal(w, by_embedding.latents([0]))
    assert not torch.equal(image(by_text, w), image(other, other.latents([0])))


def test_truncation_keeps_the_text():
    generator, net = wrapped("stylegan-t"), miniature("stylegan-t")
    c = net.mapping.clip.encode_text(["a cat"])
    z = torch.randn(1, net.z_dim)
    mean = generator.latents([0], truncation=0)[0, 0]
    assert torch.equal(mean, torch.cat((net.mapping.x_avg, c[0])))
    assert torch.equal(mean[None].lerp(net.mapping(z, c)[:, 0], 0.5)[:, -TEXT:], c)


def test_residual_layers_read_the_normalized_tensor():
    generator, net = wrapped("stylegan-t"), miniature("stylegan-t")
    w, seen = generator.latents([0]), []
    handle = net.synthesis.b8.convs1[1].norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        got = generator.activations(w, ["b8.convs1.1"])["b8.convs1.1"]
    finally:
        handle.remove()
    assert torch.equal(got, seen[0])


# Cameras


def test_one_image_is_that_of_seed_zero_of_torch():
    """Places of samples along the rays are those of `torch.manual_seed(0)`, for each image of a batch."""
    generator, net = wrapped("eg3d"), miniature("eg3d")
    w = generator.latents([0, 1])
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        expected = unit(net.synthesis(w[1:], camera()[None], noise_mode="const")["image"])
        state = torch.random.get_rng_state()
        assert torch.equal(image(generator, w[1:]), expected)
        assert torch.equal(torch.random.get_rng_state(), state)  # the numbers of the user are left alone
    torch.testing.assert_close(image(generator, w)[1:], expected, rtol=0, atol=1e-5)


def test_the_view_is_independent_of_the_conditioning():
    net, view = miniature("eg3d"), camera(0.6)
    generator, front = wrapped("eg3d", c=view), wrapped("eg3d")
    w = generator.latents([0])
    assert torch.equal(w, front.latents([0])) and not torch.equal(w, wrapped("eg3d", label=view).latents([0]))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        expected = unit(net.synthesis(w, view[None], noise_mode="const")["image"])
    assert torch.equal(image(generator, w), expected) and not torch.equal(expected, image(front, w))


def test_options_of_the_renderer_are_restored():
    net = EG3D("random").eval()
    generator = wrap(net, label=camera()[None], neural_rendering_resolution=32)
    w = generator.latents([0])
    assert torch.equal(image(generator, w), image(generator, w))
    assert net.neural_rendering_resolution == 64
    assert net.rendering_kwargs == {"superresolution_noise_mode": "random"}


def test_fixed_random_numbers_repeat_for_each_image():
    with FixedRandom(2, torch.device("cpu")):
        a, b, c = torch.rand(4, 3), torch.rand_like(torch.zeros(2, 5)), torch.rand((2, 1))
        assert torch.randn(2).shape == (2,)
    random = torch.Generator().manual_seed(0)
    for got, shape in ((a, (2, 3)), (b, (1, 5)), (c, (1, 1))):
        assert torch.equal(got, torch.rand(shape, generator=random).repeat(2, 1))


def test_random_numbers_are_drawn_in_the_order_of_the_memory():
    strided = torch.zeros(4, 1, 3).permute(1, 2, 0)
    with FixedRandom(1, torch.device("cpu")):
        got = torch.rand_like(strided)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert torch.equal(got, torch.rand_like(strided))


# Extrinsic styles and photos


@pytest.mark.parametrize(
    "options",
    [
        {"exstyles": EXTRINSIC + 1},
        {"exstyles": torch.randn(1, 6, WIDTH)},
        {"exstyles": EXTRINSIC, "interp_weight": 1.0},
        {"use_res": False},
    ],
)
def test_dual_stylegan_draws_with_its_extrinsic_path(options):
    net = miniature("dual-stylegan")
    generator, inner = wrap(net, **options), wrap(net.generator)
    w = generator.latents([0, 1])
    exstyles = options.get("exstyles")
    exstyles = exstyles if exstyles is None else exstyles.expand(2, *exstyles.shape[1:])
    with torch.no_grad():
        own = net([w], **options | {"exstyles": exstyles}, input_is_latent=True, randomize_noise=False)[0]
    assert torch.equal(image(generator, w), unit(own))
    assert torch.equal(inner.latents([0, 1]), w)
    assert torch.equal(image(generator, w), image(inner, w)) == (options == {"use_res": False})
    assert torch.equal(generator.synthesize(generator.styles(w), w), image(generator, w))


def test_conditions_change_the_images_of_a_decoder_for_photos():
    net = miniature("gfpgan-decoder")
    generator = wrapped("gfpgan-decoder")
    other = wrapped("gfpgan-decoder", conditions=[torch.ones(1, CHANNELS[8], 8, 8)] * 2)
    w = generator.latents([0])
    assert not torch.equal(image(generator, w), image(other, w))
    plain = MINIATURES["basicsr"].build()
    plain.load_state_dict(net.state_dict())  # what the error recommends
    assert torch.equal(wrap(plain.eval()).latents([0]), w)


# Variants


def test_a_forward_pass_may_take_arguments_of_any_name():
    class Logged(Rosinality):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    net = Logged()
    net.load_state_dict(miniature("rosinality").state_dict())
    plain = wrapped("rosinality")
    w = plain.latents([0])
    assert torch.equal(image(wrap(net), w), image(plain, w)) and wrap(net).name == plain.name


# Refusals


@pytest.mark.parametrize(
    "run, message",
    [
        (lambda: wrap(vtoonify()), "VToonify: it draws a picture from a frame of a video.* pass .* module.generator"),
        (lambda: wrap(gfpgan()), "GFPGAN: it restores a photo.* pass its module.stylegan_decoder"),
        (lambda: wrap(gfpgan().stylegan_decoder), "conditions must be given, .* BasicSRWithConditions draws from"),
        (lambda: wrap(Variant()), "variant of rosinality .*: its forward must take the argument input_is_latent"),
        (lambda: wrap(EG3D().backbone, label=camera()), "96 channels are three planes .* pass the whole TriPlane"),
        (lambda: wrap(miniature("dual-stylegan")), r"exstyles must be .* \[1, D\] or \[1, rows, D\].* got NoneType"),
        (lambda: wrapped("dual-stylegan", exstyles=torch.ones(2, WIDTH)), r"exstyles must .* got \(2, 12\)"),
        (lambda: wrapped("dual-stylegan", exstyles=torch.ones(1, 5, WIDTH)), r"exstyles must .* got \(1, 5, 12\)"),
        (lambda: wrap(miniature("stylegan-t")), r"label must be a text, or the embedding .* D = 5, got None"),
        (lambda: wrap(miniature("stylegan-t"), label=1), "label must be a text, .* got 1"),
        (lambda: wrap(miniature("stylegan-t"), label=torch.ones(4)), r"label must .* got \(4,\)"),
        (lambda: wrap(miniature("eg3d")), "label must be a camera: a tensor of 25 numbers.* got None"),
        (lambda: wrap(miniature("eg3d"), label=7), "label must be a camera.* got 7"),
        (lambda: wrap(miniature("eg3d"), label=torch.eye(5)), "label must be a camera.* a 1 at its end, got"),
        (lambda: wrapped("eg3d", c=torch.ones(16)), "c must be a camera"),
        (lambda: wrap(miniature("nvlabs2-classes"), label="cat"), "label must be an integer in .* got 'cat'"),
    ],
)
def test_what_a_code_base_needs_is_asked_for_in_a_sentence(run, message):
    with pytest.raises(ValueError, match=message):
        run()


# Copies


@pytest.mark.parametrize("name", MINIATURES)
def test_functions_of_a_code_base_can_be_copied_and_pickled(name):
    """Copies of the functions draw with the copy of the network."""
    generator, net = wrapped(name), miniature(name)
    functions = generator._mapping, generator._synthesis
    w = generator.latents([0])
    with torch.no_grad():
        expected = functions[1](w)
        for mapping, synthesis in (copy.deepcopy(functions), pickle.loads(pickle.dumps(functions))):
            z = torch.ones(1, generator.z_dim)
            assert torch.equal(synthesis(w), expected) and torch.equal(mapping(z), functions[0](z))
        held, (_, synthesis) = copy.deepcopy((net, functions))
        for parameter in held.parameters():
            parameter.zero_()
        assert not torch.equal(synthesis(w), expected) and torch.equal(functions[1](w), expected)
