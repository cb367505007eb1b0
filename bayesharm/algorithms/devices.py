"""The devices that JAX sees, and how the last axis of arrays is spread over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from threadpoolctl import threadpool_limits

from bayesharm.errors import InputError

AXIS = "batch"  # name of the mesh axis
BUSY = 2**15  # batch entries × items that keep an accelerator busy


@dataclass(frozen=True)
class Devices:
    """Local devices of one platform.

    Attributes
    ----------
    all : tuple of jax.Device
    """

    all: tuple[jax.Device, ...]

    @property
    def mesh(self) -> Mesh | None:
        """Mesh over which batches are split; None for a single device."""
        return Mesh(np.array(self.all), (AXIS,)) if len(self.all) > 1 else None

    @property
    def is_cpu(self) -> bool:
        """Whether the devices are processor cores rather than accelerators."""
        return self.all[0].platform == "cpu"

    def __str__(self) -> str:
        model = self.all[0].device_kind
        return model if len(self.all) == 1 else f"{len(self.all)} × {model}"

    def in_use(self, dtype: str) -> AbstractContextManager[None]:
        """Use the first of these devices in the given precision; see :func:`working_on`."""
        return working_on(self.all[0], dtype)


_blas: list[threadpool_limits] = []  # the limit in force, once for each block that it serves
_blas_lock = Lock()


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Let BLAS use one thread within a `with` block: its threads keep cores busy for a while after each product.

    The limit holds for the whole process, until the last of several such blocks ends.
    """
    with _blas_lock:
        _blas.append(_blas[-1] if _blas else threadpool_limits(1, user_api="blas"))
    try:
        yield
    finally:
        with _blas_lock:
            limit = _blas.pop()
            if not _blas:
                limit.restore_original_limits()


@contextmanager
def working_on(device: jax.Device | None, dtype: str) -> Iterator[None]:
    """Set JAX's default device and precision within a `with` block, for this thread alone.

    Matrix products always use the full precision of `dtype`, also on accelerators whose default is lower.

    Parameters
    ----------
    device : jax.Device, optional
    dtype : {'float32', 'float64'}
    """
    with jax.default_device(device), jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        yield


def find_devices(platform: str | None = None) -> Devices:
    """Find all local devices of a platform.

    Parameters
    ----------
    platform : str, optional
        Such as `cpu`, `gpu` or `tpu`; by default JAX's own choice: an accelerator if there is one.

    Raises
    ------
    InputError
        JAX sees no such device.
    """
    try:
        return Devices(tuple(jax.local_devices(backend=platform)))
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"There is no device {platform!r} here.",
            got=f"{find_devices()} by default; {str(error).splitlines()[0]}",
            expected="a platform that JAX sees, such as cpu or gpu",
            do="leave --device out, or install JAX for that device: pip install 'jax[cuda13]', for example",
        ) from None


def map_items(function: Callable[[jax.Array], jax.Array], items: jax.Array) -> jax.Array:
    """Apply a function to every item: one at a time on a processor, as many as keep it busy on an accelerator.

    Parameters
    ----------
    function : callable
    items : (item, ..., batch) array
    """
    device = jax.config.jax_default_device or jax.devices()[0]
    at_once = 1 if device.platform == "cpu" else max(1, BUSY // items.shape[-1])
    return jax.lax.map(function, items, batch_size=at_once if at_once > 1 else None)


def run_sharded(function: Callable[[Any, Any], Any], mesh: Mesh | None, shared: Any, batched: Any) -> Any:
    """Compute ``function(shared, batched)`` with the batch split over devices, which do not communicate.

    Parameters
    ----------
    function : callable
        Works on a batch of any size.
    mesh : Mesh, optional
        None for a single device.
    shared, batched : pytrees
        Arrays that every device needs, and arrays whose last axis is the batch, as in the result. The size of the batch
        is a multiple of the number of devices.
    """
    if mesh is None:
        return function(shared, batched)

    def split_last_axis(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: PartitionSpec(*[None] * (leaf.ndim - 1), AXIS), tree)

    in_specs = PartitionSpec(), split_last_axis(batched)
    out_specs = split_last_axis(jax.eval_shape(function, shared, batched))
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)(shared, batched)
