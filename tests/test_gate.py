"""The hash gate: every backend gives the committed codes, scalars, scores and order, bit for bit."""

import gate
import numpy as np
import pytest

from vqindex.backends.registry import available
from vqindex.backends.registry import make_backend as make
from vqindex.codes.codec import Codec
from vqindex.spec import IndexSpec


@pytest.fixture(params=[*available(), pytest.param("cuda", marks=pytest.mark.gpu)])
def make_backend(request):
    return lambda codec: make(codec, request.param)


@pytest.mark.parametrize("name", gate.PORTABLE)
@pytest.mark.parametrize("dim", gate.DIMS)
def test_codes_and_scalars_have_the_golden_hashes(make_backend, dim, name, golden):
    assert gate.encode_digests(make_backend, dim, name) == golden("gate.json")[f"{name} {dim}"]["encode"]


@pytest.mark.parametrize("name", gate.PORTABLE)
@pytest.mark.parametrize("dim", gate.DIMS)
def test_search_results_have_the_golden_hashes(make_backend, dim, name, golden):
    assert gate.search_digests(make_backend, dim, name) == golden("gate.json")[f"{name} {dim}"]["search"]


@pytest.mark.parametrize("name", ["prod-shared", "mse"])
@pytest.mark.parametrize("dim", gate.DIMS)
def test_search_results_with_the_sign_bound_have_the_golden_hashes(make_backend, dim, name, golden):
    """The confidence is so low that the sign bound changes results."""
    assert gate.search_digests(make_backend, dim, name, 0.6) == golden("gate-search.json")[f"{name} {dim}"]


@pytest.mark.parametrize("dim", gate.DIMS)
def test_trellis_codes_and_results_have_the_golden_hashes(make_backend, dim, golden):
    expected = golden("gate-trellis.json")[f"trellis {dim}"]
    assert gate.encode_digests(make_backend, dim, "trellis") == expected["encode"]
    assert gate.search_digests(make_backend, dim, "trellis") == expected["search"]
    assert gate.search_digests(make_backend, dim, "trellis", 0.6) == expected["bounded"]


@pytest.mark.parametrize("dim", gate.DIMS)
def test_the_corpus_holds_what_it_promises(make_backend, dim):
    x = gate.corpus(dim)
    rows = make_backend(Codec(IndexSpec(dim, 4, "ip", seed=3))).encode(x)
    assert rows.rescale[1] == rows.rescale[2] == rows.rescale[10] == 0, (
        "zero, negative zero, subnormal: the zero vector"
    )
    np.testing.assert_array_equal(rows.codes[0], rows.codes[3])
    assert not rows.codes[1].any()
    # Powers of two change the scalars alone.
    np.testing.assert_array_equal(rows.codes[7], rows.codes[8])
    np.testing.assert_array_equal(rows.codes[9], rows.codes[8])
    assert rows.rescale[7] == rows.rescale[8] * 2.0**40
    assert np.all(np.isfinite(rows.rescale))
