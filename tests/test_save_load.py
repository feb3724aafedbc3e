"""Saving and loading: the zip is SB3's, with all that a learner needs and nothing of the runtime, in mid-run too."""

import io
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import VecNormalize

from sb3_a3c import A3C


def vector(model: Any) -> th.Tensor:
    return th.cat([param.detach().flatten() for param in model.policy.parameters()])


def make_model(**kwargs: Any) -> A3C:
    return A3C("MlpPolicy", make_vec_env("CartPole-v1", n_envs=2, seed=0), seed=0, **kwargs)


ARGUMENTS = dict(
    n_workers=2,
    backend="serial",
    engine="torch",
    use_locking=False,
    rollout_order="arrival",
    max_lead=3,
    vf_learning_rate=1e-2,
    ent_coef=[0.1, 0.2],
)


@pytest.mark.parametrize("kwargs", [{}, ARGUMENTS, {"use_rms_prop": False}, {"learning_rate": lambda p: 1e-3 * p}])
def test_round_trip(kwargs: dict[str, Any], tmp_path: Any) -> None:
    model = make_model(**kwargs).learn(200)
    model.save(tmp_path / "model")
    loaded = A3C.load(tmp_path / "model")
    assert th.equal(vector(model), vector(loaded))
    assert loaded.num_timesteps == model.num_timesteps and loaded._n_updates == model._n_updates
    for name in ("n_workers", "backend", "engine", "use_locking", "rollout_order", "max_lead", "ent_coef"):
        assert getattr(loaded, name) == getattr(model, name)
    state, loaded_state = (m.policy.optimizer.state_dict()["state"] for m in (model, loaded))
    assert all(th.equal(state[i][key], loaded_state[i][key]) for i in state for key in state[i]) and state
    loaded.set_env(make_vec_env("CartPole-v1", n_envs=2, seed=0))
    loaded.learn(100, reset_num_timesteps=False)
    assert loaded.num_timesteps == 300
    obs = np.zeros((1, 4), np.float32)
    np.testing.assert_array_equal(
        model.predict(obs, deterministic=True)[0], A3C.load(tmp_path / "model").predict(obs, deterministic=True)[0]
    )


def test_arguments_can_be_changed_when_loading(tmp_path: Any) -> None:
    make_model(n_workers=2).save(tmp_path / "model")
    env = make_vec_env("CartPole-v1", n_envs=1)
    loaded = A3C.load(tmp_path / "model", env=env, n_workers=None, backend="serial")
    assert (loaded.n_workers, loaded.backend, loaded.n_envs) == (None, "serial", 1)
    loaded.learn(50)
    with pytest.raises(ValueError, match="backend must be one of"):
        A3C.load(tmp_path / "model", backend="nowhere")
    loaded = A3C.load(tmp_path / "model", env=env)  # for predicting, two workers on one environment are no hindrance
    with pytest.raises(ValueError, match=r"n_workers must be at most the number of environments, 1 .*, but it is 2"):
        loaded.learn(50)


def test_nothing_of_the_runtime_is_saved(tmp_path: Any) -> None:
    model = make_model()
    fresh = set(vars(model))
    sizes = []

    def save(locals_: dict, _: dict) -> bool:
        buffer = io.BytesIO()
        model.save(buffer)
        sizes.append(len(buffer.getvalue()))
        return True

    model.learn(500, callback=save)
    assert set(vars(model)) - fresh == {"_logger"}
    data, params, _ = load_from_zip_file(io.BytesIO(_saved(model)))
    assert data is not None and params is not None and "_logger" not in data
    assert max(sizes) < 1.2 * min(sizes[40:])  # the statistics of the optimizer come with the first update


def _saved(model: Any) -> bytes:
    buffer = io.BytesIO()
    model.save(buffer)
    return buffer.getvalue()


def test_zips_of_a2c_load_and_ours_load_into_a2c(tmp_path: Any) -> None:
    a2c = A2C("MlpPolicy", make_vec_env("CartPole-v1", n_envs=2, seed=0), seed=0).learn(200)
    a2c.save(tmp_path / "a2c")
    loaded = A3C.load(tmp_path / "a2c", env=make_vec_env("CartPole-v1", n_envs=2, seed=0))
    assert th.equal(vector(a2c), vector(loaded))
    loaded.learn(200, reset_num_timesteps=False)
    assert loaded.num_timesteps == 400 and loaded._n_updates == 20 + 2 * 20
    assert {float(state["step"]) for state in loaded.policy.optimizer.state.values()} == {60.0}
    loaded.save(tmp_path / "a3c")
    back = A2C.load(tmp_path / "a3c", env=make_vec_env("CartPole-v1", n_envs=2, seed=0))
    assert th.equal(vector(back), vector(loaded))
    back.learn(100)


def test_parameters_can_be_got_and_set() -> None:
    model, other = make_model().learn(100), make_model().learn(300)
    model.set_parameters(other.get_parameters())
    assert th.equal(vector(model), vector(other))
    model.learn(100)
    assert not th.equal(vector(model), vector(other))  # what was got is a copy of neither's future


def test_the_environment_can_be_exchanged() -> None:
    model = make_model().learn(100)
    env = VecNormalize(make_vec_env("CartPole-v1", n_envs=2, seed=0))
    model.set_env(env)
    model.learn(100, reset_num_timesteps=False)
    assert env.obs_rms.count == pytest.approx(102, abs=1e-3) and model.get_env() is env


def test_policy_saves_alone(tmp_path: Any) -> None:
    model = make_model().learn(200)
    model.policy.save(tmp_path / "policy")
    policy = type(model.policy).load(tmp_path / "policy")
    assert all(th.equal(a, b) for a, b in zip(policy.parameters(), model.policy.parameters(), strict=True))
    # A policy that has learned shares no memory with the run that it learned in: each parameter owns its own.
    assert len({param.untyped_storage().data_ptr() for param in model.policy.parameters()}) == len(list(policy.parameters()))


# Files: SB3's names, and the old file until the new one is complete.


@pytest.mark.parametrize("algorithm", [A2C, A3C])
@pytest.mark.parametrize(
    ("path", "saved", "warning"),
    [
        ("model", "model.zip", None),
        ("model.zip", "model.zip", None),
        ("model.tar", "model.tar", None),
        ("folder.zip", "folder.zip_2", "is a folder"),
        ("folder", "folder.zip", None),
        ("a/b/model", "a/b/model.zip", "exist"),
    ],
)
def test_paths_are_sb3s(algorithm: Any, path: str, saved: str, warning: str | None, tmp_path: Path) -> None:
    model = algorithm("MlpPolicy", "CartPole-v1")
    (tmp_path / "folder.zip").mkdir() if saved.startswith("folder.zip_") else (tmp_path / "folder").mkdir()
    for kind in (str, Path):
        with nullcontext() if warning is None or (tmp_path / "a").exists() else pytest.warns(UserWarning, match=warning):
            model.save(kind(tmp_path / path))
        files = [file for file in tmp_path.rglob("*") if file.is_file()]
        assert files == [tmp_path / saved]
        algorithm.load(files[0])


def test_what_is_saved_can_be_chosen(tmp_path: Path) -> None:
    model = make_model()
    for path in (tmp_path / "model.zip", io.BytesIO()):
        model.save(path, exclude=["gamma"], include=["_last_obs"])
        data, _, _ = load_from_zip_file(path)
        assert data is not None and "gamma" not in data and "_last_obs" in data


class _Broken(Exception):
    pass


@pytest.mark.parametrize("error", [_Broken, KeyboardInterrupt])
def test_an_old_file_stays_until_the_new_one_is_complete(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a program that is killed in the middle leaves a whole file, and an error leaves nothing else."""
    path, model = tmp_path / "model.zip", make_model()
    model.save(path)
    old, meanwhile, write = path.read_bytes(), [], th.save

    def watched(*args: Any) -> None:
        write(*args)
        meanwhile.append(path.read_bytes())
        if len(meanwhile) == 2:
            raise error

    monkeypatch.setattr(th, "save", watched)
    model.learn(100)
    with pytest.raises(error):
        model.save(path)
    assert meanwhile == [old, old] and path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]
    model.save(path)
    assert A3C.load(path).num_timesteps == 100


def test_a_link_and_permissions_stay(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    path, link, model = tmp_path / "models" / "model.zip", tmp_path / "latest.zip", make_model()
    model.save(path)
    path.chmod(0o640)
    link.symlink_to(path)
    model.learn(10)
    model.save(link)
    assert link.is_symlink() and path.stat().st_mode & 0o777 == 0o640
    assert A3C.load(path).num_timesteps == 10


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which nobody can write")
@pytest.mark.filterwarnings("ignore:Path .* was created:UserWarning")
def test_a_place_that_can_not_be_written_to(tmp_path: Path) -> None:
    """With A2C it ends in a RecursionError."""
    model = make_model()
    (tmp_path / "file").write_text("")
    for path in ("/proc/model", "/proc/nowhere/model.zip", tmp_path / "file" / "model.zip"):
        with pytest.raises(OSError, match=r"path must be in a folder that can be written to, but it is not: .*model.zip'"):
            model.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
