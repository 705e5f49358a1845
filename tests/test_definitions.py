"""The frozen definitions have the golden bytes, and each does what its text says."""

import math

import gate
import numpy as np
import pytest

from vqindex.codes import codebook, packing
from vqindex.codes.rotation import (
    Haar,
    Hadamard,
    chunk_sizes,
    counter_words,
    gaussian_matrix,
    golden_stride,
    make_rotation,
)

ALL_EDGES = (1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 384, 1000, 16384)


def splitmix(z):
    """The finalizer in plain Python integers."""
    mask = 2**64 - 1
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_counter_words_follow_the_text_and_the_golden_file(golden):
    g, mask = 0x9E3779B97F4A7C15, 2**64 - 1
    for seed, stream in ((0, 0), (3, 2), (2**64 - 1, 17)):
        key = splitmix(seed ^ splitmix((stream + g) & mask))
        expected = [splitmix((key + g * (i + 1)) & mask) for i in range(5)]
        assert counter_words(seed, stream, 5).tolist() == expected
    words = [f"{w:016x}" for w in counter_words(3, 0, 3)] + [f"{w:016x}" for w in counter_words(2**64 - 1, 17, 3)]
    assert words == golden("rotation.json")["words"]


@pytest.mark.parametrize("dim", ALL_EDGES)
def test_chunks_are_the_binary_digits_of_the_dimension(dim):
    sizes = chunk_sizes(dim)
    assert sum(sizes) == dim
    assert list(sizes) == sorted(sizes, reverse=True)
    assert all(size & (size - 1) == 0 for size in sizes)
    assert len(set(sizes)) == len(sizes)


@pytest.mark.parametrize("dim", ALL_EDGES)
def test_golden_stride_is_the_nearest_coprime(dim):
    step = golden_stride(dim)
    target = round(dim * (math.sqrt(5) - 1) / 2)
    coprime = [s for s in range(1, dim + 1) if math.gcd(s, dim) == 1]
    assert abs(step - target) == min(abs(s - target) for s in coprime)
    assert step in coprime


def textbook_rotation(x, dim, seed):
    """The definition with explicit loops, float32 scalars."""
    y = [np.float32(v) for v in x]
    for r in range(3):
        words = counter_words(seed, r, dim)
        y = [-v if int(w) >> 63 else v for v, w in zip(y, words, strict=True)]
        start = 0
        for size in chunk_sizes(dim):
            half = 1
            while half < size:
                for base in range(start, start + size, 2 * half):
                    for i in range(base, base + half):
                        y[i], y[i + half] = y[i] + y[i + half], y[i] - y[i + half]
                half *= 2
            for i in range(start, start + size):
                y[i] = y[i] * np.float32(1 / math.sqrt(size))
            start += size
        y = [y[i * golden_stride(dim) % dim] for i in range(dim)]
    return np.array(y, np.float32)


@pytest.mark.parametrize("dim", [1, 2, 3, 5, 17, 64, 100])
def test_hadamard_is_the_textbook_rotation_bit_for_bit(dim):
    x = gate.corpus(dim)[16:19]
    y = Hadamard(dim, 9).forward(np.ascontiguousarray(x.T)).T
    for row, out in zip(x, y, strict=True):
        np.testing.assert_array_equal(out, textbook_rotation(row, dim, 9))


def test_hadamard_matches_the_golden_bytes(golden):
    expected = golden("rotation.json")
    for dim in gate.DIMS:
        y = Hadamard(dim, 3).forward(np.ascontiguousarray(gate.corpus(dim)[14:].T))
        assert gate.digest(y) == expected["forward"][str(dim)], f"dim {dim}"
        assert golden_stride(dim) == expected["strides"][str(dim)]


@pytest.mark.parametrize("kind", ["hadamard", "haar"])
@pytest.mark.parametrize("dim", [1, 2, 3, 17, 100, 257])
def test_rotations_keep_lengths_and_invert(kind, dim):
    x = np.ascontiguousarray(gate.corpus(dim)[16:40].T)
    length = np.linalg.norm(x.astype(np.float64), axis=0)
    rotation = make_rotation(kind, dim, 4)
    y = rotation.forward(x.copy())
    # 3 rounds of at most 14 additions and a multiplication each: relative error under 64 roundings of 2^-24.
    tolerance = 64 * 2.0**-24 * length.max()
    np.testing.assert_allclose(np.linalg.norm(y.astype(np.float64), axis=0), length, atol=tolerance)
    np.testing.assert_allclose(rotation.inverse(y.copy()), x, atol=tolerance)


def test_the_sketch_rotation_differs_from_the_data_rotation():
    assert not np.array_equal(
        make_rotation("hadamard", 64, 1).signs, make_rotation("hadamard", 64, 1, sketch=True).signs
    )
    assert make_rotation("haar", 8, 1).fingerprint != make_rotation("haar", 8, 1, sketch=True).fingerprint


def test_fingerprints_tell_seed_dim_and_kind_apart():
    prints = {make(d, s).fingerprint for make in (Hadamard, Haar) for d in (16, 17) for s in (0, 1)}
    assert len(prints) == 8


@pytest.mark.parametrize("dim", [33, 96, 129, 384, 1536])
def test_one_hot_vectors_spread_like_gaussian_ones(dim):
    """Three rounds leave no trace of sparseness: the fourth moment of a rotated one-hot vector is Gaussian.

    For a random rotation E[sum y^4] = 3 / (d + 2). Over 8 seeds x 64 positions the mean's relative standard error is
    about sqrt(96 / d / 512) / 3 (the sum's own variance is 24 d / d^4 ...), below 4 % at d = 33: 5 of it are 20 %.
    """
    total = []
    for seed in range(8):
        columns = np.eye(dim, dtype=np.float32)[:, np.linspace(0, dim - 1, min(64, dim)).astype(int)]
        y = Hadamard(dim, seed).forward(np.ascontiguousarray(columns)).astype(np.float64)
        total.append((y**4).sum(axis=0).mean())
    assert np.mean(total) == pytest.approx(3 / (dim + 2), rel=0.2)


def test_gaussian_matrix_is_standard_normal_and_golden(golden):
    s = gaussian_matrix(300, 400, 1)
    # Standard errors for 120,000 entries: mean 0.0029, variance 0.0041, fourth moment 0.028; five of each.
    assert abs(s.mean()) < 0.0145
    assert abs(s.var() - 1) < 0.0205
    assert abs((s**4).mean() - 3) < 0.14
    # log and cos may differ in the last place between C libraries.
    np.testing.assert_allclose(gaussian_matrix(2, 4, 3), golden("rotation.json")["gaussian"], rtol=1e-8)


# ---- codebooks


@pytest.mark.parametrize("kind", [codebook.lloyd_max, codebook.embedded])
def test_codebooks_match_the_golden_file(kind, golden):
    for key, expected in golden("codebook.json").items():
        name, dim, bits = key.split()
        if name != kind.__name__:
            continue
        book = kind(int(dim), int(bits))
        assert gate.digest(book.thresholds, book.levels) == expected["digest"], key
        assert book.step.hex() == expected["step"], key


@pytest.mark.parametrize(("bits", "mse"), [(1, 0.363), (2, 0.1175), (3, 0.03454), (4, 0.009497)])
def test_lloyd_max_reaches_the_papers_distortion(bits, mse):
    """arXiv 2504.19874, Theorem 1: 0.36, 0.117, 0.03, 0.009; the digits are of the Gaussian limit (Max, 1960)."""
    book = codebook.lloyd_max(16384, bits)
    # The exact density at d = 16384 differs from the limit by O(1/d) relative; the quoted values have 3-4 digits.
    assert book.mse == pytest.approx(mse, rel=2e-3)
    assert 4.0**-bits <= book.mse <= math.sqrt(3) * math.pi / 2 * 4.0**-bits


def test_lloyd_max_reaches_the_papers_centroids():
    one, two = codebook.lloyd_max(16384, 1).values, codebook.lloyd_max(16384, 2).values
    # Levels lie on the int8 grid: half a step of it.
    np.testing.assert_allclose(one, [-0.7979, 0.7979], atol=0.004)
    np.testing.assert_allclose(two, [-1.5104, -0.4528, 0.4528, 1.5104], atol=0.007)


def density_grid(dim):
    """Points u and weights of the exact density, by the midpoint rule in the angle."""
    angle = (np.arange(2_000_000) + 0.5) / 2_000_000 * np.pi - np.pi / 2
    return np.sqrt(dim) * np.sin(angle), np.cos(angle) ** (dim - 2)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("dim", [2, 3, 10, 100, 1536])
def test_lloyd_max_is_optimal(dim, bits):
    """Thresholds are midpoints and levels are means, checked by integrating the density on a fine grid."""
    book = codebook.lloyd_max(dim, bits)
    u, weight = density_grid(dim)
    cell = np.searchsorted(book.thresholds, u)
    mass = np.bincount(cell, weight, 2**bits)
    mean = np.bincount(cell, weight * u, 2**bits) / mass
    # Cells have at least a few hundred grid points, so an edge misplaced by one point moves a mean by under 1e-4.
    np.testing.assert_allclose(book.thresholds, (mean[1:] + mean[:-1]) / 2, atol=2e-4)
    np.testing.assert_allclose(book.values, mean, atol=book.step / 2 + 2e-4)
    np.testing.assert_allclose(book.probabilities, mass / mass.sum(), atol=1e-4)
    mse = (weight * (u - mean[cell]) ** 2).sum() / weight.sum()
    assert book.mse == pytest.approx(mse, rel=1e-3)


@pytest.mark.parametrize("bits", range(2, 9))
def test_embedded_prefix_is_the_lloyd_max_code(bits):
    inner, outer = codebook.lloyd_max(384, bits - 1), codebook.embedded(384, bits)
    np.testing.assert_array_equal(outer.thresholds[1::2], inner.thresholds)
    # The thresholds between are the inner levels before their rounding to the grid.
    np.testing.assert_allclose(outer.thresholds[0::2], inner.values, atol=inner.step / 2 + 2e-6)


@pytest.mark.parametrize(("bits", "mse"), [(2, 0.1251), (4, 0.01011)])
def test_embedded_codebooks_have_the_stated_distortion(bits, mse):
    assert codebook.embedded(16384, bits).mse == pytest.approx(mse, rel=1e-3)  # quoted to 4 digits


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("kind", [codebook.lloyd_max, codebook.embedded])
def test_the_level_grid_costs_less_than_0_3_percent(kind, bits):
    book = kind(384, bits)
    assert book.levels.dtype == (np.int8 if bits <= 4 else np.int16)
    assert np.all(np.diff(book.levels.astype(int)) > 0)
    np.testing.assert_array_equal(book.levels, -book.levels[::-1])
    u, weight = density_grid(384)
    cell = np.searchsorted(book.thresholds, u)
    exact = np.bincount(cell, weight * u, 2**bits) / np.bincount(cell, weight, 2**bits)
    gridded, ideal = ((weight * (u - v[cell]) ** 2).sum() for v in (book.values.astype(float), exact))
    assert gridded < ideal * 1.003  # 0.3 % at 4 bits is what one int8 limb may cost


# ---- packing


def test_packing_matches_the_golden_file(golden):
    for bits, expected in golden("packing.json").items():
        fields = ((5 * np.arange(19) + 3) % 2 ** int(bits)).astype(np.uint8)[None]
        assert packing.pack(fields, int(bits)).tobytes().hex() == expected


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("fields", [1, 7, 8, 9, 15, 16, 17, 63, 64, 65, 100])
def test_packing_is_the_bit_stream_of_the_text(bits, fields):
    rng = np.random.default_rng(fields)
    values = rng.integers(0, 2**bits, (5, fields), dtype=np.uint8)
    packed = packing.pack(values, bits)
    assert packed.shape == (5, (fields * bits + 7) // 8)
    for row, data in zip(values, packed, strict=True):
        stream = int.from_bytes(data.tobytes(), "little")
        assert stream == sum(int(v) << (j * bits) for j, v in enumerate(row))
    np.testing.assert_array_equal(packing.unpack(packed, fields, bits), values)


def test_packing_no_rows_gives_no_bytes():
    assert packing.pack(np.zeros((0, 5), np.uint8), 3).shape == (0, 2)
    assert packing.unpack(np.zeros((0, 2), np.uint8), 5, 3).shape == (0, 5)
