"""Writes tests/fixtures/statistics.json: what SciPy, scikit-learn and statsmodels make of a few
sets of labels and predictions. `src/evaluate/scipy_tests.rs` holds ours against it.

    python tests/peers/scipy_statistics.py   (needs scipy, scikit-learn and statsmodels)

Intervals are percentile bootstraps of 20,000 resamples: ours, of 2,000, differ by their own noise.
"""

import json
from pathlib import Path

import numpy as np
import scipy
import sklearn
import statsmodels
import statsmodels.api as sm
from scipy import stats
from sklearn import metrics

OUT = Path(__file__).parent.parent / "fixtures/statistics.json"
LEVELS = [0.01, *(round(0.05 * i, 2) for i in range(1, 20)), 0.99]


def interval(values, of=np.mean):
    drawn = stats.bootstrap(
        (values,), of, n_resamples=20_000, method="percentile", vectorized=False,
        rng=np.random.default_rng(1),
    )
    low, high = drawn.confidence_interval
    return {"value": float(of(values)), "low": low, "high": high, "error": drawn.standard_error}


def case(name, labels, said):
    gap = said - labels
    spread = np.abs(labels[:, None] * 0.5 + 5.0) * stats.norm.ppf(LEVELS)[None, :]
    quantiles = np.round(said[:, None] + spread, 3)
    losses = [metrics.mean_pinball_loss(labels, q, alpha=p) for p, q in zip(LEVELS, quantiles.T)]
    pairs = np.stack([labels, said], axis=1)
    index = np.arange(len(labels))

    def r2(rows):
        rows = rows.astype(int)
        return metrics.r2_score(pairs[rows, 0], pairs[rows, 1])

    return {
        "name": name,
        "labels": labels.tolist(),
        "said": said.tolist(),
        "quantiles": quantiles.tolist(),
        "kendall_tau_b": stats.kendalltau(said, labels, variant="b").statistic,
        "spearman": stats.spearmanr(said, labels).statistic,
        "pinball": losses,
        "error": interval(np.abs(gap)),
        "bias": interval(gap),
        "rmse": interval(gap**2, lambda squares: np.sqrt(np.mean(squares))),
        "acc_50": interval((np.abs(gap) <= 50).astype(float)),
        "underestimation": interval((gap < 0).astype(float)),
        "r2": interval(index, r2),
        "label_quantiles": [float(np.quantile(labels, q)) for q in (0.1, 0.5, 0.9, 0.99)],
    }


def groups(random):
    """Samples of instructions: variance between, and clustered intervals."""
    lengths = [random.integers(5, 500, size=1)[0] + random.integers(0, 60, size=4) for _ in range(30)]
    flat = np.concatenate(lengths).astype(float)
    owner = np.repeat(np.arange(len(lengths)), 4)
    fit = sm.OLS(flat, np.ones_like(flat)).fit(
        cov_type="cluster", cov_kwds={"groups": owner}, use_t=True
    )
    ratio = stats.f_oneway(*lengths).statistic
    low, high = fit.conf_int(0.05)[0]
    return {
        "lengths": [[int(v) for v in group] for group in lengths],
        "low": low,
        "high": high,
        "intraclass_correlation": (ratio - 1) / (ratio + 3),
    }


def seeds(values):
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    return {"values": values, "mean": float(np.mean(values)), "low": low, "high": high}


def main():
    random = np.random.default_rng(20261201)
    long = np.clip(np.round(random.lognormal(4.6, 0.9, size=300)), 1, 512)
    near = np.clip(np.round(long * random.lognormal(0.0, 0.35, size=300)), 1, 512)
    few = np.array([3.0, 3, 3, 8, 8, 120, 512, 512, 512, 40])
    cases = [
        case("lengths", long, near),
        case("of no use", long, random.permutation(near)),
        # Most of both tie, as with buckets and caps.
        case("ties", np.round(long / 100) * 100, np.round(near / 200) * 200),
        case("few", few, np.array([5.0, 3, 5, 5, 9, 100, 512, 480, 512, 39])),
        case("in reverse", few, -few * 2.5 + 0.25),
    ]
    versions = {m.__name__: m.__version__ for m in (np, scipy, sklearn, statsmodels)}
    document = {
        "versions": versions,
        "levels": LEVELS,
        "cases": cases,
        "groups": groups(random),
        "seeds": [seeds([1.5, 2.25, 1.75]), seeds([10.0, 10.5]), seeds([3.0, 5, 8, 13, 21, 34])],
    }
    OUT.write_text(json.dumps(document, separators=(",", ":")).replace('{"name"', '\n{"name"') + "\n")


main()
