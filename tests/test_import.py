"""`import vqindex` loads no heavy package. (`make wheel` prints how long the import takes.)"""

import subprocess
import sys

HEAVY = ("torch", "cupy", "faiss", "sklearn", "scipy", "pandas", "matplotlib", "pyarrow", "h5py", "click", "rich")


def loaded_after(code):
    code += "\nimport sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_import_brings_in_nothing_heavy():
    assert loaded_after("import vqindex").isdisjoint(HEAVY)


def test_searching_brings_in_nothing_heavy():
    code = "import vqindex\nindex = vqindex.VQIndex(8)\nindex.add([[1.0] * 8])\nindex.search([[1.0] * 8], k=1)"
    assert loaded_after(code).isdisjoint(HEAVY)


def test_the_check_sees_a_module_that_is_imported():
    assert "h5py" in loaded_after("import vqindex.file_format")


def test_dir_lists_the_public_names_alone():
    import vqindex

    assert dir(vqindex) == sorted(vqindex.__all__)
