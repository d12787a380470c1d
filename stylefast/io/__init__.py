# SPDX-License-Identifier: Apache-2.0
"""Files: atomic writes, tensors with checksums, pickles read as data, latents and images."""
