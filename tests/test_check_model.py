"""Canaries: which vectors are taken for those of another model."""

import json

import cli_tools
import numpy as np
import pytest

import vqindex
from vqindex import InvalidInputError, UnknownIdError, VQIndex

run, folder = map(pytest.fixture, (cli_tools.run, cli_tools.folder))

DIM, N = 100, 400
RNG = np.random.default_rng(1)
X = (RNG.standard_normal((30, DIM))[RNG.integers(30, size=N)] + RNG.standard_normal((N, DIM)) + 0.3).astype(np.float32)
SPECS = [("cosine", None), ("cosine", "mean"), ("ip", None), ("l2", None), ("l2", "mean")]
CODES = {
    "prod-1": {"bits": 1},
    "trellis-2": {"bits": 2, "codec": "trellis"},
    "mse-4": {"bits": 4, "codec": "turboquant-mse"},
    "gaussian-4": {"bits": 4, "sketch": "gaussian"},
    "int8": {"bits": 2, "keep_vectors": "int8"},
}


def made(metric="cosine", center=None, bits=2, seed=0, x=X, ids=None, **how):
    index = VQIndex(x.shape[1], bits, metric, center=center, seed=seed, **how)
    index.add(x, ids)
    index.set_canaries()
    return index


def at_cosine(x, cosine, seed=0):
    """Return vectors of the same lengths with a cosine to some vectors."""
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    unit, other = x / lengths, np.random.default_rng(seed).standard_normal(x.shape)
    other -= (other * unit).sum(axis=1, keepdims=True) * unit
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    return (lengths * (cosine * unit + (1 - cosine**2) ** 0.5 * other)).astype(np.float32)


@pytest.mark.filterwarnings("ignore::vqindex.SlowCodecWarning")
@pytest.mark.parametrize(("metric", "center"), SPECS)
@pytest.mark.parametrize("code", CODES)
def test_noise_of_the_same_model_passes_and_other_models_do_not(code, metric, center):
    for seed in range(3):
        index, rng = made(metric, center, seed=seed, **CODES[code]), np.random.default_rng(seed)
        x = X[index.canaries().ids]
        assert index.check_model(x)
        assert index.check_model(x.astype(np.float16))
        assert index.check_model(x + 1e-3 * np.abs(x) * rng.standard_normal(x.shape))
        assert not index.check_model(at_cosine(x, 0.9, seed))
        assert not index.check_model(x[:, ::-1])
        assert not index.check_model(np.roll(x, 1, axis=0))


def test_false_alarms_at_the_edge_are_as_rare_as_asked():
    alarms = 0
    for seed in range(60):
        index = made(bits=1, seed=seed)
        alarms += not index.check_model(at_cosine(X[index.canaries().ids], 0.99, seed), false_alarm=0.2)
    # 12 are expected of 60 at most; 22 or more have a probability below 0.2 %, and the rotations are fixed.
    assert 1 <= alarms < 22


def test_what_is_called_detectable_is_noticed():
    noticed = 0
    for seed in range(40):
        index = made(bits=1, seed=seed)
        x = X[index.canaries().ids]
        limit = index.check_model(x).detectable
        assert 0.95 < limit < 0.99
        noticed += not index.check_model(at_cosine(x, limit, seed))
    assert noticed >= 38  # 39.6 are expected


def test_more_canaries_notice_smaller_changes():
    limits = []
    for count in (1, 4, 16, 64):
        index = made(bits=1)
        index.set_canaries(np.arange(count))
        limits.append(index.check_model(X[:count]).detectable)
    assert limits == sorted(limits)
    assert limits[-1] - limits[0] > 0.02


def test_a_few_wrong_vectors_are_named():
    index = made()
    x = X[index.canaries().ids].copy()
    x[[3, 7]] = x[[7, 3]]
    check = index.check_model(x)
    assert not check
    assert "2 of 32" in check.reason
    for at in (3, 7):
        assert str(check.ids[at]) in check.reason


def test_lengths_are_reported_and_do_not_count():
    index = made("ip")
    check = index.check_model(5 * X[index.canaries().ids])
    assert check
    assert check.scale == pytest.approx(5, rel=1e-3)
    assert "5 times as long" in check.reason


def test_removed_and_replaced_canaries_are_left_out():
    index = made(ids=[f"v{i}" for i in range(N)])
    index.set_canaries([f"v{i}" for i in range(8)], [f"text {i}" for i in range(8)], model="m")
    index.remove(["v1"])
    index.upsert(["v2", "v3"], np.stack([X[300], X[3]]))  # v3 as it was
    check = index.check_model(lambda texts: X[[int(text.split()[1]) for text in texts]])
    assert check
    assert check.ids.tolist() == ["v0", "v3", "v4", "v5", "v6", "v7"]
    index.remove([f"v{i}" for i in range(8)])
    with pytest.raises(InvalidInputError, match="all 8 canaries were removed"):
        index.check_model(X[:8])


def test_canaries_survive_files_copies_merges_and_stores(tmp_path):
    index = made()
    index.remove(np.arange(100, 300))
    index.set_canaries([5, 350], ["five", "more"], model="m")
    want = index.check_model(X[[5, 350]])
    index.compact()
    index.merge(made(x=X[:50]))
    index.save(tmp_path / "a.vqi")
    with vqindex.open(tmp_path / "s", "a", dim=DIM, bits=2, metric="cosine") as store:
        store.add(X)
        store.commit()
        store.set_canaries([5, 350], ["five", "more"], model="m")
    for other in (index, VQIndex.load(tmp_path / "a.vqi", mmap=True), vqindex.open(tmp_path / "s")):
        assert other.canaries().texts == ["five", "more"]
        found = other.check_model(X[[5, 350]])
        assert found.reason == want.reason
        np.testing.assert_array_equal(found.cosines, want.cosines)
    with pytest.raises(vqindex.StoreError, match="open for reading"):
        vqindex.open(tmp_path / "s").set_canaries([1])


def test_wrong_arguments_are_refused_and_change_nothing():
    index = made(x=np.concatenate([X, np.zeros((1, DIM), np.float32)]))
    before = dict(index.meta)
    for args, kind, words in [
        (([1, 1],), InvalidInputError, "id 1 is given twice"),
        (([N],), InvalidInputError, "is zero"),
        (([9999],), UnknownIdError, "9999"),
        (([1], ["a", "b"]), InvalidInputError, "2 texts for 1 ids"),
        (([1], [5]), InvalidInputError, r"texts\[0\] is 5"),
        ((None, ["a"]), InvalidInputError, "without ids"),
    ]:
        with pytest.raises(kind, match=words):
            index.set_canaries(*args)
        assert index.meta == before
    x = X[index.canaries().ids]
    for args, how, words in [
        ((x[:5],), {}, "5 vectors for 32 canaries"),
        ((x[:, :7],), {}, "7"),
        ((x,), {"tolerance": 0}, "tolerance is 0"),
        ((x,), {"false_alarm": 1}, "false_alarm is 1"),
        ((len,), {}, "no texts"),
    ]:
        with pytest.raises(InvalidInputError, match=words):
            index.check_model(*args, **how)
    index.set_canaries([])
    assert index.canaries() is None
    with pytest.raises(InvalidInputError, match="no canaries"):
        index.check_model(x)
    index.meta["canaries"] = 5
    with pytest.raises(InvalidInputError, match=r"meta\['canaries'\] is 5"):
        index.canaries()


def test_the_command_exits_with_1_for_another_model(run, folder):
    index = made()
    index.save("a.vqi")
    x = X[index.canaries().ids]
    np.save("same.npy", x)
    np.save("other.npy", x[:, ::-1].copy())
    np.save("few.npy", x[:3])
    code, out, _ = run("check-model", "a.vqi", "same.npy", "--json")
    assert code == 0
    assert json.loads(out)["same"] is True
    code, out, _ = run("check-model", "a.vqi", "other.npy")
    assert code == 1
    assert "not those of the model" in out
    code, _, err = run("check-model", "a.vqi", "few.npy")
    assert code == 1
    assert "3 vectors for 32 canaries" in err
