# SPDX-License-Identifier: Apache-2.0
"""Non-negative matrix factorisation of activations: soft memberships in place of the labels of k-means.

"Deep Feature Factorization" (Collins, Achanta, Süsstrunk, ECCV 2018) applies it to the activations of a network.
"""

from .nmf import NMF

__all__ = ["NMF"]
