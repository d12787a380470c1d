# SPDX-License-Identifier: Apache-2.0
"""Local web page that names the parts of a catalog, explores edits, and runs batches of edits."""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # Gradio reads this when it is imported
