"""The compiled walks over a graph: every instruction set gives the results of the definition (codes/graph.py)."""

import numpy as np
import pytest
from graphs import blocks_of, graph_scanner, narrow_rows, record_layout
from scans import backends, make_rows

from vqindex._native import supported_isas
from vqindex.codes.graph import (
    BATCH,
    NO_ROW,
    LinkRule,
    WalkLimit,
    entry_rows,
    link_batch,
    navigation_query,
    navigation_scores,
    relink,
    walk,
)
from vqindex.codes.records import pack_records
from vqindex.rows.graph import pack_links, unpack_links
from vqindex.spec import METRICS, IndexSpec

CODES = [*(("turboquant-prod", bits) for bits in range(1, 9)), *(("trellis", bits) for bits in range(1, 5))]
every_code = pytest.mark.parametrize(("codec", "bits"), CODES)


def some_links(rows, slots, seed, least=0):
    """Return links to near rows and to random ones, in any order, and with free slots."""
    rng = np.random.default_rng(seed)
    n = len(rows)
    links = np.full((n, slots), NO_ROW, np.uint32)
    near = np.argsort(-(rows @ rows.T), axis=1)[:, 1 : slots // 2 + 1]
    for row in range(n):
        both = np.setdiff1d(np.append(near[row], rng.integers(0, n, slots // 2)), row)
        chosen = rng.permutation(both)[: rng.integers(least, slots + 1)]
        links[row, : chosen.size] = chosen
    return links


class Case:
    """Rows of one spec with links, and what the definition finds."""

    def __init__(self, spec, n, *, slots=8, seed=1, kind="plain", queries=5, linked=None, many=False):
        self.spec, self.n, self.slots = spec, n, slots
        self.reference, self.compiled = backends(spec)
        plain = make_rows(kind, n, spec.dim, seed)
        self.rows = self.reference.encode(plain)
        self.queries = self.reference.prepare(make_rows(kind, queries, spec.dim, seed + 1))
        self.narrow = narrow_rows(self.reference, self.rows)
        self.records = pack_records(spec, self.rows)
        self.linked = n if linked is None else linked
        self.entries = entry_rows(self.linked, many=many)
        self.links = some_links(make_rows("plain", self.linked, min(spec.dim, 8), seed + 2), slots, seed)

    def expected(self, k, effort, *, bits=None, budget=0, need=0, hidden=None):
        """Return scores, rows, counts and which walks gave up, by the definition."""
        nq, ascending = self.queries.count, self.spec.metric == "l2"
        narrow = navigation_query(self.queries.code_query)
        scores = np.full((nq, k), np.inf if ascending else -np.inf, np.float32)
        rows, counts, gave_up = np.full((nq, k), -1, np.int64), np.empty(nq, np.int64), np.empty(nq, np.bool_)
        exact = self.reference.scores(self.queries, self.rows)
        for q in range(nq):

            def score(at, q=q):
                scale = self.queries.code_scale[q]
                return navigation_scores(self.narrow, at, narrow[q], scale, distance=ascending)

            selected = None if bits is None else bits[q if len(bits) > 1 else 0]
            out = -1 if hidden is None else int(hidden[q])
            found = walk(
                score,
                self.links,
                effort,
                entries=self.entries,
                rows=self.n,
                selected=selected,
                limit=WalkLimit(budget, need),
                hidden=out,
            )
            own = exact[q, found.rows]
            best = np.lexsort((found.rows, own if ascending else -own))[:k]
            scores[q, : best.size], rows[q, : best.size] = own[best], found.rows[best]
            counts[q], gave_up[q] = found.scored, found.gave_up
        return scores, rows, counts, gave_up

    def found(
        self, isa, k, effort, *, width=4, cuts=(), threads=1, words=None, budget=0, need=0, links=None, hidden=None
    ):
        """Return what the compiled walk finds."""
        queries = self.queries
        packed = pack_links(self.links if links is None else links, width)
        args = blocks_of(self.records, cuts), record_layout(self.spec), packed, self.slots, self.entries
        prepared = queries.code_query, queries.code_scale, queries.norm
        scanner = graph_scanner(self.compiled[isa])
        return scanner.walk(*args, *prepared, k, effort, budget, need, threads, words, hidden)


def assert_equal(got, want):
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


def packed_bits(bits):
    """Return selections, bool (m, n), as words."""
    width = -(-bits.shape[1] // 64) * 64
    padded = np.zeros((len(bits), width), np.bool_)
    padded[:, : bits.shape[1]] = bits
    return np.packbits(padded, axis=1, bitorder="little").view(np.uint64)


@every_code
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [1, 20, 100, 200])
def test_walks_find_what_the_definition_finds(codec, bits, metric, dim):
    case = Case(IndexSpec(dim, bits, metric, codec), 200, queries=4)
    for effort in (1, 7, 40):
        want = case.expected(10, effort)
        for isa in case.compiled:
            assert_equal(case.found(isa, 10, effort), want)


@pytest.mark.parametrize("codec", ["turboquant-prod", "trellis"])
def test_blocks_threads_and_link_widths_do_not_change_what_is_found(codec):
    isa = supported_isas()[-1]
    case = Case(IndexSpec(48, 4, "ip", codec), 64 * 9 + 17, queries=11)
    want = case.expected(12, 30)
    for width in (3, 4):
        for cuts in ((), (1,), (2, 3, 4), tuple(range(1, 10)), (8,)):
            assert_equal(case.found(isa, 12, 30, width=width, cuts=cuts), want)
        for threads in (2, 3, 8):
            assert_equal(case.found(isa, 12, 30, width=width, threads=threads), want)


@pytest.mark.parametrize("kind", ["ties", "zeros", "mixed"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_equal_rows_zero_rows_and_any_scale_are_found_alike(kind, metric, bits):
    case = Case(IndexSpec(32, bits, metric), 400, kind=kind)
    want = case.expected(20, 25)
    for isa in case.compiled:
        assert_equal(case.found(isa, 20, 25), want)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_walks_pass_rows_that_are_not_selected_and_do_not_return_them(metric):
    isa = supported_isas()[-1]
    case = Case(IndexSpec(40, 4, metric), 500)
    rng = np.random.default_rng(7)
    for share in (0.0, 0.02, 0.3, 1.0):
        for lines in (1, case.queries.count):
            bits = rng.random((lines, case.n)) < share
            words = packed_bits(bits)
            want = case.expected(15, 20, bits=bits)
            assert_equal(case.found(isa, 15, 20, words=words), want)
            assert_equal(case.found(isa, 15, 20, words=words, threads=3), want)
            assert bits[np.arange(len(want[1]))[:, None] % lines, want[1]][want[1] >= 0].all()


def test_a_budget_ends_walks_once_so_many_rows_are_scored():
    case = Case(IndexSpec(40, 4, "ip"), 600, slots=16)
    bits = np.random.default_rng(3).random((1, case.n)) < 0.3
    isa = next(iter(case.compiled))
    free = case.expected(10, 50)[2]
    for budget in (1, 50, 120, 10**6):
        want = case.expected(10, 50, budget=budget)
        assert_equal(case.found(isa, 10, 50, budget=budget), want)
        assert (want[2] < free).all() == (budget < 200)
        assert (want[3] == (want[2] < free)).all()
        assert_equal(
            case.found(isa, 10, 50, budget=budget, words=packed_bits(bits)),
            case.expected(10, 50, budget=budget, bits=bits),
        )


def test_walks_that_meet_too_few_selected_rows_give_up_early():
    case = Case(IndexSpec(40, 4, "l2"), 900, slots=16, queries=12, linked=880)
    isa = next(iter(case.compiled))
    away = case.reference.scores(case.queries, case.rows)  # distances
    gave_up = set()
    for share, need in ((0.5, 100), (0.5, 300), (0.2, 60), (0.8, 0)):
        bits = away >= np.quantile(away, 1 - share, axis=1, keepdims=True)  # rows far from each query
        for budget in (150, 400):
            want = case.expected(10, 30, bits=bits, budget=budget, need=need)
            assert_equal(case.found(isa, 10, 30, words=packed_bits(bits), budget=budget, need=need), want)
            early = want[3] & (want[2] < budget)
            assert not early.any() or need
            gave_up.add(bool(early.any()))
    assert gave_up == {True, False}


@pytest.mark.parametrize("linked", [0, 1, 300, 499])
@pytest.mark.parametrize("effort", [3, 400])
def test_rows_after_the_linked_ones_are_found(linked, effort):
    case = Case(IndexSpec(24, 4, "ip"), 500, linked=linked)
    bits = np.random.default_rng(3).random((5, 500)) < 0.4
    for isa in case.compiled:
        assert_equal(case.found(isa, 400, effort), case.expected(400, effort))
        found = case.found(isa, 400, effort, words=packed_bits(bits))
        assert_equal(found, case.expected(400, effort, bits=bits))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("codec", "bits"), [("turboquant-prod", 4), ("turboquant-mse", 8), ("trellis", 2)])
def test_walks_from_many_entries_find_what_the_definition_finds(codec, bits, metric):
    case = Case(IndexSpec(20, bits, metric, codec), 4400, kind="ties", linked=4300, many=True)
    assert case.entries.size > 128
    hidden = np.array([-1, *case.entries[[0, 7, -1]], 4399])
    selected = np.random.default_rng(3).random((1, case.n)) < 0.3
    want, filtered = case.expected(10, 20, hidden=hidden), case.expected(10, 20, bits=selected)
    for isa in case.compiled:
        assert_equal(case.found(isa, 10, 20, hidden=hidden, cuts=(1, 5)), want)
        assert_equal(case.found(isa, 10, 20, words=packed_bits(selected)), filtered)


def test_a_hidden_row_is_left_out():
    case = Case(IndexSpec(24, 4, "l2"), 500, linked=300)
    first = case.expected(1, 50)[1][:, 0]
    for hidden in (first, np.array([-1, 0, 299, 300, 499]), entry_rows(300)[:5]):
        want = case.expected(20, 50, hidden=hidden)
        assert not (want[1] == hidden[:, None])[hidden >= 0].any()
        for isa in case.compiled:
            for threads in (1, 3):
                assert_equal(case.found(isa, 20, 50, hidden=hidden, threads=threads), want)
    with pytest.raises(ValueError, match="hidden rows"):
        case.found(isa, 20, 50, hidden=np.full(5, 500))
    with pytest.raises(ValueError, match="hidden row for each"):
        case.found(isa, 20, 50, hidden=np.zeros(4, np.int64))


def test_walks_of_graphs_with_many_rows_find_what_the_definition_finds():
    """Above 2**20 rows, walks note the rows they visit in another way."""
    case = Case(IndexSpec(3, 2, "cosine"), 2**20 + 1, queries=3, linked=1)
    case.linked = case.n
    first = np.random.default_rng(1).integers(0, case.n, (case.n, 1))
    case.links = ((first + 170_000 * np.arange(6)) % case.n).astype(np.uint32)
    case.slots = 6
    for effort in (5, 3000):
        want = case.expected(10, effort)
        for isa in case.compiled:
            for width in (3, 4):
                assert_equal(case.found(isa, 10, effort, width=width), want)
    assert want[2].max() > 2**13


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_graphs_of_a_few_rows_are_walked(n):
    case = Case(IndexSpec(16, 4, "l2"), max(n, 1), linked=n, slots=4)
    for isa in case.compiled:
        assert_equal(case.found(isa, 3, 2, width=3), case.expected(3, 2))


@pytest.mark.parametrize("width", [3, 4])
def test_links_from_a_file_to_no_row_are_not_followed(width):
    case = Case(IndexSpec(24, 4, "ip"), 700, slots=10)
    rng = np.random.default_rng(5)
    hostile = case.links.copy()
    free = hostile == NO_ROW
    # In between: numbers of rows that do not exist, up to the last one before the fill.
    wrong = rng.choice([case.n, case.n + 1, 2**16, 2 ** (8 * width) - 2], hostile.shape).astype(np.uint32)
    hostile = np.where(free, wrong, hostile)
    order = rng.permuted(np.tile(np.arange(10), (case.n, 1)), axis=1)
    hostile = np.take_along_axis(hostile, order, axis=1)
    want = case.expected(10, 40)
    for isa in case.compiled:
        assert_equal(case.found(isa, 10, 40, width=width, links=hostile), want)
    noise = rng.integers(0, 2**32, case.links.shape, dtype=np.uint32)
    rows = case.found(isa, 10, 40, width=width, links=noise)[1]
    assert rows.max() < case.n


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": (8, 0, 0, 12, 12, 16)}, "layout"),
        ({"layout": (20, 0, 0, 12, 20, 16)}, "layout"),
        ({"layout": (20, 0, 0, 11, 12, 16)}, "layout"),
        ({"layout": (20, 0, 0, 12, 12, -1)}, "layout"),
        ({"layout": (20, 0, 0, 12, 12, 17)}, "layout"),
        ({"slots": 0}, "links"),
        ({"slots": 3}, "links"),
        ({"entries": np.array([100])}, "entries"),
        ({"entries": np.array([-1])}, "entries"),
        ({"links": np.zeros((101, 32), np.uint8)}, "links"),
        ({"k": 0}, "k and effort"),
        ({"effort": 0}, "k and effort"),
        ({"selection": np.zeros((1, 1), np.uint64)}, "words"),
        ({"selection": np.zeros((2, 2), np.uint64)}, "words"),
        ({"records": [np.zeros((100, 20), np.uint8)]}, "records"),
    ],
)
def test_arguments_that_do_not_agree_are_refused(change, message):
    case = Case(IndexSpec(24, 4, "ip"), 100)
    queries = case.queries
    arguments = {
        "records": [case.records],
        "layout": record_layout(case.spec),
        "links": pack_links(case.links, 4),
        "slots": case.slots,
        "entries": entry_rows(100),
        "code_query": queries.code_query,
        "code_scale": queries.code_scale,
        "norm": queries.norm,
        "k": 3,
        "effort": 5,
        "budget": 0,
        "need": 0,
        "threads": 1,
        "selection": None,
    }
    scanner = graph_scanner(next(iter(case.compiled.values())))
    scanner.walk(**arguments)
    with pytest.raises(ValueError, match=message):
        scanner.walk(**{**arguments, **change})


class LinkCase(Case):
    """Rows to be linked."""

    def linked_by_definition(self, first, last, rule, links=None):
        """Return the links of rows [first, last), by the definition, in batches."""
        links = np.full((self.n, rule.slots), NO_ROW, np.uint32) if links is None else links.copy()
        for at in range(first, last, BATCH):
            link_batch(self.narrow, links, at, at + BATCH, rule)
        return links

    def link(self, isa, first, last, rule, *, cuts=(), threads=1, links=None, width=3):
        """Return the links that the extension makes."""
        links = np.full((self.n, rule.slots), NO_ROW, np.uint32) if links is None else links.copy()
        blocks, scanner = blocks_of(self.records, cuts), graph_scanner(self.compiled[isa])
        packed = pack_links(links, width)
        scanner.link(blocks, record_layout(self.spec), packed, first, last, tuple(rule), threads)
        return unpack_links(packed, rule.slots)

    def relink(self, isa, links, live, rule, threads=1):
        packed, scanner = pack_links(links, 3), graph_scanner(self.compiled[isa])
        words = packed_bits(live[None])[0]
        scanner.relink([self.records], record_layout(self.spec), packed, words, tuple(rule), threads)
        return unpack_links(packed, rule.slots)


RULE = LinkRule(slots=10, kept=7, effort=20, children=3)


@pytest.mark.parametrize(
    ("codec", "bits", "metric"),
    [("turboquant-prod", 4, "cosine"), ("turboquant-prod", 8, "l2"), ("trellis", 3, "ip"), ("trellis", 4, "cosine")],
)
def test_links_are_those_of_the_definition(codec, bits, metric):
    case = LinkCase(IndexSpec(24, bits, metric, codec), 2 * BATCH + 40)
    want = case.linked_by_definition(0, 2 * BATCH, RULE)
    assert (want[: 2 * BATCH] != NO_ROW).sum(axis=1).min() > 0
    for isa in case.compiled:
        for width in (3, 4):
            np.testing.assert_array_equal(case.link(isa, 0, 2 * BATCH, RULE, width=width), want)


@pytest.mark.parametrize("kind", ["ties", "zeros", "mixed"])
def test_links_of_equal_rows_and_of_any_scale_are_those_of_the_definition(kind):
    case = LinkCase(IndexSpec(20, 4, "l2"), 2 * BATCH, kind=kind)
    want = case.linked_by_definition(0, 2 * BATCH, RULE)
    for isa in case.compiled:
        np.testing.assert_array_equal(case.link(isa, 0, 2 * BATCH, RULE), want)


@pytest.mark.parametrize("codec", ["turboquant-prod", "trellis"])
def test_threads_blocks_and_calls_do_not_change_links(codec):
    case, isa = LinkCase(IndexSpec(70, 4, "cosine", codec), 4 * BATCH), supported_isas()[-1]
    rule = LinkRule(effort=40)
    want = case.link(isa, 0, 4 * BATCH, rule)
    for threads in (2, 3, 8):
        np.testing.assert_array_equal(case.link(isa, 0, 4 * BATCH, rule, threads=threads), want)
    np.testing.assert_array_equal(case.link(isa, 0, 4 * BATCH, rule, cuts=(1, 9, 20), threads=2), want)
    part = case.link(isa, 0, BATCH, rule)
    np.testing.assert_array_equal(case.link(isa, BATCH, 4 * BATCH, rule, links=part), want)


def test_batches_follow_any_number_of_linked_rows():
    case = LinkCase(IndexSpec(16, 4, "ip"), 100 + BATCH)
    links = np.full((case.n, RULE.slots), NO_ROW, np.uint32)
    links[:100, :8] = some_links(make_rows("plain", 100, 8, 3), 8, 4, least=1)
    want = case.linked_by_definition(100, case.n, RULE, links)
    for isa in case.compiled:
        np.testing.assert_array_equal(case.link(isa, 100, case.n, RULE, links=links), want)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_rows_with_links_to_removed_rows_get_those_of_the_definition(metric):
    case = LinkCase(IndexSpec(24, 4, metric), 2 * BATCH)
    links = case.link(supported_isas()[-1], 0, 2 * BATCH, RULE)
    for share in (0.0, 0.1, 0.7, 1.0):
        live = np.random.default_rng(2).random(case.n) >= share
        want = links.copy()
        relink(case.narrow, want, live, RULE)
        for isa in case.compiled:
            np.testing.assert_array_equal(case.relink(isa, links, live, RULE), want)
        for threads in (2, 8):
            np.testing.assert_array_equal(case.relink(supported_isas()[-1], links, live, RULE, threads), want)


def test_linking_after_links_of_any_numbers_reads_no_other_memory():
    case = LinkCase(IndexSpec(24, 4, "ip"), 2 * BATCH)
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 2**24, (case.n, RULE.slots), dtype=np.uint32)
    noise[::2] %= 2 * case.n
    for isa in case.compiled:
        links = case.link(isa, BATCH, case.n, RULE, links=noise)
        own = links[BATCH:]
        assert (own[own != NO_ROW] < case.n).all()
        case.relink(isa, noise, rng.random(case.n) < 0.5, RULE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"last": 511}, "batches"),
        ({"last": 1024}, "batches"),
        ({"first": 513, "last": 512}, "batches"),
        ({"rule": (10, 11, 1.2, 20, 3)}, "rule"),
        ({"rule": (10, 7, 0.5, 20, 3)}, "rule"),
        ({"rule": (10, 7, float("nan"), 20, 3)}, "rule"),
        ({"rule": (9, 7, 1.2, 20, 3)}, "links of 3 or 4 bytes"),
        ({"links": np.zeros((513, 30), np.uint8)}, "links of 3 or 4 bytes"),
        ({"links": np.zeros((512, 20), np.uint8)}, "links of 3 or 4 bytes"),
    ],
)
def test_arguments_of_linking_that_do_not_agree_are_refused(change, message):
    case = LinkCase(IndexSpec(24, 4, "ip"), BATCH)
    arguments = {
        "records": [case.records],
        "layout": record_layout(case.spec),
        "links": np.full((BATCH, 30), 0xFF, np.uint8),
        "first": 0,
        "last": BATCH,
        "rule": tuple(RULE),
        "threads": 1,
    }
    scanner = graph_scanner(next(iter(case.compiled.values())))
    scanner.link(**arguments)
    with pytest.raises(ValueError, match=message):
        scanner.link(**{**arguments, **change})
