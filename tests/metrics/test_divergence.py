import math

import cv2
import numpy as np
import pytest
import torch

from noiseflow.metrics.accumulate import jackknife_interval
from noiseflow.metrics.akld import AKLD, akld, local_variance
from noiseflow.metrics.conditional import ConditionalKL
from noiseflow.metrics.divergence import RECIPES, HistogramKL, histogram, histogram_kl, redraw
from noiseflow.metrics.intervals import scene_interval
from noiseflow.metrics.torchmetric import AKLDMetric, ConditionalKLMetric, HistogramKLMetric

TAILED = [-1000.0, *(-0.1 + 0.2 / 64 * k for k in range(65)), 1000.0]


def plain_kl(data, model, edges, added):
    """The definition, bin by bin, on numpy's own histogram."""
    edges = np.asarray(edges)
    h, g = np.histogram(data, edges)[0], np.histogram(model, edges)[0]
    total = 0.0
    for a, b in zip(h, g, strict=True):
        p, q = (a + added) / (data.size + added * len(h)), (b + added) / (model.size + added * len(h))
        if p > 0 and q > 0:
            total += p * math.log(p / q)
    return total


def parts(image, side):
    return [
        image[:, y : y + side, x : x + side]
        for y in range(0, image.shape[1] - side + 1, side)
        for x in range(0, image.shape[2] - side + 1, side)
    ]


def snapped(noise):
    levels = noise * 255
    return np.where(np.abs(levels - np.round(levels)) < 1e-4, np.round(levels), levels)


def plain(name, data, model, clean):
    """Each recipe of the table, written out: noise (N, C, H, W)."""
    if name == "c2n":
        return plain_kl(snapped(data), snapped(model), np.arange(-255, 257) - 0.5, 0)
    values = []
    for d, m, c in zip(data, model, clean, strict=True):
        if name == "neca":
            values.append(plain_kl(snapped(d) / 255, snapped(m) / 255, TAILED, 0))
        elif name == "naflow":
            m = np.clip(c + m, 0, 1) - c
            pairs = zip(parts(d, 256), parts(m, 256), strict=True)
            values += [plain_kl(a, b, [-1 + k / 128 for k in range(257)], 0) for a, b in pairs]
        else:
            edges, added, scale = {
                "noise-flow-train": (TAILED, 0, lambda x: x),
                "n2nf": (TAILED, 1, lambda x: x),
                "noise-flow-sample": (np.linspace(0, 1, 1001), 0, lambda x: x),
                "srgb-flow": (range(-260, 261, 4), 1, snapped),
            }[name]
            pairs = zip(parts(scale(d), 32), parts(scale(m), 32), strict=True)
            values += [plain_kl(a, b, list(edges), added) for a, b in pairs]
    return float(np.mean(values))


def pictures(kind, rng, shape):
    clean = rng.uniform(0, 1, shape)
    if kind == "continuous":
        return clean, rng.normal(0, 0.04, shape), rng.normal(0, 0.05, shape)
    if kind == "levels":  # 8-bit pictures, as differences of k/255
        clean = np.round(clean * 255) / 255
        noisy = [np.clip(np.round((clean + rng.normal(0, std, shape)) * 255), 0, 255) / 255 for std in (0.04, 0.05)]
        return clean, noisy[0] - clean, noisy[1] - clean
    return clean, np.full(shape, 0.03), rng.normal(-0.2, 0.001, shape)  # almost nothing in common


@pytest.mark.parametrize("kind", ["continuous", "levels", "apart"])
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_its_definition_written_out(name, kind):
    rng = np.random.default_rng(len(name))
    shape = (2, 3, 256, 264) if name == "naflow" else (3, 4, 64, 71)
    clean, data, model = pictures(kind, rng, shape)
    score = HistogramKL(RECIPES[name], images=len(data))
    tensors = [torch.from_numpy(x) for x in (data, model, clean)]
    for i in range(len(data)):  # one image at a time
        d, m, c = (x[i : i + 1] for x in tensors)
        score.update(d, m, i, clean=c)
    got = score.result()
    # sums of up to 1000 terms below 1 in float64
    assert got.value == pytest.approx(plain(name, data, model, clean), rel=1e-12, abs=1e-13)
    assert got.interval.value == pytest.approx(got.value, rel=1e-12, abs=1e-13)


def test_edges_are_the_published_ones():
    counts = {name: recipe.bins for name, recipe in RECIPES.items()}
    assert counts == {"noise-flow-train": 66, "n2nf": 66, "noise-flow-sample": 1000, "srgb-flow": 130, "neca": 66,
                      "naflow": 256, "c2n": 511}  # fmt: skip
    # −0.1 + k·0.2/64 and linspace differ by rounding only
    np.testing.assert_allclose(RECIPES["n2nf"].edges, TAILED, atol=1e-15)


def test_histogram_is_numpys():
    rng = np.random.default_rng(3)
    values = np.concatenate([rng.normal(0, 1, (5, 300)), np.tile([-1.0, 0.0, 0.5, 2.0], (5, 10))], 1)
    edges = [-1.0, -0.25, 0.0, 0.5, 2.0]
    got = histogram(torch.from_numpy(values), edges).numpy()
    np.testing.assert_array_equal(got, [np.histogram(row, edges)[0] for row in values])


def test_unequal_sizes_and_leading_dimensions():
    p, q = torch.tensor([[[3, 1]], [[0, 4]]]), torch.tensor([[[1, 1]], [[2, 6]]])
    got = histogram_kl(p, q, 4, torch.tensor([[2], [8]]))
    expected = [[0.75 * math.log(1.5) + 0.25 * math.log(0.5)], [math.log(4 / 3)]]
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-14)


@pytest.mark.parametrize(("n", "m"), [(4096, 4096), (4096, 1024)])
def test_two_draws_of_one_distribution_score_the_formula(n, m):
    rng = np.random.default_rng(5)
    chances = rng.uniform(1, 2, 66) / 99  # all bins well filled
    p, q = (torch.from_numpy(rng.multinomial(size, chances / chances.sum(), 2000)) for size in (n, m))
    formula = 65 / 2 * (1 / n + 1 / m)
    # the mean of 2000 has a relative standard error of √(2/65)/√2000 = 0.4 %; the rest is of order bins/n
    for added in (0, 1):
        assert histogram_kl(p, q, n, m, added=added).mean().item() == pytest.approx(formula, rel=0.1)


def test_simulated_floor_agrees_with_the_formula_and_with_fresh_draws():
    generator = torch.Generator().manual_seed(0)
    inside, values, floors = 0, [], []
    repeats, n = 100, 4 * 32 * 32
    for _ in range(repeats):
        data, model = (0.05 * torch.randn(2, 4, 4, 32, 32, generator=generator)).double()
        score = HistogramKL(RECIPES["n2nf"], images=4)
        score.update(data, model, torch.arange(4))
        result = score.result()
        values.append(result.value)
        floors.append(result.floor)
        inside += result.floor[0] <= result.value <= result.floor[1]
    # standard deviation 0.05: all 66 bins are filled, the emptiest inner one with 4096·0.0068 = 28 values
    formula = 65 / n
    assert np.mean(floors) == pytest.approx(formula, rel=0.2)
    assert np.mean(values) == pytest.approx(formula, rel=0.2)
    assert inside >= 95 - 4 * math.sqrt(100 * 0.95 * 0.05)  # binomial, 4 standard deviations


def test_redraws_have_the_size_and_the_average_of_both():
    p, q = np.array([[10, 0, 70], [5, 5, 0]]), np.array([[30, 0, 50], [5, 5, 0]])
    drawn = redraw(p, q, np.array([100, 10]), np.random.default_rng(0))
    for side in drawn:
        assert side.shape == (200, 2, 3)
        assert (side[:, 1].sum(-1) == 10).all()  # nothing lies outside
        # 20 % of 100, standard error √16/√200 = 0.28; 20 of 100 lie outside
        np.testing.assert_allclose(side[:, 0].double().mean(0), [20, 0, 60], atol=4 * 0.35)


def test_floor_narrows_with_more_units_than_are_redrawn():
    generator = torch.Generator().manual_seed(4)
    data, model = (0.05 * torch.randn(2, 1, 1, 256, 256, generator=generator)).double()
    score = HistogramKL(RECIPES["n2nf"], images=1)
    score.update(data, model)
    result = score.result()
    # 64 patches of 1024 values, KL·1024 ≈ χ² of 65 degrees: the mean of 64 has sd √130/1024/8, ±1.96 of it
    width = 2 * 1.96 * math.sqrt(130) / 1024 / 8
    assert result.units == 64
    assert result.floor[1] - result.floor[0] == pytest.approx(width, rel=0.35)  # 200 draws, smoothing shrinks it


def test_scenes_make_the_interval_and_batches_do_not_matter():
    generator = torch.Generator().manual_seed(1)
    data, model = (0.03 * torch.randn(2, 6, 4, 64, 64, generator=generator)).double()
    whole, bits = HistogramKL(RECIPES["n2nf"], 6), [HistogramKL(RECIPES["n2nf"], 6) for _ in range(2)]
    whole.update(data, model, torch.arange(6))
    for i in range(6):
        bits[i % 2].update(data[i : i + 1], model[i : i + 1], i)
    bits[0].merge(bits[1])
    scenes = ["a", "a", "b", "b", "b", "c"]
    first, second = whole.result(scenes), bits[0].result(scenes)
    assert second.value == pytest.approx(first.value, rel=1e-14) and second.floor == pytest.approx(first.floor)
    values = np.array(
        [plain("n2nf", d[None], m[None], d[None]) for d, m in zip(data.numpy(), model.numpy(), strict=True)]
    )
    oracle = scene_interval([4 * values[:2].sum(), 4 * values[2:5].sum(), 4 * values[5]], [8, 12, 4])
    assert (first.interval.low, first.interval.high) == pytest.approx((oracle.low, oracle.high), rel=1e-10)
    assert first.interval.scenes == 3


def test_pooled_interval_leaves_out_one_scene_at_a_time():
    rng = np.random.default_rng(2)
    _, data, model = pictures("levels", rng, (4, 3, 32, 32))
    score = HistogramKL(RECIPES["c2n"], 4)
    score.update(torch.from_numpy(data), torch.from_numpy(model), torch.arange(4))
    got = score.result(["x", "y", "x", "z"]).interval
    kept = [[1, 3], [0, 2, 3], [0, 1, 2]]
    oracle = jackknife_interval(got.value, [plain("c2n", data[k], model[k], data[k]) for k in kept])
    assert (got.low, got.high) == pytest.approx((oracle.low, oracle.high), rel=1e-10)


def test_jackknife_of_a_mean_is_the_t_interval():
    x = np.random.default_rng(0).normal(size=9)
    got = jackknife_interval(x.mean(), [(x.sum() - v) / 8 for v in x])
    oracle = scene_interval(x.tolist(), [1] * 9)
    assert (got.low, got.high) == pytest.approx((oracle.low, oracle.high), rel=1e-10)
    assert jackknife_interval(1.0, [1.0, 1.0]).low is None


def test_what_cannot_be_computed_says_why():
    score = HistogramKL(RECIPES["naflow"], 1)
    noise = torch.zeros(1, 3, 64, 64)
    score.update(noise, noise, clean=noise)
    result = score.result()
    assert math.isnan(result.value) and not result.indistinguishable
    assert result.interval.method == "not computed: the data hold no whole block of 256 pixels"
    with pytest.raises(ValueError, match="needs the clean"):
        score.update(noise, noise)
    with pytest.raises(ValueError, match="expected 0 to 0, got"):
        score.update(noise, noise, 1, clean=noise)
    with pytest.raises(ValueError, match="at least 5 draws"):
        AKLD(1).update(noise, [noise, noise])
    with pytest.raises(ValueError, match="expected one of noise-flow-train"):
        HistogramKLMetric("kld", 1)


def akld_map(model, data):
    """Image (C, H, W); OpenCV's blur has the same border and the same kernel."""
    v = [
        np.stack([np.maximum(cv2.GaussianBlur(c**2, (7, 7), 1.4, borderType=cv2.BORDER_REFLECT_101), 1e-10) for c in x])
        for x in (model, data)
    ]
    r = np.clip(v[0] / v[1], 0.1, 10)
    return 0.5 * (np.log(1 / r) + r - 1)


def test_akld_is_its_definition_written_out():
    rng = np.random.default_rng(0)
    data = rng.normal(0, 0.02, (2, 3, 20, 25))
    data[0, :, :10] = 0.0  # the floor and the clamp
    draws = rng.normal(0, 0.03, (5, 2, 3, 20, 25))
    score = AKLD(images=2)
    score.update(torch.from_numpy(data), (torch.from_numpy(d) for d in draws), torch.tensor([1, 0]))
    expected = np.mean([[akld_map(d[i], data[i]) for d in draws] for i in range(2)])
    assert score.result().value == pytest.approx(expected, rel=1e-12)
    got = score.result().floor
    # the floor, block by block of 16×16: one 16×16, one 16×9, one 4×16, one 4×9
    margins, centres = [], []
    for i in range(2):
        maps = [np.mean([akld_map(d[i], draws[j, i]) for k, d in enumerate(draws) if k != j], axis=0) for j in range(4)]
        centres.append(np.mean(maps))
        blocks = [[x[:, y : y + 16, z : z + 16].sum() for y in (0, 16) for z in (0, 16)] for x in maps]
        margins.append(np.var(blocks, axis=0, ddof=1).sum() / maps[0].size ** 2)
    assert np.mean(got) == pytest.approx(np.mean(centres), rel=1e-12)
    assert got[1] - got[0] == pytest.approx(2 * 1.959963984540054 * math.sqrt(1.25 * sum(margins)) / 2, rel=1e-10)


def test_akld_floor_covers_a_perfect_model_and_not_blurred_noise():
    generator = torch.Generator().manual_seed(0)
    inside = 0
    for _ in range(30):
        data, *draws = 0.02 * torch.randn(6, 4, 1, 64, 64, generator=generator)
        score = AKLD(images=4)
        score.update(data, draws, torch.arange(4))
        result = score.result()
        inside += result.floor[0] <= result.value <= result.floor[1]
    # binomial, 4 standard deviations, at 90 %: what a normal range from 64 squared differences and the model's own
    # scatter, which 5 draws leave, may lack
    assert inside >= 0.9 * 30 - 4 * math.sqrt(30 * 0.9 * 0.1)
    fuzzy = torch.from_numpy(np.stack([cv2.GaussianBlur(d[0].numpy(), (0, 0), 1.0) for d in draws[0]]))[:, None]
    fuzzy = fuzzy * (0.02 / fuzzy.std())  # the same marginal
    assert akld(local_variance(fuzzy), local_variance(data)).mean() > 1.5 * result.floor[1]


def ramp(generator, images=6, side=64):
    clean = torch.rand(images, 1, side, side, generator=generator).double()
    std = (0.012 * clean + 2e-5).sqrt()
    return clean, std, [torch.randn(clean.shape, generator=generator).double() * std for _ in range(2)]


def test_conditional_kl_of_a_perfect_model_is_zero_within_its_floor():
    generator = torch.Generator().manual_seed(0)
    values, inside = [], 0
    conditions = [("S6", 100.0), ("S6", 100.0), ("S6", 800.0), ("S6", 800.0), ("IP", 100.0), ("IP", 100.0)]
    for _ in range(40):
        clean, _, (data, model) = ramp(generator)
        score = ConditionalKL(6)
        score.update(data, model, clean, torch.arange(6))
        result = score.result(conditions).overall
        values.append(result.value)
        inside += result.floor[0] <= result.value <= result.floor[1]
    # without the term taken off it would be (B − 1)/n ≈ 31/600 in the 120 cells; 4 standard errors, and a tenth of
    # that term for its own error at some 600 values a cell
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(40) + 0.1 * 31 / 600
    assert inside >= 38 - 4 * math.sqrt(40 * 0.95 * 0.05)


def test_conditional_kl_finds_the_divergence_of_normals_and_what_pooling_hides():
    generator = torch.Generator().manual_seed(0)
    clean, _, (data, model) = ramp(generator, side=256)
    score = ConditionalKL(6)
    score.update(data, 1.1 * model, clean, torch.arange(6))
    result = score.result([("S6", 100.0)] * 3 + [("S6", 800.0)] * 3)
    truth = math.log(1.1) + (1 / 1.21 - 1) / 2  # 0.0085; 32 bins see about 95 % of it
    assert 0.85 * truth < result.overall.value < 1.05 * truth
    assert not result.overall.indistinguishable
    assert np.mean(list(result.by_condition.values())) == pytest.approx(result.overall.value, rel=1e-10)
    assert result.overall.interval.low < truth * 0.95 < result.overall.interval.high
    # the data's own noise in another order: the pooled histogram is the same, and c2n finds nothing
    order = torch.randperm(data.numel(), generator=generator)
    shuffled = data.flatten()[order].reshape(data.shape)
    pooled, conditional = HistogramKL(RECIPES["c2n"], 6), ConditionalKL(6)
    pooled.update(data, shuffled)
    conditional.update(data, shuffled, clean)
    assert pooled.result().value == 0.0
    assert conditional.result([0] * 6).overall.value > 0.05


def test_conditional_kl_is_its_definition_written_out():
    generator = torch.Generator().manual_seed(3)
    clean, _, (data, model) = ramp(generator, images=3, side=32)
    score = ConditionalKL(3)
    score.update(data, 1.2 * model, clean, torch.arange(3))
    got = score.result(["a", "a", "b"]).overall
    d, m, x = (t.numpy().reshape(3, -1) for t in (data, 1.2 * model, clean))
    total = 0.0
    for rows in ([0, 1], [2]):
        for k in range(40):
            inside = np.minimum(np.floor(np.sqrt(x[rows]) * 40), 39) == k
            bins = [
                np.clip(np.floor(np.arcsinh(v[rows][inside] / 1e-4) / 0.1) + 100, 0, 199).astype(int) for v in (d, m)
            ]
            n = inside.sum()
            if not n:
                continue
            counts = [np.bincount(b, minlength=200) for b in bins]
            share, seen, labels = max(2 * n / 32, 64), 0, []
            for h in counts[0] + counts[1]:
                labels.append(min(int((seen + h / 2) / share), max(int(2 * n // share) - 1, 0)))
                seen += h
            merged = [np.bincount(labels, h) for h in counts]
            used = merged[0] + merged[1] > 0
            p, q = ((h[used] + 0.5) / (n + used.sum() / 2) for h in merged)
            total += n * ((p * np.log(p / q)).sum() - (used.sum() - 1) / 2 * (2 / n))
    assert got.value == pytest.approx(total / d.size, rel=1e-11)


@pytest.mark.parametrize("name", ["n2nf", "neca", "c2n", "akld", "conditional"])
def test_metrics_of_two_processes_reduce_to_that_of_one(name):
    generator = torch.Generator().manual_seed(2)
    clean, _, (data, model) = ramp(generator, images=6, side=32)
    image = torch.tensor([0, 1, 2, 0, 1, 2])
    draws = [model, data.flip(0), model.flip(-1), data.flip(-1), model.flip(0)]

    def metric():
        if name == "akld":
            return AKLDMetric(3)
        return ConditionalKLMetric(["a", "a", "b"]) if name == "conditional" else HistogramKLMetric(name, 3)

    def update(target, rows):
        second = [d[rows] for d in draws] if name == "akld" else model[rows]
        third = (clean[rows],) if name == "conditional" else ()
        target.update(data[rows], second, *third, image[rows])

    one, halves = metric(), [metric(), metric()]
    update(one, slice(None))
    for half, rows in zip(halves, (slice(0, 3), slice(3, 6)), strict=True):
        update(half, rows)
    # what torchmetrics does on a sync: gather each state, then reduce it by its own function
    for state, reduction in halves[0]._reductions.items():
        gathered = torch.stack([getattr(half, state) for half in halves])
        setattr(halves[0], state, reduction(gathered))
    expected, got = one.compute(), halves[0].compute()
    for key, value in expected.items():
        assert got[key].item() == pytest.approx(value.item(), rel=1e-12, nan_ok=True), key
    one.reset()
    update(one, slice(None))
    assert one.compute()["value"] == expected["value"]
