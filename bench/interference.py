"""How well slowdown beside a neighbour is predicted, and the constants of the shipped slowdown model.

    python bench/interference.py

The measured pairs are six pairs of four networks on a V100, 125 cells each and both latencies of every cell, shares
adding up to one GPU (`interference/igniter_v100_pairs.csv`). Slowdown is the latency beside the neighbour over the
measured latency alone at the same batch and share. Every form below is fitted to a part and asked for the rest:

    cells    half of the cells of every pair held out, or all but three per pair
    pair     one pair of networks held out, both ways
    network  every pair of one network held out

Beside ours: no interference; the mean slowdown of the part seen; and the published forms of gpulet (ATC 2022: a linear
regression on both functions' use of cache and memory) and iGniter (TPDS 2022: active time grows with the neighbour's
cache use, linear in its throughput, and a constant per launch), refitted here. Their hardware counters are not in the
data, so the compute and bandwidth use that the roofline sees stand in for them; a network that iGniter's form never saw
gets its mean coefficients. Ours is fitted here with vague beliefs about the common parameters; the standard deviations
of effects come from all pairs, which is said below. Needs the measured data (DILU_DATA or ../shared/data).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from profile_tables import profile_folder

from dilu_core.interference import InterferenceModel, excess_quantile, gpu_use, stall
from dilu_core.interference_samples import InterferenceSamples, read_interference
from dilu_core.latency_fit import LatencyFit
from dilu_core.performance import RooflineModel
from dilu_core.profile_files import read_profiles
from dilu_core.solvers.fitting import fit_latency
from dilu_core.solvers.interference_fit import InterferencePrior, fit_interference, measured_slowdown

QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99)
VAGUE = InterferencePrior(log_scale_sd=2.0, log_stall_weight_sd=2.0, log_use_weight_sd=2.0)
SEEDS = 3

Fits = Mapping[str, LatencyFit]
Column = NDArray[np.float64]
Predict = Callable[[InterferenceSamples], Column]
Split = NDArray[np.bool_]  # the rows that a form may see


@dataclass(frozen=True)
class Scores:
    """Held-out cells of one regime: measured and predicted slowdown, log error over spread, and who was held out."""

    measured: Column
    predicted: dict[str, Column]
    z: Column
    spread: Column
    ours: Column
    group: NDArray[np.str_]
    alone_error: Column


def main() -> None:
    """Print the data's spread, the constants, held-out errors, and what the bound covers."""
    folder = profile_folder()
    fits = {name: fit_latency(samples) for name, samples in read_profiles(folder / "igniter_v100.csv").items()}
    rows = read_interference(folder.parent / "interference" / "igniter_v100_pairs.csv").directed()
    slowdown = measured_slowdown(rows, fits)
    print(f"{len(rows)} latencies, {int(np.isnan(slowdown).sum())} without a stand-alone measurement of their cell")
    levels = np.quantile(slowdown, [0.0, 0.05, 0.5, 0.95, 1.0])
    print("slowdown: least {:.3f}, p5 {:.3f}, median {:.3f}, p95 {:.3f}, most {:.3f}".format(*levels))
    print(f"          mean {slowdown.mean():.3f}\n")
    print_constants(rows, fits)

    regimes = {name: held_out(rows, fits, slowdown, splits) for name, splits in regimes_of(rows).items()}
    for name, scores in regimes.items():
        print(f"held out: {name}, {len(scores.measured)} predictions")
        for form, predicted in scores.predicted.items():
            error = predicted - scores.measured
            latency = np.abs(predicted / scores.measured - 1.0)
            print(
                f"    {form:34s} slowdown mean abs {np.abs(error).mean():.4f}   rms {math.sqrt((error**2).mean()):.4f}"
                f"   bias {error.mean():+.4f}   latency mean abs {latency.mean():6.2%}"
            )
        both = np.abs(scores.predicted["ours"] / scores.measured * scores.alone_error - 1.0)
        none = np.abs(1.0 / scores.measured * scores.alone_error - 1.0)
        print(
            f"    latency with the stand-alone fit's own error: ours {both.mean():.2%}, no interference"
            f" {none.mean():.2%}\n"
        )
    print_calibration(regimes)


def regimes_of(rows: InterferenceSamples) -> dict[str, list[Split]]:
    """What each regime lets a form see."""
    names = [f"{min(a, b)}+{max(a, b)}" for a, b in zip(rows.function, rows.co_function, strict=True)]
    pair = np.array(names)
    half, three = [], []
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        half.append(np.concatenate([rng.random(len(rows) // 2) < 0.5] * 2))
        seen = np.zeros(len(rows) // 2, dtype=bool)
        for each in np.unique(pair):
            seen[rng.permutation(np.flatnonzero(pair[: len(seen)] == each))[:3]] = True
        three.append(np.concatenate([seen, seen]))
    networks = sorted(set(rows.function))
    involved = {
        name: np.array([name in (a, b) for a, b in zip(rows.function, rows.co_function, strict=True)])
        for name in networks
    }
    return {
        "half of the cells of every pair": half,
        "all but three cells of every pair": three,
        "a pair": [pair != each for each in np.unique(pair)],
        "a network": [~involved[name] for name in networks],
    }


def held_out(rows: InterferenceSamples, fits: Fits, slowdown: Column, splits: Iterable[Split]) -> Scores:
    """Predictions of every form for what each split holds out."""
    parts = []
    for seen in splits:
        train, test = rows.select(seen), rows.select(~seen)
        predicted = {name: form(train, fits)(test) for name, form in FORMS.items()}
        model = fit_interference(train, fits, prior=VAGUE).model
        spread = np.array([spread_of(model, a, b) for a, b in pairs_of(test)])
        measured = slowdown[~seen]
        z = np.log(np.maximum(measured - 1.0, 1e-4) / (predicted["ours"] - 1.0)) / spread
        alone = [
            float(fits[f].latency_ms(b, s)) for f, b, s in zip(test.function, test.batch, test.sm_milli, strict=True)
        ]
        of_group = np.array(["+".join(sorted(pair)) for pair in pairs_of(test)])
        parts.append((measured, predicted, z, spread, of_group, np.array(alone) / (test.latency_ms / measured)))
    return Scores(
        np.concatenate([part[0] for part in parts]),
        {name: np.concatenate([part[1][name] for part in parts]) for name in FORMS},
        np.concatenate([part[2] for part in parts]),
        np.concatenate([part[3] for part in parts]),
        np.concatenate([part[1]["ours"] for part in parts]),
        np.concatenate([part[4] for part in parts]),
        np.concatenate([part[5] for part in parts]),
    )


def spread_of(model: InterferenceModel, function: str, neighbour: str) -> float:
    names = [*model.functions, ""]
    a, b = (names.index(name if name in names else "") for name in (function, neighbour))
    return model.spread[a][b]


def pairs_of(rows: InterferenceSamples) -> list[tuple[str, str]]:
    return list(zip(rows.function, rows.co_function, strict=True))


def no_interference(train: InterferenceSamples, fits: Fits) -> Predict:
    return lambda rows: np.ones(len(rows))


def mean_slowdown(train: InterferenceSamples, fits: Fits) -> Predict:
    mean = float(measured_slowdown(train, fits).mean())
    return lambda rows: np.full(len(rows), mean)


def gpulet(train: InterferenceSamples, fits: Fits) -> Predict:
    """slowdown = c1 cache_A + c2 cache_B + c3 memory_A + c4 memory_B + c5, by least squares."""

    def features(rows: InterferenceSamples) -> Column:
        columns = []
        for names, batches, shares in sides(rows):
            columns += [per_row(use, fits, names, batches, shares) for use in (compute_use, bandwidth_use)]
        return np.stack([*columns, np.ones(len(rows))], axis=1)

    weights = np.linalg.lstsq(features(train), measured_slowdown(train, fits), rcond=None)[0]
    return lambda rows: np.asarray(features(rows) @ weights)


def igniter(train: InterferenceSamples, fits: Fits) -> Predict:
    """slowdown = 1 + k_A c_B + n_A / t_A, cache use c_B = p_B + q_B b_B / t_B, by alternating least squares.

    A ridge draws coefficients to their mean over the networks, and gives that to those never seen. Its strength, 1, is
    the one of 1e-3 .. 1 with the least error where a pair or a network is held out.
    """
    names = list(fits)

    def parts(rows: InterferenceSamples) -> tuple[NDArray[np.int64], NDArray[np.int64], Column, Column]:
        (a, batch_a, share_a), (b, batch_b, share_b) = sides(rows)
        alone = per_row(lambda m, n, s: m.latency_ms(n, s), fits, a, batch_a, share_a)
        relative = per_row(throughput, fits, b, batch_b, share_b)
        return np.array([names.index(x) for x in a]), np.array([names.index(x) for x in b]), alone, relative

    a, b, alone, ability = parts(train)
    target = measured_slowdown(train, fits) - 1.0
    one, n = np.eye(len(names)), len(names)
    launch = np.array([fits[name].roofline.launch_ms for name in names])
    sensitivity, cache = np.ones(n), np.tile([0.05, 0.05], (n, 1))
    delay = np.zeros(n)

    def ridge(columns: Column, values: Column, centre: Column) -> Column:
        normal = columns.T @ columns + len(values) / columns.shape[1] * np.eye(columns.shape[1])
        return np.asarray(centre + np.linalg.solve(normal, columns.T @ (values - columns @ centre)))

    for _ in range(30):
        seen_a, seen_b = np.unique(a), np.unique(b)
        centre = np.concatenate([np.full(n, sensitivity[seen_a].mean()), np.full(n, delay[seen_a].mean())])
        pressed = cache[b, 0] + cache[b, 1] * ability
        found = ridge(np.hstack([one[a] * pressed[:, None], one[a] * (launch[a] / alone)[:, None]]), target, centre)
        sensitivity, delay = found[:n], found[n:]
        centre = np.tile(cache[seen_b].mean(axis=0), n)
        columns = (one[b][:, :, None] * np.stack([np.ones_like(ability), ability], axis=1)[:, None, :]).reshape(
            len(b), -1
        )
        left = target - delay[a] * launch[a] / alone
        cache = ridge(columns * sensitivity[a][:, None], left, centre).reshape(n, 2)

    def predict(rows: InterferenceSamples) -> Column:
        a, b, alone, ability = parts(rows)
        pressed = cache[b, 0] + cache[b, 1] * ability
        return np.asarray(1.0 + sensitivity[a] * pressed + delay[a] * launch[a] / alone)

    return predict


def ours(train: InterferenceSamples, fits: Fits) -> Predict:
    return lambda rows: predicted_slowdown(fit_interference(train, fits, prior=VAGUE).model, rows, fits)


def shipped(train: InterferenceSamples, fits: Fits) -> Predict:
    """The model in the package, which has seen all of the data: no held-out figure."""
    return lambda rows: predicted_slowdown(InterferenceModel.default(), rows, fits)


def predicted_slowdown(model: InterferenceModel, rows: InterferenceSamples, fits: Fits) -> Column:
    (a, batch_a, share_a), (b, batch_b, share_b) = sides(rows)
    waits, use = per_row(stall, fits, a, batch_a, share_a), per_row(gpu_use, fits, b, batch_b, share_b)
    found = [1.0 + float(model.excess(x, s, y, p)) for x, s, y, p in zip(a, waits, b, use, strict=True)]
    return np.array(found)


FORMS: dict[str, Callable[[InterferenceSamples, Fits], Predict]] = {
    "no interference": no_interference,
    "mean slowdown": mean_slowdown,
    "gpulet's form": gpulet,
    "iGniter's form": igniter,
    "ours": ours,
    "(shipped constants, saw all)": shipped,
}


def sides(rows: InterferenceSamples) -> tuple[tuple[tuple[str, ...], Column, Column], ...]:
    return (rows.function, rows.batch, rows.sm_milli), (rows.co_function, rows.co_batch, rows.co_sm_milli)


def per_row(of: Callable[..., Column], fits: Fits, names: tuple[str, ...], batch: Column, share: Column) -> Column:
    values = np.empty(len(names))
    for name in set(names):
        chosen = np.array(names) == name
        values[chosen] = of(fits[name].roofline, batch[chosen], share[chosen])
    return values


def throughput(model: RooflineModel, batch: Column, share: Column) -> Column:
    """Samples per second, in units of what batches of 32 reach on a whole GPU."""
    return (batch / model.latency_ms(batch, share)) / (32.0 / model.latency_ms(32, 1000))


def compute_use(model: RooflineModel, batch: Column, share: Column) -> Column:
    """SM time in use, as a part of a GPU."""
    return (model.fixed_ms + model.compute_ms * batch) / model.latency_ms(batch, share)


def bandwidth_use(model: RooflineModel, batch: Column, share: Column) -> Column:
    """Memory time in use, as the roofline sees it."""
    return model.bandwidth_ms * batch / model.latency_ms(batch, share)


def print_constants(rows: InterferenceSamples, fits: Fits) -> None:
    """Standard deviations of the effects by restricted maximum likelihood, then the pooled fit under them."""
    free = replace(VAGUE, function_sd=2.0, pair_sd=2.0)
    model = fit_interference(rows, fits, prior=free).model
    names, count = model.functions, len(model.functions)
    cells = [(i, j) for i, j in itertools.product(range(count), repeat=2) if i != j]
    strength = np.array([model.log_scale[i][j] for i, j in cells])
    by_a = np.array([[float(i == k) for k in range(count)] for i, _ in cells])
    by_b = np.array([[float(j == k) for k in range(count)] for _, j in cells])
    scored = []
    for of_function, of_pair in itertools.product(np.arange(0.0, 0.81, 0.02), np.arange(0.02, 0.81, 0.02)):
        covariance = of_function**2 * (by_a @ by_a.T + by_b @ by_b.T) + of_pair**2 * np.eye(len(cells))
        inverse = np.linalg.inv(covariance)
        ones = np.ones(len(cells))
        information = ones @ inverse @ ones
        centred = strength - (ones @ inverse @ strength) / information
        likelihood = -0.5 * (np.linalg.slogdet(covariance)[1] + math.log(information) + centred @ inverse @ centred)
        scored.append((likelihood, of_function, of_pair))
    best = max(scored)
    print(
        "log strength of the pairs: "
        + ", ".join(f"{names[i]}|{names[j]} {s:.2f}" for (i, j), s in zip(cells, strength, strict=True))
    )
    print(f"restricted maximum likelihood: function_sd {best[1]:.2f}, pair_sd {best[2]:.2f}")
    fit = fit_interference(rows, fits, prior=VAGUE)
    waits, use = fit.model.stall_weight, fit.model.use_weight
    residual = np.log(np.maximum(fit.slowdown - 1.0, 1e-4) / (fit.slowdown / np.exp(fit.residuals) - 1.0))
    print(
        f"noise of log slowdown {fit.residuals.std():.4f}; residual of log excess, robust {mad(residual):.3f}, "
        f"standard deviation {residual.std():.3f}"
    )
    other = fit.model.log_scale[-1][-1], fit.model.spread[-1][-1]
    print(
        f"_LOG_SCALE = {other[0]:.2f}\n_SPREAD = {other[1]:.2f}\n_STALL_WEIGHT = {waits:.2f}\n_USE_WEIGHT = {use:.2f}"
    )
    print(f"logs of the last two: {math.log(waits):.2f}, {math.log(use):.2f}\n")


def mad(values: Column) -> float:
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def print_calibration(regimes: Mapping[str, Scores]) -> None:
    """Quantiles of log error over spread, every regime and pair weighing the same; then what the bound covers."""
    print(f"_QUANTILES = {QUANTILES}\n_LEVELS = {tuple(round(level(regimes, q), 2) for q in QUANTILES)}\n")
    for name, scores in regimes.items():
        figures = []
        for q in (0.9, 0.95):
            upper = 1.0 + (scores.ours - 1.0) * np.exp(excess_quantile(q) * scores.spread)
            out = [level(regimes, q, without=str(each)) for each in scores.group]
            crossed = 1.0 + (scores.ours - 1.0) * np.exp(np.array(out) * scores.spread)
            least = min(float((scores.measured <= upper)[scores.group == g].mean()) for g in np.unique(scores.group))
            figures.append(
                f"{q:.2f}: covers {(scores.measured <= upper).mean():.3f} (pair left out of the calibration "
                f"{(scores.measured <= crossed).mean():.3f}, worst pair {least:.2f}), mean bound {upper.mean():.3f}"
            )
        print(f"held out: {name}\n    " + "\n    ".join(figures))
        ordinary = np.quantile(scores.measured, 0.95)
        print(f"    the measured p95 slowdown, for comparison: {ordinary:.3f}")


_CACHE: dict[tuple[int, float, str], float] = {}


def level(regimes: Mapping[str, Scores], quantile: float, *, without: str = "") -> float:
    """The pooled quantile of log error over spread, leaving one pair out."""
    key = (id(regimes), quantile, without)
    if key not in _CACHE:
        values, weights = [], []
        for scores in regimes.values():
            for group in np.unique(scores.group):
                if group != without:
                    mine = scores.z[scores.group == group]
                    values.append(mine)
                    weights.append(np.full(len(mine), 1.0 / len(mine)))
        z, w = np.concatenate(values), np.concatenate(weights)
        order = np.argsort(z)
        reached = np.cumsum(w[order]) / w.sum()
        _CACHE[key] = float(z[order][min(len(z) - 1, int(np.searchsorted(reached, quantile)))])
    return _CACHE[key]


if __name__ == "__main__":
    main()
