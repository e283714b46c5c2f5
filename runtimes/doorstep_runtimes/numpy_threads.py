"""How many threads NumPy's matrix products use: a setting of OpenBLAS, for the whole process.

NumPy has no call for it. As threadpoolctl does (https://github.com/joblib/threadpoolctl), the library is found among
those loaded; another BLAS keeps its own number.
"""

import ctypes
from pathlib import Path

_CALLS = (
    "scipy_openblas_set_num_threads64_",
    "scipy_openblas_set_num_threads",
    "openblas_set_num_threads64_",
    "openblas_set_num_threads",
)


def limit_threads(threads: int, maps: Path = Path("/proc/self/maps")) -> bool:
    """Let OpenBLAS use `threads` threads; tell whether one was found."""
    found = False
    for path in _blas_libraries(maps):
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        for name in _CALLS:
            if call := getattr(library, name, None):
                call(ctypes.c_int(threads))
                found = True
                break
    return found


def _blas_libraries(maps: Path) -> set[str]:
    """Return the loaded libraries whose path says OpenBLAS; Debian puts `libblas.so.3` in a folder of that name."""
    try:
        lines = maps.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    paths = {line[line.index("/") :] for line in lines if "/" in line}
    return {path for path in paths if "openblas" in path and ".so" in path.rpartition("/")[2]}
