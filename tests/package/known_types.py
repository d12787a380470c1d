# SPDX-License-Identifier: Apache-2.0
"""Fails if the fraction of public symbols whose type is known, in pyright's report on standard input, is too small."""

import json
import sys

minimum = float(sys.argv[1])
fraction = json.load(sys.stdin)["typeCompleteness"]["completenessScore"]
print(f"{fraction:.1%} of the public symbols have a known type")
sys.exit(0 if fraction >= minimum else f"at least {minimum:.1%} must have one: see pyright --verifytypes stylefast")
