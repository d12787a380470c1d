# SPDX-License-Identifier: Apache-2.0
# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Local edits of faces
# Each cell shows a picture. Open this file as a notebook in Jupyter (with jupytext), VS Code or PyCharm. It needs
# matplotlib. `docs/tutorial.md` explains the steps.

# %%
import torch

import stylefast
from stylefast.catalog import FFHQ_REGIONS
from stylefast.figures import cluster_overlay, contribution_map, edit_grid, heat_map, label_size, mask_boxes

generator = stylefast.generators.load("random-face")  # faces of 1024 x 1024 pixels; downloaded once, research only
w = generator.latents(range(160), truncation=0.7)
catalog = stylefast.Catalog.build(generator, w, regions=FFHQ_REGIONS, contribution_images=24)

# %% [markdown]
# The parts: each is a set of some of the 64 clusters of the activations at 16 x 16.

# %%
w_targets = generator.latents([1004, 1027], truncation=0.7)
w_references = generator.latents([1002, 1001], truncation=0.7)
targets, references = (generator.synthesize(generator.styles(x), x) for x in (w_targets, w_references))
labels = catalog.labels(generator, w_targets, size=label_size(generator.image_size, 256))  # for smooth outlines
cluster_overlay(targets, labels, parts=catalog.parts, n_clusters=catalog.n_clusters)

# %% [markdown]
# M: which style channels act on which part. A light column is a channel that acts mostly there.

# %%
parts = ["eyes", "mouth"]
M = torch.stack([catalog.contribution(part) for part in parts])
contribution_map(M, parts, [(site.name, site.start, site.stop) for site in generator.sites])

# %% [markdown]
# The edits: targets at the left, references at the top. The close-ups show the target and the edit. The strategy is the
# default, `Sequential()`, which adapts to the part.

# %%
editor = stylefast.StyleEditor(generator, catalog)
batches = list(editor.edit(w_targets, w_references, parts, measure=True))
images, regions = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("images", "roi"))
size = len(targets), len(references), len(parts)  # parts vary fastest
edits, maps = (x.unflatten(0, size).movedim(2, 0) for x in (images, regions))  # [P, T, R, ...]
edit_grid(targets, references, edits, part_names=parts, boxes=mask_boxes(maps.float().mean((1, 2))))

# %% [markdown]
# Where the pixels changed. The part is outlined.

# %%
unedited = torch.cat([batch.targets for batch in batches])
heat_map(images, unedited, mask=regions)
