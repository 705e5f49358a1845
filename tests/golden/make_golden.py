"""Write the golden files. Definitions are frozen: run this only when a NEW definition is added, never to mend a test.

    python tests/golden/make_golden.py NAME...      names: rotation codebook packing gate gate-trellis gate-search
                                             planes records file file2 file3 file2-vectors file4
                                             store

Existing files are not replaced.
"""

import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "support"))

import gate  # noqa: E402
import golden_graphs  # noqa: E402
import graphs  # noqa: E402

import vqindex  # noqa: E402
from vqindex import file_format  # noqa: E402
from vqindex.backends.registry import make_backend  # noqa: E402
from vqindex.codes import (  # noqa: E402
    bitplanes,
    codebook,
    packing,
    records,
)
from vqindex.codes.codec import Codec  # noqa: E402
from vqindex.codes.encoded import Encoded  # noqa: E402
from vqindex.codes.rotation import Hadamard, counter_words, gaussian_matrix, golden_stride  # noqa: E402
from vqindex.file_format.layout import FORMAT_VERSION  # noqa: E402
from vqindex.spec import IndexSpec  # noqa: E402


def rotation():
    """Words of the generator, strides, and digests of rotated corpora."""
    return {
        "words": [f"{w:016x}" for w in counter_words(3, 0, 3)] + [f"{w:016x}" for w in counter_words(2**64 - 1, 17, 3)],
        "strides": {str(d): golden_stride(d) for d in (*gate.DIMS, 2, 16384)},
        "forward": {
            str(d): gate.digest(Hadamard(d, 3).forward(np.ascontiguousarray(gate.corpus(d)[14:].T))) for d in gate.DIMS
        },
        "gaussian": [[float(f"{v:.9g}") for v in row] for row in gaussian_matrix(2, 4, 3)],
    }


def codebooks():
    """Thresholds in units of 2^-20, levels, and steps."""
    out = {}
    for kind in (codebook.lloyd_max, codebook.embedded):
        for d in (1, 2, 3, 17, 100, 384, 1536, 16384):
            for bits in range(1, 9):
                book = kind(d, bits)
                key = f"{kind.__name__} {d} {bits}"
                out[key] = {"digest": gate.digest(book.thresholds, book.levels), "step": book.step.hex()}
                if bits <= 3:
                    out[key]["thresholds"] = (book.thresholds * 2.0**20).astype(int).tolist()
                    out[key]["levels"] = book.levels.tolist()
    return out


def packed():
    """Bytes of the fields (5 j + 3) mod 2^bits."""
    out = {}
    for bits in range(1, 9):
        fields = ((5 * np.arange(19) + 3) % 2**bits).astype(np.uint8)[None]
        out[str(bits)] = packing.pack(fields, bits).tobytes().hex()
    return out


def reference(codec):
    """The oracle."""
    return make_backend(codec, "reference")


def gates(names):
    """Digests of codes and of search results."""
    return {
        f"{name} {dim}": {
            "encode": gate.encode_digests(reference, dim, name),
            "search": gate.search_digests(reference, dim, name),
        }
        for dim in gate.DIMS
        for name in names
    }


def sign_bound_gates():
    """Digests of what a search by bounds gives."""
    return {
        f"{name} {dim}": gate.search_digests(reference, dim, name, 0.6)
        for dim in gate.DIMS
        for name in ("prod-shared", "mse")
    }


def trellis_gates():
    """Digests of codes, and of searches by scores and by bounds."""
    out = gates(["trellis"])
    for dim in gate.DIMS:
        out[f"trellis {dim}"]["bounded"] = gate.search_digests(reference, dim, "trellis", 0.6)
    return out


def stored_planes():
    """Both parts of 66 rows of fields (5 j + 3 i) mod 2^bits, 19 coordinates."""
    out = {}
    for bits in range(1, 9):
        fields = ((5 * np.arange(19) + 3 * np.arange(66)[:, None]) % 2**bits).astype(np.uint8)
        block = bitplanes.split(IndexSpec(19, bits, "cosine"), Encoded(packing.pack(fields, bits), np.zeros(66), None))
        out[str(bits)] = {"digest": gate.digest(block.signs, block.codes), "row 65": block.signs[1, :, 1].tolist()}
    return out


def stored_records():
    """Layouts, digests, and a row, of codes of the corpus as records."""
    out = {}
    for name, spec in gate.RECORD_SPECS.items():
        rows = records.pack_records(spec, reference(Codec(spec)).encode(gate.corpus(spec.dim)))
        out[name] = {
            "layout": list(records.RecordLayout.of(spec)),
            "digest": gate.digest(rows),
            "row 20": rows[20].tobytes().hex(),
        }
    return out


def write(name, value):
    path = HERE / name
    if path.exists():
        sys.exit(f"{path} exists and is frozen")
    path.write_text(json.dumps(value, indent=1) + "\n")
    print("wrote", path)


def index_file(version):
    """A file of today's format that every later version must read, and what a search of it gives."""
    assert version == FORMAT_VERSION
    path = HERE / f"format{version}.vqi"
    if path.exists():
        sys.exit(f"{path} exists and is frozen")
    index = vqindex.VQIndex(17, 3, "l2", seed=5)
    index.add(gate.corpus(17)[14:], ids=np.arange(82) * 10 + 7)
    index.meta["note"] = "golden"
    index.save(path)
    scores, ids = index.search(gate.queries(17), 5, confidence=1)
    write(
        f"format{version}.json",
        {"scores": [[s.hex() for s in row] for row in scores.astype(float)], "ids": ids.tolist()},
    )


def graph_file():
    """A file whose rows are records, with links of no meaning, and what a search of it gives."""
    path = HERE / "format4.vqi"
    if path.exists():
        sys.exit(f"{path} exists and is frozen")
    index = vqindex.VQIndex(17, 3, "l2", seed=5)
    index.add(gate.corpus(17)[14:], ids=np.arange(82) * 10 + 7)
    index.meta["note"] = "golden"
    graph = graphs.made_up_graph(70, 6)
    file_format.write(path, index._codec, graphs.file_with_graph(index, graph))
    write("format4.json", found_in(vqindex.VQIndex.load(path)))


def found_in(index):
    """Ids, and what a search gives, in hexadecimal."""
    scores, ids = index.search(gate.queries(17), 5, confidence=1)
    return {"scores": [[s.hex() for s in row] for row in scores.astype(float)], "ids": ids.tolist()}


def vectors_file():
    """A file with kept vectors, of a code with explicit automatic ids, as after a removal."""
    path = HERE / "format2-vectors.vqi"
    if path.exists():
        sys.exit(f"{path} exists and is frozen")
    index = vqindex.VQIndex(17, 2, "cosine", codec="trellis", seed=5, keep_vectors="int8")
    index.add(gate.corpus(17)[14:])
    index.remove([3, 70])
    index.save(path)
    write("format2-vectors.json", found_in(index))


def store():
    """A store of several commits: segments with and without ids, removed rows, notes."""
    folder = HERE / "store1"
    if folder.exists():
        sys.exit(f"{folder} exists and is frozen")
    corpus = gate.corpus(17)
    with vqindex.open(folder, "a", dim=17, bits=3, metric="l2", seed=5, keep_vectors="f16") as index:
        index.add(corpus[14:50])
        index.commit()
        index.remove([3, 20])
        index.add(corpus[50:64])
        index.commit(merge=False)
        index.upsert([5, 40], corpus[64:66])
        index.meta["note"] = "golden"
        index.commit(merge=False)
        write("store1.json", {**found_in(index), "row order": index.ids.tolist()})
    (folder / "lock").unlink()  # a writer makes it anew


if __name__ == "__main__":
    makers = {
        "rotation": lambda: write("rotation.json", rotation()),
        "codebook": lambda: write("codebook.json", codebooks()),
        "packing": lambda: write("packing.json", packed()),
        "gate": lambda: write("gate.json", gates(gate.PORTABLE)),
        "gate-trellis": lambda: write("gate-trellis.json", trellis_gates()),
        "gate-search": lambda: write("gate-search.json", sign_bound_gates()),
        "planes": lambda: write("planes.json", stored_planes()),
        "records": lambda: write("records.json", stored_records()),
        "graph": lambda: write(
            "graph.json",
            {name: golden_graphs.hashes(code, "reference") for name, code in golden_graphs.CODES.items()},
        ),
        "file": lambda: index_file(1),
        "file2": lambda: index_file(2),
        "file3": lambda: index_file(3),
        "file2-vectors": vectors_file,
        "file4": graph_file,
        "store": store,
    }
    for wanted in sys.argv[1:]:
        makers[wanted]()
