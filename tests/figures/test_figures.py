# SPDX-License-Identifier: Apache-2.0
"""Figures: sizes, colours compared with labels, cells compared with images, and files that are saved completely."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from stylefast import figures
from stylefast.figures import canvas, heat
from stylefast.figures import figures as drawing
from stylefast.figures.canvas import GAP, MARGIN, PAPER
from stylefast.locality import delta_e, rgb_to_lab


def random_images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def cell_of(figure: Image.Image, size: tuple[int, int], column: int, row: int) -> np.ndarray:
    """Pixels [h, w, 3] of one cell of a sheet."""
    x, y = (MARGIN + place * (side + GAP) for place, side in zip((column, row), size, strict=True))
    return np.asarray(figure.crop((x, y, x + size[0], y + size[1])))


def lanczos(image: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(figures.to_pil(image[None])[0].resize(size, Image.Resampling.LANCZOS))


def test_to_pil_clamps_and_rounds_pixels():
    image = torch.tensor([[[0.0, 1.0, -3.0]], [[0.5, 0.25, 2.0]], [[1 / 255, 0.998, 0.9]]])  # [3, 1, 3]
    first, second = figures.to_pil(torch.stack([image, 1 - image.clamp(0, 1)]))
    assert first.size == (3, 1) and first.mode == "RGB"
    assert np.asarray(first).tolist() == [[[0, 128, 1], [255, 64, 254], [0, 255, 230]]]
    assert np.asarray(second)[0, 1].tolist() == [0, 191, 1]
    assert figures.to_pil(torch.zeros(0, 3, 2, 2)) == []


def test_overlay_tints_each_cluster_with_its_own_colour():
    labels = torch.tensor([[[0, 1], [2, 1]], [[3, 3], [3, 0]]])
    images = random_images(2, 3, 32, 32)
    figure = figures.cluster_overlay(images, labels, n_clusters=4, cell=64)
    for n in range(2):
        cell = cell_of(figure, (64, 64), n, 0)
        grey = lanczos(images[n], (64, 64)).mean(axis=2)
        for y, x in ((3, 3), (3, 60), (60, 3), (60, 60)):  # the corners, which the numbers do not reach
            colour = np.array(canvas.distinct_colours(4)[labels[n, y // 32, x // 32]])
            expected = drawing.TINT * colour + (1 - drawing.TINT) * grey[y, x]
            assert np.abs(cell[y, x] - expected).max() <= 1
    first = cell_of(figure, (64, 64), 0, 0)
    assert (first[8:24, 31] == PAPER).all() and (first[31, 2:10] == PAPER).all()  # borders 0|1 and 0|2
    assert not (first[30, 50:62] == PAPER).all(axis=1).any()  # no border where label 1 lies above label 1


def test_overlay_of_parts_leaves_other_clusters_unchanged():
    labels = torch.tensor([[[0, 1], [2, 3]]])
    images = random_images(1, 3, 64, 64)
    figure = figures.cluster_overlay(images, labels, parts={"a": [2], "b": [0, 2], "c": []}, n_clusters=4, cell=64)
    cell, plain = cell_of(figure, (64, 64), 0, 0).astype(float), lanczos(images[0], (64, 64)).astype(float)
    tints = [drawing.TINT * np.array(colour) for colour in canvas.distinct_colours(3)]
    for part, corner in ((1, (3, 3)), (0, (60, 3))):  # cluster 2 is in both parts, and the first part counts
        assert np.abs(cell[corner] - tints[part] - (1 - drawing.TINT) * plain[corner].mean()).max() <= 1
    assert (cell[:31, 33:63] == plain[:31, 33:63]).all() and (cell[33:, 33:] == plain[33:, 33:]).all()


def test_overlay_numbers_clusters_but_not_parts():
    black, labels = torch.zeros(1, 3, 64, 64), torch.zeros(1, 2, 2, dtype=torch.int32)
    numbered = cell_of(figures.cluster_overlay(black, labels, n_clusters=1, cell=64), (64, 64), 0, 0)
    named = cell_of(figures.cluster_overlay(black, labels, n_clusters=1, parts={"all": [0]}, cell=64), (64, 64), 0, 0)
    assert len(np.unique(named.reshape(-1, 3), axis=0)) == 1
    assert numbered.min(axis=2).max() > 150
    y, x = np.nonzero((numbered != named).any(axis=2))
    assert (y.mean(), x.mean()) == pytest.approx((32, 32), abs=2)


def test_the_legend_shows_every_colour():
    labels = torch.zeros(1, 1, 1, dtype=torch.int64)
    figure = figures.cluster_overlay(torch.zeros(1, 3, 8, 8), labels, n_clusters=40, cell=64)
    below = np.asarray(figure)[MARGIN + 64 :].reshape(-1, 3)
    assert {tuple(colour) for colour in np.unique(below, axis=0)} >= set(canvas.distinct_colours(40))


def test_a_sheet_has_rows_of_six():
    images, labels = torch.zeros(8, 3, 20, 40), torch.zeros(8, 1, 1, dtype=torch.int64)
    labels[7] = 1
    figure = figures.cluster_overlay(images, labels, parts={"a": [1]}, n_clusters=2, cell=80)
    assert figure.width == 2 * MARGIN + 6 * 80 + 5 * GAP
    assert cell_of(figure, (80, 40), 1, 1).any() and not cell_of(figure, (80, 40), 0, 1).any()
    assert (cell_of(figure, (80, 40), 2, 1) == PAPER).all()


def test_colours_are_far_apart_and_do_not_depend_on_their_count():
    many = canvas.distinct_colours(64)
    assert canvas.distinct_colours(10) == many[:10] and canvas.distinct_colours(0) == ()
    lab = rgb_to_lab(torch.tensor(many).float().T.reshape(1, 3, -1, 1) / 255)[0, :, :, 0].T
    distance = torch.cdist(lab, lab) + 1000 * torch.eye(64)
    assert distance[:8, :8].min() > 35 and distance.min() > 15


def test_heat_colours_rise_evenly_in_lightness():
    lightness = rgb_to_lab(canvas.heat_colours().T.reshape(1, 3, 256, 1) / 255)[0, 0, :, 0]
    assert lightness[0] < 7 and lightness[-1] > 96
    assert (lightness[16:] - lightness[:-16]).aminmax() == pytest.approx((16 * 91 / 255,) * 2, rel=0.2)


def test_contribution_map_is_as_bright_as_the_contribution():
    M = torch.zeros(3, 64 + 4 + 512)
    M[1, 68:] = 1.0  # the third site, for the second part
    M[2, 40] = 0.5  # one channel of the first site: a step in the column shows the largest M of its channels
    figure = figures.contribution_map(M, ["eyes", "nose", "mouth"], [("b4", 0, 64), ("b8", 64, 68), ("b16", 68, 580)])
    assert figure.size == (1650, round(150 * (1.7 + 0.42 * 3)))
    pixels = np.asarray(figure)[:, :1480]  # left of the colour bar
    zero, half, one = (tuple(canvas.heat_colours()[i].int().tolist()) for i in (0, 128, 255))
    y, x = np.nonzero((pixels == one).all(axis=2))
    dark_y, dark_x = np.nonzero((pixels == zero).all(axis=2))
    assert x.min() > dark_x.min() + 0.6 * np.ptp(dark_x) and x.max() == pytest.approx(dark_x.max(), abs=2)
    assert dark_y.min() + 0.3 * np.ptp(dark_y) < y.min() < y.max() < dark_y.min() + 0.7 * np.ptp(dark_y)
    y, x = np.nonzero((pixels == half).all(axis=2))
    assert len(x) and y.min() > dark_y.min() + 0.6 * np.ptp(dark_y)
    assert (x.mean() - dark_x.min()) / np.ptp(dark_x) == pytest.approx(40.5 / 64 / 3, abs=0.01)


def test_contribution_map_without_matplotlib_is_refused(monkeypatch):
    monkeypatch.setattr("stylefast.figures.figures.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="contribution_map needs matplotlib: pip install matplotlib"):
        figures.contribution_map(torch.zeros(1, 4), ["a"], [("b4", 0, 4)])


@pytest.mark.parametrize("shape", [(48, 48), (40, 80)])
def test_every_cell_of_the_grid_is_its_image(shape):
    P, T, R, cell = 3, 2, 4, 24
    size = (24, 24) if shape == (48, 48) else (24, 12)
    targets, references = random_images(T, 3, *shape), random_images(R, 3, *shape, seed=1)
    edits = random_images(P, T, R, 3, *shape, seed=2)
    figure = figures.edit_grid(targets, references, edits, part_names=["eyes", "nose", "mouth"], cell=cell)
    pixels = np.asarray(figure)
    right, bottom = figure.width - MARGIN, figure.height - MARGIN

    def at(column_from_right: int, row_from_bottom: int, gaps_x: int, gaps_y: int) -> np.ndarray:
        x = right - (column_from_right + 1) * (size[0] + GAP) + GAP - gaps_x * 2 * GAP
        y = bottom - (row_from_bottom + 1) * (size[1] + GAP) + GAP - gaps_y * 2 * GAP
        return pixels[y : y + size[1], x : x + size[0]]

    for r in range(R):
        assert (at(R - 1 - r, P * T, 0, P) == lanczos(references[r], size)).all()
    for p in range(P):
        for t in range(T):
            row = P * T - 1 - (p * T + t)
            assert (at(R, row, 1, P - 1 - p) == lanczos(targets[t], size)).all()
            for r in range(R):
                assert (at(R - 1 - r, row, 0, P - 1 - p) == lanczos(edits[p, t, r], size)).all()


def test_the_grid_is_labelled():
    black = torch.zeros(1, 1, 2, 3, 40, 40)
    eyes = np.asarray(figures.edit_grid(black[0, 0, :1], black[0, 0], black, part_names=["eyes"], cell=40))
    lips = np.asarray(figures.edit_grid(black[0, 0, :1], black[0, 0], black, part_names=["lips"], cell=40))
    y, x = np.nonzero((eyes != lips).any(axis=2))
    assert len(x) and x.max() < eyes.shape[1] - MARGIN - 3 * 40 - 3 * GAP and y.min() > MARGIN + 40  # left of targets
    ink = (eyes < 200).all(axis=2)
    above, corner = ink[: MARGIN + 18, -MARGIN - 84 :], ink[MARGIN + 20 : MARGIN + 70, MARGIN : -MARGIN - 88]
    assert above.any() and corner.any()  # "references" and "targets"


def test_unchanged_images_have_the_zero_colour():
    images = random_images(2, 3, 40, 60)
    figure = figures.heat_map(images, images.clone(), cell=90)
    zero = canvas.heat_colours()[0].numpy()
    assert all((cell_of(figure, (90, 60), n, 0) == zero).all() for n in range(2))


def test_heat_map_is_the_colour_of_the_mean_difference():
    target = random_images(1, 3, 16, 16)
    edited = target.clone()
    edited[..., :8] = random_images(1, 3, 16, 8, seed=1)
    cell = cell_of(figures.heat_map(edited, target, vmax=80.0, cell=8), (8, 8), 0, 0)
    blocks = delta_e(edited, target)[0].reshape(8, 2, 8, 2).mean((1, 3))  # [8, 8]
    expected = canvas.heat_colours()[(blocks / 80 * 255).round().clamp(max=255).long()].numpy()
    assert (cell == expected).all() and (cell[:, 4:] == canvas.heat_colours()[0].numpy()).all()


def test_heat_maps_have_the_names_of_their_edits():
    images = torch.zeros(2, 3, 64, 64, dtype=torch.float32, device="cpu")
    plain, named = (np.asarray(figures.heat_map(images, images, names=n, cell=64)) for n in (None, ["", "eyes"]))
    differs = (plain != named).any(2)[MARGIN : MARGIN + 64, MARGIN : MARGIN + 2 * 64 + GAP]
    assert differs[-10:, 64 + GAP :].any() and not differs[:40].any()
    with pytest.raises(ValueError, match=r"names must be one per image, got 1 for 2 images"):
        figures.heat_map(images, images, names=["eyes"])


def test_heat_map_saturates_above_vmax():
    black, white = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    for vmax in (50.0, 100.0, None):
        cell = cell_of(figures.heat_map(white, black, vmax=vmax, cell=8), (8, 8), 0, 0)
        assert (cell == canvas.heat_colours()[255].numpy()).all()


def test_the_scale_runs_through_all_colours():
    images = torch.zeros(1, 3, 8, 8)
    ramp = np.asarray(figures.heat_map(images, images, cell=64))[MARGIN + 64 + 3 * GAP + 5, MARGIN : MARGIN + 256]
    assert (ramp == canvas.heat_colours().numpy()).all()


@pytest.mark.parametrize("value, bound", [(0.0, 1), (0.3, 1), (1.0, 1), (1.2, 2), (4.9, 5), (7.0, 10), (21.0, 50)])
def test_the_scale_ends_at_a_round_number(value, bound):
    assert heat.scale_end(value) == bound


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_heat_map_outlines_the_part(dtype):
    images, mask = torch.zeros(1, 3, 16, 16), torch.zeros(1, 4, 4)
    mask[:, 1:3, 1:3] = 1
    cell = cell_of(figures.heat_map(images, images, mask=mask.to(dtype), cell=16), (16, 16), 0, 0)
    marked = (cell == heat.OUTLINE).all(axis=2)
    if dtype == torch.bool:  # four sides of eight pixels; two sides share a pixel
        assert marked.sum() == 31 and marked[3, 4:12].all() and marked[11, 4:12].all() and marked[4:12, 3].all()
    touched = (cell != canvas.heat_colours()[0].numpy()).any(axis=2)
    assert 20 < touched.sum() < 48 and not touched[:2].any() and not touched[6:10, 6:10].any()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_save_writes_the_format_of_the_suffix_and_nothing_else(tmp_path, suffix):
    image = figures.to_pil(random_images(1, 3, 32, 32))[0]
    figures.save(image, tmp_path / f"figure{suffix}")
    with Image.open(tmp_path / f"figure{suffix}") as read:
        assert read.size == (32, 32) and read.format == {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}[suffix]
        assert suffix != ".png" or (np.asarray(read) == np.asarray(image)).all()
    assert len(list(tmp_path.iterdir())) == 1


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    old, new = figures.to_pil(random_images(2, 3, 32, 32))
    path = tmp_path / "figure.png"
    figures.save(old, path)
    before = path.read_bytes()

    def interrupted(self, target, **options):
        with open(target, "wb") as file:
            file.write(b"half a picture")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        figures.save(new, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_save_refuses_an_unknown_suffix(tmp_path):
    with pytest.raises(ValueError, match="unknown file extension"):
        figures.save(Image.new("RGB", (2, 2)), tmp_path / "figure.picture")
    assert not list(tmp_path.iterdir())


def test_invalid_inputs_are_refused():
    images, labels = torch.rand(2, 3, 8, 8), torch.zeros(2, 2, 2, dtype=torch.int64)
    with pytest.raises(
        ValueError,
        match=r"images must have shape \[N, C, H, W\] with C = 1 .grey., 3 .RGB. or 4 .RGBA., got \(3, 8, 8\)",
    ):
        figures.to_pil(images[0])
    with pytest.raises(ValueError, match=r"images must not hold NaN, got some in image \d"):
        figures.to_pil(torch.full((1, 3, 1, 1), math.nan))
    with pytest.raises(ValueError, match=r"images must hold at least one image, got \(0, 3, 8, 8\)"):
        figures.cluster_overlay(images[:0], labels[:0], n_clusters=1)
    with pytest.raises(TypeError, match=r"labels must be an integer tensor \[N, h, w\], got torch\.float32"):
        figures.cluster_overlay(images, labels.float(), n_clusters=1)
    with pytest.raises(ValueError, match=r"labels must have shape \[N, h, w\] with N = 2, got \(1, 2, 2\)"):
        figures.cluster_overlay(images, labels[:1], n_clusters=1)
    for wrong in (labels - 1, labels + 1):
        with pytest.raises(ValueError, match=r"labels must lie in \[0, K\) with K = 1, got (-1|1)\.\.(-1|1)"):
            figures.cluster_overlay(images, wrong, n_clusters=1)
    with pytest.raises(ValueError, match=r"parts must hold clusters in \[0, K\) with K = 1, got 'eyes': \[0, 1\]"):
        figures.cluster_overlay(images, labels, parts={"eyes": [0, 1]}, n_clusters=1)
    with pytest.raises(ValueError, match=r"M must have shape \[P, S\] with P = 1, got \(2, 4\)"):
        figures.contribution_map(torch.zeros(2, 4), ["a"], [("b4", 0, 4)])
    with pytest.raises(ValueError, match=r"sites must be .* within S = 4, got \[\('b8', 2, 6\)\]"):
        figures.contribution_map(torch.zeros(1, 4), ["a"], [("b4", 0, 2), ("b8", 2, 6)])
    with pytest.raises(ValueError, match=r"edits must have shape .* P = 1, T = 2, R = 2, got \(1, 2, 1, 3, 8, 8\)"):
        figures.edit_grid(images, images, images[None, :, None], part_names=["a"])
    with pytest.raises(ValueError, match=r"edited and target must not hold NaN"):
        figures.heat_map(images * math.nan, images)
    with pytest.raises(ValueError, match=r"mask must have shape \[N, h, w\] with N = 2, got \(1, 2, 2\)"):
        figures.heat_map(images, images, mask=torch.ones(1, 2, 2))
    for vmax in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"vmax must be a finite number > 0"):
            figures.heat_map(images, images, vmax=vmax)
