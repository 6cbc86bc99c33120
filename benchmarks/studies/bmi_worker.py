"""One estimate by benchmark-mi, in its own environment: PYTHON bmi_worker.py SAMPLES.npz WHAT -> JSON on stdout.

WHAT is ``cca``, or ``ksg K METRIC``.

Run as a file by :mod:`benchmarks.studies.nonparametric_mi`; knows nothing of this project, whose torch is not there.
"""

import contextlib
import json
import sys
import time

import numpy as np


def main(path: str, what: str, *options: str) -> None:
    with contextlib.redirect_stdout(sys.stderr):
        from bmi.estimators import CCAMutualInformationEstimator, KSGEnsembleFirstEstimator

        samples = np.load(path)
        x, y = samples["x"], samples["y"]
        if what == "cca":
            estimator = CCAMutualInformationEstimator()
        else:
            k, metric = options
            estimator = KSGEnsembleFirstEstimator(neighborhoods=(int(k),), metric_x=metric)
        estimator.estimate(x[:500], y[:500])  # imports on first use are not its time
        begun = time.perf_counter()
        value = estimator.estimate(x, y)
        seconds = time.perf_counter() - begun
    print(json.dumps({"value": float(value), "seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
