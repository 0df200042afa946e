"""The written model repository says exactly what was chosen."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

import model_repository
from model_repository.render import main, render, render_config
from model_repository.spec import EmbedderSpec

SOURCE = Path(model_repository.__file__).parent / "embedder"


def parsed(text: str) -> model_config_pb2.ModelConfig:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def parameters(text: str) -> dict[str, str]:
    return {key: value.string_value for key, value in parsed(text).parameters.items()}


def test_the_committed_configuration_is_the_default_one() -> None:
    assert (SOURCE / "config.pbtxt").read_text() == render_config(EmbedderSpec())


def test_tritons_own_parser_reads_it() -> None:
    config = parsed(render_config(EmbedderSpec()))
    assert (config.name, config.backend, config.max_batch_size) == ("embedder", "python", 64)
    assert config.dynamic_batching.max_queue_delay_microseconds == 1000


@pytest.mark.parametrize(
    ("device", "kind"), [("auto", "KIND_AUTO"), ("cpu", "KIND_CPU"), ("cuda", "KIND_GPU")]
)
def test_instances_run_where_the_device_is(device: str, kind: str) -> None:
    (group,) = parsed(render_config(EmbedderSpec(device=device))).instance_group
    assert model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind) == kind


paths = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=60)


@given(
    st.builds(
        EmbedderSpec,
        backbone=st.from_regex(r"[A-Za-z0-9_]{1,30}(\.[a-z0-9_]{1,10})?", fullmatch=True),
        weights=paths.map(str.strip),
        device=st.sampled_from(["auto", "cpu", "cuda", "cuda:3"]),
        threads=st.integers(0, 256),
        image_size=st.just(0) | st.integers(32, 2048),
        precision=st.sampled_from(["float32", "bfloat16"]),
    )
)
def test_what_was_chosen_comes_back(spec: EmbedderSpec) -> None:
    assert EmbedderSpec.from_parameters(parameters(render_config(spec))) == spec


@pytest.mark.parametrize(
    "chosen",
    [
        {"backbone": "hf-hub:someone/something"},
        {"backbone": "../etc"},
        {"device": "tpu"},
        {"threads": "-1"},
        {"threads": "1000"},
        {"threads": "two"},
        {"image_size": "5"},
        {"precision": "int4"},
    ],
)
def test_values_that_cannot_work_are_named(chosen: dict[str, str]) -> None:
    (name,) = chosen
    with pytest.raises(ValueError, match=name):
        EmbedderSpec.from_parameters(chosen)


def test_parameters_of_others_and_empty_ones_are_ignored() -> None:
    assert (
        EmbedderSpec.from_parameters({"EXECUTION_ENV_PATH": "x", "device": " "}) == EmbedderSpec()
    )


def test_a_repository_is_written_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    render(tmp_path / "models", EmbedderSpec("test_vit", weights="own.safetensors"))
    config = tmp_path / "models" / "embedder" / "config.pbtxt"
    # The server is started elsewhere: a relative path would mean another file there.
    assert parameters(config.read_text())["weights"] == str(tmp_path / "own.safetensors")
    repository = render(Path("models"))
    assert config.read_text() == render_config(EmbedderSpec())
    assert repository.path == tmp_path / "models"
    shell = repository.path / "embedder" / "1" / "model.py"
    assert shell.read_bytes() == (SOURCE / "1" / "model.py").read_bytes()
    assert (Path(repository.environment["PYTHONPATH"]) / "model_repository").is_dir()


def test_the_command_writes_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "m"), "--backbone", "test_vit", "--image-size", "96"]) == 0
    assert f"--model-repository={tmp_path / 'm'}" in capsys.readouterr().out
    text = (tmp_path / "m" / "embedder" / "config.pbtxt").read_text()
    assert parameters(text)["image_size"] == "96"
    with pytest.raises(SystemExit):
        main([str(tmp_path / "m"), "--device", "tpu"])
    assert "device 'tpu'" in capsys.readouterr().err
