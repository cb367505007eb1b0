"""NumPyro's NUTS on many small independent posteriors at once, one *lane* each.

A potential is written for all lanes together with the lane axis last, which is how it is fast; NumPyro sees one lane and
is vectorized by ``jax.vmap``. ``custom_vmap`` joins the two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from numpyro.infer.hmc import hmc

Array = jax.Array
Potential = Callable[[Any, Any, Array], Array]  # (shared, own, positions (dimension, lane)) -> (lane,)


class Draws(NamedTuple):
    """What NUTS returns; draw axis first, lane axis last."""

    position: Array  # (draw, dimension, lane)
    diverging: Array  # (draw, lane) bool
    n_steps: Array  # (draw, lane) leapfrog steps


def sample_batched(
    potential: Potential,
    shared: Any,
    own: Any,
    start: Array,
    keys: Array,
    *,
    n_warmup: int,
    n_draws: int,
    step_size: float,
    adapt: bool = False,
    max_tree_depth: int = 6,
) -> Draws:
    """Run NUTS in every lane.

    Parameters
    ----------
    potential : callable
        Minus the log density of all lanes, up to a constant: ``potential(shared, own, positions)``.
    shared, own : pytrees
        Data of all lanes, and data whose leaves have the lane axis last.
    start : (dimension, lane) array
    keys : (lane,) typed PRNG keys
    n_warmup, n_draws : int
        Iterations thrown away first, and kept.
    step_size : float
    adapt : bool
        Adapt step size and diagonal mass matrix of each lane during warm-up. Without it a position is expected
        to be whitened: unit mass, fixed step size.
    max_tree_depth : int
    """

    @jax.jit  # a program within the program, so that it is traced once and not wherever NUTS asks
    def of_all(z, data):
        value, pull = jax.vjp(lambda z: potential(data[0], data[1], z), z)
        return value, pull(jnp.ones_like(value))[0]

    def potential_of_lane(lane, data):
        return lambda z: _lane_potential(of_all, z, lane, data)

    data = (shared, own)
    init, step = hmc(potential_fn_gen=potential_of_lane, algo="NUTS")

    def init_lane(z, key, lane):
        return init(
            z,
            n_warmup if adapt else 0,
            step_size,
            adapt_step_size=adapt,
            adapt_mass_matrix=adapt,
            max_tree_depth=max_tree_depth,
            model_args=(lane, data),
            rng_key=key,
        )

    lanes = jnp.arange(start.shape[1])
    state = jax.vmap(init_lane)(start.T, keys, lanes)
    step_all = jax.vmap(lambda state, lane: step(state, (lane, data), {}))

    def advance(state, _):
        state = step_all(state, lanes)
        return state, (state.z.T, state.diverging, state.num_steps)

    state = jax.lax.fori_loop(0, n_warmup, lambda _, s: step_all(s, lanes), state)
    return Draws(*jax.lax.scan(advance, state, length=n_draws)[1])


def _lane_potential(of_all: Callable, z: Array, lane: Array, data: Any) -> Array:
    """The potential of one lane; under ``vmap`` over all lanes, in order, one call does them all."""

    @custom_vmap
    def value_and_grad(z, lane, data):
        own = jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, lane, leaf.ndim - 1), data[1])
        value, grad = of_all(z[:, None], (data[0], own))
        return value[0], grad[:, 0]

    @value_and_grad.def_vmap
    def _all_lanes(axis_size, in_batched, z, lane, data):
        value, grad = of_all(z.T, data)
        return (value, grad.T), (True, True)

    @jax.custom_vjp
    def evaluate(z, lane, data):
        return value_and_grad(z, lane, data)[0]

    def forward(z, lane, data):
        return value_and_grad(z, lane, data)

    def backward(grad, cotangent):
        return cotangent * grad, None, None

    evaluate.defvjp(forward, backward)
    return evaluate(z, lane, data)
