"""Writes gaussian-mechanism.json: the epsilon of mu-GDP releases by dp_accounting.

    pip install dp-accounting && python test/reference/gaussian_mechanism_golden.py
"""

import json
import math
import pathlib

from dp_accounting import get_epsilon_gaussian

# One released row at hidden 64 to 4096 and noise 0.1 to 100; texts of up to 4,096 rows; and what hardly leaks.
MUS = sorted({0.01, 0.1, 0.5, 1, 2, 5, 10}
             | {2 * math.sqrt(hidden * rows) / noise
                for hidden in (64, 576, 4096) for rows in (1, 128, 4096) for noise in (0.1, 0.8, 12.8, 100)})
DELTAS = (1e-5, 1e-6, 1e-8)

vectors = {'epsilon': [[mu, delta, get_epsilon_gaussian(1 / mu, delta)] for mu in MUS for delta in DELTAS]}
path = pathlib.Path(__file__).with_name('gaussian-mechanism.json')
path.write_text(json.dumps(vectors) + '\n')
