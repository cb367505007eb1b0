"""NumPyro's NUTS on batches of small independent posteriors.

A potential is written for the whole batch with the batch axis last, which makes it fast; NumPyro sees one posterior at a
time and is vectorized by ``jax.vmap``. ``custom_vmap`` joins the two: under ``vmap`` one call of the batched potential
serves all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from bayesharm.algorithms.numpyro_parts import hmc

Array = jax.Array
Potential = Callable[[Any, Any, Array], Array]  # (shared, batched, positions (dimension, batch)) -> (batch,)


class Draws(NamedTuple):
    """Draws of NUTS.

    Attributes
    ----------
    position : (draw, dimension, batch) array
    diverging : (draw, batch) bool array
    n_steps : (draw, batch) int array
        Leapfrog steps.
    """

    position: Array
    diverging: Array
    n_steps: Array


def sample_batched(
    potential: Potential,
    shared: Any,
    batched: Any,
    start: Array,
    keys: Array,
    *,
    n_warmup: int,
    n_draws: int,
    step_size: float,
    adapt: bool = False,
    max_tree_depth: int = 6,
) -> Draws:
    """Run one NUTS chain for every posterior of the batch.

    Parameters
    ----------
    potential : callable
        Negative log density of the whole batch, up to a constant: ``potential(shared, batched, positions)``.
    shared, batched : pytrees
        Data that all posteriors share, and data whose leaves have the batch axis last.
    start : (dimension, batch) array
    keys : (batch,) typed PRNG keys
    n_warmup, n_draws : int
        Iterations that are discarded, and kept.
    step_size : float
    adapt : bool
        Adapt step size and diagonal mass matrix of each posterior during warm-up. Without adaptation positions should be
        whitened: the mass is 1 and the step size fixed.
    max_tree_depth : int
    """

    @jax.jit  # a program within the program, so that it is traced once and not at each use in NUTS
    def value_and_grad_of_batch(z, data):
        value, pull = jax.vjp(lambda z: potential(data[0], data[1], z), z)
        return value, pull(jnp.ones_like(value))[0]

    def potential_of_one(index, data):
        return lambda z: _potential_of_one(value_and_grad_of_batch, z, index, data)

    data = (shared, batched)
    init, step = hmc(potential_fn_gen=potential_of_one, algo="NUTS")

    def init_one(z, key, index):
        return init(
            z,
            n_warmup if adapt else 0,
            step_size,
            adapt_step_size=adapt,
            adapt_mass_matrix=adapt,
            max_tree_depth=max_tree_depth,
            model_args=(index, data),
            rng_key=key,
        )

    indices = jnp.arange(start.shape[1])
    state = jax.vmap(init_one)(start.T, keys, indices)
    step_all = jax.vmap(lambda state, index: step(state, (index, data), {}))

    def describe(state):
        return Draws(state.z.T, state.diverging, state.num_steps)

    def advance(k, carry):  # one loop for warm-up and draws, so that NUTS is compiled once
        state, draws = carry
        state = step_all(state, indices)
        return state, jax.tree.map(lambda kept, new: kept.at[jnp.maximum(k - n_warmup, 0)].set(new), draws, describe(state))

    empty = jax.tree.map(lambda leaf: jnp.zeros((n_draws, *leaf.shape), leaf.dtype), jax.eval_shape(describe, state))
    return jax.lax.fori_loop(0, n_warmup + n_draws, advance, (state, empty))[1]


def _potential_of_one(value_and_grad_of_batch: Callable[..., Any], z: Array, index: Array, data: Any) -> Array:
    """Evaluate the potential of one posterior; under ``vmap`` over the batch, in order, one call evaluates all."""

    @custom_vmap
    def value_and_grad(z, index, data):
        batched = jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, leaf.ndim - 1), data[1])
        value, grad = value_and_grad_of_batch(z[:, None], (data[0], batched))
        return value[0], grad[:, 0]

    @value_and_grad.def_vmap
    def _whole_batch(axis_size, in_batched, z, index, data):
        value, grad = value_and_grad_of_batch(z.T, data)
        return (value, grad.T), (True, True)

    @jax.custom_vjp
    def evaluate(z, index, data):
        return value_and_grad(z, index, data)[0]

    def forward(z, index, data):
        return value_and_grad(z, index, data)

    def backward(grad, cotangent):
        return cotangent * grad, None, None

    evaluate.defvjp(forward, backward)
    return evaluate(z, index, data)
