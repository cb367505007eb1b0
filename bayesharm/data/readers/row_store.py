"""Values of many scans on disk: written row by row, in any order, and read in blocks of features."""

from __future__ import annotations

import tempfile
import threading
import weakref
from typing import IO, Any

import numpy as np

from bayesharm.errors import InputError
from bayesharm.io.arrays import Matrix


class RowStore:
    """A nameless file in the temporary folder, which vanishes with the last reference to it, and even with a killed process.

    Memory stays bounded: rows are written as they come, and each read maps the file anew.

    Parameters
    ----------
    n_rows, n_columns : int

    Raises
    ------
    InputError
        The temporary folder has no room.
    """

    def __init__(self, n_rows: int, n_columns: int):
        self.shape = (n_rows, n_columns)
        self._lock = threading.Lock()
        self._file: IO[Any] = self._guard(tempfile.TemporaryFile)
        weakref.finalize(self, self._file.close)

    def write(self, row: int, values: np.ndarray) -> None:
        """Write the values of one scan; may be called from several threads."""
        data = np.ascontiguousarray(values, dtype=np.float64).tobytes()

        def put() -> None:
            self._file.seek(row * len(data))
            self._file.write(data)
            self._file.flush()

        with self._lock:
            self._guard(put)

    def to_matrix(self, rows: np.ndarray, names: np.ndarray, scan_ids: np.ndarray) -> Matrix:
        """Return these rows, in this order, as a source of features."""
        self._guard(lambda: self._file.truncate(8 * self.shape[0] * self.shape[1]))

        def read(at: np.ndarray) -> np.ndarray:
            if not len(rows) or not len(at):
                return np.empty((len(rows), len(at)))
            with self._lock:
                mapped = np.memmap(self._file, np.float64, "r", shape=self.shape)
            consecutive = at[-1] - at[0] == len(at) - 1 and (np.diff(at) == 1).all()
            block = mapped[:, int(at[0]) : int(at[-1]) + 1] if consecutive else mapped[:, at]
            return np.asarray(block) if np.array_equal(rows, np.arange(self.shape[0])) else np.asarray(block[rows])

        return Matrix((len(rows), self.shape[1]), np.dtype(float), read, names, scan_ids)

    @staticmethod
    def _guard(action: Any) -> Any:
        try:
            return action()
        except OSError as error:
            raise InputError(
                "The values of the scans do not fit into the temporary folder.",
                got=f"{tempfile.gettempdir()}: {error.strerror or error}",
                expected="room for 8 bytes for each scan and feature",
                do="free some space, or set the environment variable TMPDIR to another folder",
            ) from None
