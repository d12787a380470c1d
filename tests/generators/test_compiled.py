# SPDX-License-Identifier: Apache-2.0
"""Compiled synthesis uses the given styles, and a network that is already compiled is refused."""

import pytest
import torch
from miniatures import MINIATURES
from networks import hooks

from stylefast.generators import wrap
from stylefast.generators.toy import toy


class Counting:
    """Backend that runs graphs unchanged and counts the compilations."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph.forward


@pytest.fixture(autouse=True)
def reset_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["hammer3", "genforce1"])
def test_other_styles_do_not_compile_again(name):
    generator, backend = wrap(MINIATURES[name].build()), Counting()
    w = generator.latents(range(4))
    plain = generator.styles(w)
    edited = plain[[1, 2, 3, 0]] * 0.9
    expected = [generator.synthesize(styles, w) for styles in (plain, edited)]
    generator.compile(4, backend=backend, fullgraph=True)
    for styles, images in zip((plain, edited, plain), (*expected, expected[0]), strict=True):
        assert torch.equal(generator.synthesize(styles, w), images)
    # All batches have one size: the last is padded, and one w serves all rows.
    torch.testing.assert_close(generator.synthesize(edited[:3], w[:3]), expected[1][:3])
    torch.testing.assert_close(generator.synthesize(plain.repeat(2, 1)[:5], w.repeat(2, 1, 1)[:5])[4], expected[0][0])
    assert torch.equal(generator.synthesize(plain, w[:1]), generator.synthesize(plain, w[[0, 0, 0, 0]]))
    assert generator.synthesize(plain[:0], w[:0]).shape == (0, 3, *generator.image_size)
    assert backend.graphs == 1
    # Other methods and other users of the network are not affected.
    assert torch.equal(generator.styles(w), plain)
    assert torch.equal(generator.visit(w, lambda key, tensor: None, (), image=True), expected[0])
    with torch.no_grad():
        bare = (MINIATURES[name].run(generator.network, w) * 0.5 + 0.5).clamp(0, 1)
    assert torch.equal(bare, expected[0])


def test_generators_of_one_network_read_their_own_buffers():
    net = MINIATURES["hammer3"].build()
    generators = [wrap(net), wrap(net)]
    w = generators[0].latents([0, 1])
    styles = [generators[0].styles(w), generators[0].styles(w.flip(0))]
    expected = [generators[0].synthesize(rows, w) for rows in styles]
    for generator in generators:
        generator.compile(2, backend="eager")
    for _ in range(2):
        for generator, rows, images in zip(generators, styles, expected, strict=True):
            assert torch.equal(generator.synthesize(rows, w), images)


def test_compiling_again_replaces_the_hooks():
    generator = toy("sg2")
    generator.compile(2, backend="eager")
    generator.compile(1, backend="eager")
    assert hooks(generator) == len(generator.sites)
    w = generator.latents([0])
    with pytest.raises(ValueError, match=r"styles must .* S = 296"):
        generator.synthesize(generator.styles(w)[:, 1:], w)
    with pytest.raises(ValueError, match="batch_size must be an integer >= 1, got 0"):
        generator.compile(0)


def in_place(net):
    net.synthesis.b8.compile(backend="eager")
    return net, "synthesis.b8"


def replaced(net):
    net.synthesis = torch.compile(net.synthesis, backend="eager")
    return net, "synthesis"


def whole(net):
    return torch.compile(net, backend="eager"), "the network itself"


@pytest.mark.parametrize("compile_it", [in_place, replaced, whole])
def test_a_network_that_is_already_compiled_is_refused(compile_it):
    net = MINIATURES["nvlabs2"].build()
    generator = wrap(net)
    w = generator.latents([0])
    compiled, name = compile_it(net)
    with torch.no_grad():
        compiled.synthesis(w, noise_mode="const")  # compiles without hooks
    message = f"must not be compiled, .*Generator.compile; the compiled module is {name}$"
    with pytest.raises(ValueError, match=message):
        wrap(compiled)
    if compile_it is not whole:  # torch.compile(net) leaves the wrapped network unchanged
        with pytest.raises(ValueError, match=message):
            generator.styles(w)
