"""What the script seeds with s draws, shifted by K, what it would draw seeded with s + K; the unseeded is seeded with K."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

K = 3

STANDARD = """
import copy, pickle, random, tempfile
import numpy as np
draws["unseeded random"] = random.random(), (lambda: random.Random(k).random())
random.seed(7); draws["random.seed"] = random.random(), (lambda: random.Random(7 + k).random())
draws["random.Random(7)"] = random.Random(7).random(), (lambda: random.Random(7 + k).random())
draws["random.Random()"] = random.Random().random(), (lambda: random.Random(k).random())
kept = random.Random(); kept.seed(5)
draws["Random.seed"] = kept.random(), (lambda: random.Random(5 + k).random())
class Own(random.Random): pass
draws["a subclass of Random"] = Own(2).random(), (lambda: random.Random(2 + k).random())
again = pickle.loads(pickle.dumps(kept))
draws["a pickled Random"] = again.random(), (lambda: (r := random.Random(5 + k), r.random(), r.random())[-1])
draws["Random's instances"] = isinstance(random._inst, random.Random) and isinstance(kept, random.Random), (lambda: True)
draws["unseeded numpy"] = np.random.rand(), (lambda: np.random.RandomState(k).rand())
np.random.seed(7); draws["numpy.random.seed"] = np.random.rand(), (lambda: np.random.RandomState(7 + k).rand())
draws["default_rng(0)"] = np.random.default_rng(0).random(), (lambda: np.random.default_rng(k).random())
draws["default_rng(seed=1)"] = np.random.default_rng(seed=1).random(), (lambda: np.random.default_rng(1 + k).random())
draws["default_rng()"] = np.random.default_rng().random(), (lambda: np.random.default_rng(k).random())
draws["RandomState"] = np.random.RandomState(1).rand(), (lambda: np.random.RandomState(1 + k).rand())
draws["PCG64"] = np.random.Generator(np.random.PCG64(1)).random(), (lambda: np.random.default_rng(1 + k).random())
draws["Philox(key)"] = (np.random.Generator(np.random.Philox(key=1)).random(),
                        (lambda: np.random.Generator(np.random.Philox(key=1 + k)).random()))
np.random.seed(np.int64(7)); draws["a NumPy integer"] = np.random.rand(), (lambda: np.random.RandomState(7 + k).rand())
draws["text"] = random.Random("a").random(), (lambda: random.Random(f"a+{k}" if k else "a").random())
draws["bytes"] = random.Random(b"a").random(), (lambda: random.Random(b"a+%d" % k if k else b"a").random())
draws["several"] = np.random.default_rng([1, 2]).random(), (lambda: np.random.default_rng([1, 2, k] if k else [1, 2]).random())
np.random.seed(np.array([1, 2])); draws["an array"] = np.random.rand(), (lambda: np.random.RandomState([1, 2, k] if k else [1, 2]).rand())
draws["SeedSequence"] = (np.random.default_rng(np.random.SeedSequence(entropy=1, pool_size=8)).random(),
                         (lambda: np.random.default_rng(np.random.SeedSequence(1 + k, pool_size=8)).random()))
draws["spawned"] = (np.random.default_rng(np.random.SeedSequence(1).spawn(2)[1]).random(),
                    (lambda: np.random.default_rng(np.random.SeedSequence(1 + k).spawn(2)[1]).random()))
draws["a Generator's spawned"] = np.random.default_rng(1).spawn(1)[0].random(), (lambda: np.random.default_rng(1 + k).spawn(1)[0].random())
state = np.random.RandomState(1); state.seed(5)
draws["RandomState.seed"] = state.rand(), (lambda: np.random.RandomState(5 + k).rand())
class Kept(np.random.SeedSequence): pass
for name, thing in (("SeedSequence", np.random.SeedSequence(4)), ("a subclass", Kept(4)), ("PCG64", np.random.PCG64(4)),
                    ("Generator", np.random.default_rng(4)), ("RandomState", np.random.RandomState(4))):
    again = pickle.loads(pickle.dumps(thing))
    draws[f"a pickled {name}"] = again.rand() if name == "RandomState" else np.random.default_rng(again).random(), (
        lambda name=name: (np.random.RandomState if name == "RandomState" else np.random.default_rng)(4 + k).random())
"""

TORCH = """
import torch
def seeded(s): return torch.rand((), generator=torch.Generator().manual_seed(s)).item()
draws["unseeded torch"] = torch.rand(()).item(), (lambda: seeded(k))
torch.manual_seed(torch.tensor(9)); draws["a tensor"] = torch.rand(()).item(), (lambda: seeded(9 + k))
torch.manual_seed(7); draws["torch.manual_seed"] = torch.rand(()).item(), (lambda: seeded(7 + k))
draws["torch.Generator"] = seeded(1), (lambda: seeded(1 + k))
draws["an unseeded torch.Generator"] = torch.rand((), generator=torch.Generator()).item(), (lambda: seeded(67280421310721 + k))
draws["random_split"] = (list(torch.utils.data.random_split(range(9), [3, 6], torch.Generator().manual_seed(1))[0].indices),
    (lambda: list(torch.utils.data.random_split(range(9), [3, 6], torch.Generator().manual_seed(1 + k))[0].indices)))
"""

FRAMEWORKS = """
import os; os.environ["KERAS_BACKEND"] = "tensorflow"
import jax, keras, random, numpy as np, tensorflow as tf
draws["jax.random.key"] = float(jax.random.uniform(jax.random.key(1))), (lambda: float(jax.random.uniform(jax.random.key(1 + k))))
draws["PRNGKey(seed=1)"] = float(jax.random.uniform(jax.random.PRNGKey(seed=1))), (lambda: float(jax.random.uniform(jax.random.PRNGKey(1 + k))))
def uniform(seed): return float(keras.random.uniform((), seed=keras.random.SeedGenerator(seed)))
draws["SeedGenerator"] = uniform(1), (lambda: uniform(1 + k))
def after(s):
    keras.utils.set_random_seed(s)
    return random.random(), float(np.random.rand()), float(keras.random.uniform(()))
draws["keras.utils.set_random_seed"] = after(7), (lambda: after(7 + k))
def alone(s):
    tf.random.set_seed(s)
    return float(tf.random.uniform(()))
draws["tf.random.set_seed"] = alone(1), (lambda: alone(1 + k))
def drawn(s): return float(tf.random.Generator.from_seed(s).uniform(()))
draws["tf.random.Generator"] = drawn(1), (lambda: drawn(1 + k))
"""


def drawn(program: str, k: int, shifted: bool) -> dict[str, Any]:
    """What the program draws under a shift by k, or what it is expected to draw, computed without any shift."""
    first = f"from halfstep.session.seeds import shift_seeds; shift_seeds({k})" if shifted else ""
    last = "print('@', json.dumps({n: d[0] if shifted else d[1]() for n, d in draws.items()}))"
    text = f"import json; k, shifted, draws = {k}, {shifted}, {{}}\n{first}\n{program}\n{last}"
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.split("@ ")[-1])
    return found


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(STANDARD, id="standard library and NumPy"),
        pytest.param(TORCH, id="PyTorch"),
        pytest.param(FRAMEWORKS, id="Keras, TensorFlow and JAX", marks=pytest.mark.slow),
    ],
)
def test_every_seed_is_shifted_once(program: str) -> None:
    for module in ("keras", "tensorflow", "jax") if program == FRAMEWORKS else ():
        pytest.importorskip(module)
    found = drawn(program, K, shifted=True)
    assert found == drawn(program, K, shifted=False)
    assert program == FRAMEWORKS or found != drawn(program, K + 1, shifted=True)


def test_a_shift_by_nothing_leaves_seeded_programs_as_they_are() -> None:
    seeded = {
        n: v for n, v in drawn(STANDARD, 0, shifted=True).items() if "unseeded" not in n and "()" not in n
    }
    assert seeded.items() <= drawn(STANDARD, 0, shifted=False).items()
