"""Where programs run: the devices of one kind that JAX sees here, the features of a block shared out over them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from bayesharm.errors import InputError


def cache_programs() -> None:
    """Compiled programs are kept in the cache folder of the user, if it can be written: a second run need not compile."""
    import jax
    import pooch

    folder = pooch.os_cache("bayesharm") / "programs"
    if jax.config.jax_compilation_cache_dir is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return
        if os.access(folder, os.W_OK):
            jax.config.update("jax_compilation_cache_dir", str(folder))


AXIS = "feature"
BUSY = 2**15  # features × items that keep an accelerator busy


@dataclass(frozen=True)
class Devices:
    """Devices of one kind.

    Attributes
    ----------
    all : tuple of jax.Device
    """

    all: tuple[jax.Device, ...]

    @property
    def mesh(self) -> Mesh | None:
        """What features are shared out over; nothing for a single device."""
        return Mesh(np.array(self.all), (AXIS,)) if len(self.all) > 1 else None

    @property
    def is_cpu(self) -> bool:
        """Whether they are cores of the processor and not accelerators."""
        return self.all[0].platform == "cpu"

    def __str__(self) -> str:
        kind = self.all[0].device_kind
        return kind if len(self.all) == 1 else f"{len(self.all)} × {kind}"

    def in_use(self, dtype: str) -> AbstractContextManager[None]:
        """See :func:`working_on`."""
        return working_on(self.all[0], dtype)


@contextmanager
def working_on(device: jax.Device | None, dtype: str) -> Iterator[None]:
    """Where, and in which precision, JAX works within; of this thread alone. Products of matrices are not in less."""
    with jax.default_device(device), jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        yield


def find_devices(kind: str | None = None) -> Devices:
    """All local devices of a kind.

    Parameters
    ----------
    kind : str, optional
        Such as `cpu`, `gpu`, `tpu`; by default what JAX takes by itself: an accelerator where there is one.

    Raises
    ------
    InputError
        JAX sees none of that kind.
    """
    try:
        return Devices(tuple(jax.local_devices(backend=kind)))
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"There is no device {kind!r} here.",
            got=f"{find_devices()} by default; {str(error).splitlines()[0]}",
            expected="a kind of device that JAX sees, such as cpu or gpu",
            do="leave --device out, or install JAX for that device: pip install 'jax[cuda13]', for example",
        ) from None


def map_some(function: Callable[[jax.Array], jax.Array], items: jax.Array) -> jax.Array:
    """The function of every item: one by one on a processor, as many at once on an accelerator as keep it busy."""
    device = jax.config.jax_default_device or jax.devices()[0]
    at_once = 1 if device.platform == "cpu" else max(1, BUSY // items.shape[-1])
    return jax.lax.map(function, items, batch_size=at_once if at_once > 1 else None)


def share_out(function: Callable[[Any, Any], Any], mesh: Mesh | None, shared: Any, own: Any) -> Any:
    """``function(shared, own)``, every device doing its share of the features without a word to the others.

    Parameters
    ----------
    function : callable
        Works on any number of features.
    mesh : Mesh, optional
        Without it there is one device.
    shared, own : pytrees
        What all features share, and arrays whose last axis are features, as are those of the result; their number is
        a multiple of that of the devices.
    """
    if mesh is None:
        return function(shared, own)

    def last_axis(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: PartitionSpec(*[None] * (leaf.ndim - 1), AXIS), tree)

    specs = (PartitionSpec(), last_axis(own)), last_axis(jax.eval_shape(function, shared, own))
    return jax.shard_map(function, mesh=mesh, in_specs=specs[0], out_specs=specs[1], check_vma=False)(shared, own)
