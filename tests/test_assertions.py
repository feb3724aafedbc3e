"""Assertions only check: ``python -O`` leaves them out, and everything works without them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sb3_a3c

#: Functions that change nothing.
PURE = {"isinstance", "issubclass", "len", "type", "set", "all", "any", "hasattr", "getattr", "callable"}


def test_no_assertion_has_a_side_effect() -> None:
    impure = []
    for path in Path(sb3_a3c.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assert):
                for part in ast.walk(node.test):
                    called = part.func if isinstance(part, ast.Call) else None
                    is_pure = called is None or (isinstance(called, ast.Name) and called.id in PURE)
                    if not is_pure or isinstance(part, ast.NamedExpr | ast.Await | ast.Yield):
                        impure.append(f"{path}:{node.lineno}")
    assert not impure


REPLAYS = """
from sb3_a3c import A3C, record, replay
from stable_baselines3.common.env_util import make_vec_env

assert False, "this program must run with python -O"

def learned(scheduling, *schedule):
    model = A3C("MlpPolicy", make_vec_env("CartPole-v1", 2, seed=1), n_workers=2, engine="torch", seed=3)
    with scheduling(model, *schedule) as recorded:
        model.learn(100)
    return recorded, model.policy.value_net.bias.item()

schedule, value = learned(record)
print(value == learned(replay, schedule)[1])
"""


@pytest.mark.slow
def test_a_replay_ends_without_assertions() -> None:
    result = subprocess.run([sys.executable, "-O", "-c", REPLAYS], capture_output=True, text=True, timeout=600)
    assert (result.stdout, result.returncode) == ("True\n", 0), result.stderr
