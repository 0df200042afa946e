"""timm imports beside a torchvision that does not fit, and a pair that fits is left alone."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="pip install 'biodatamine[models]'")

from model_repository.timm_import import is_missing_operator

ROOT = Path(__file__).resolve().parents[2]

# As torchvision does when its C++ extension could not be loaded.
WITHOUT_OPERATORS = """
    import torch
    if not hasattr(torch.ops.torchvision, "nms"):
        raise RuntimeError("operator torchvision::nms does not exist")
"""
# As the extension does when it can be loaded; a second definition aborts the import.
WITH_OPERATORS = """
    import torch
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", lambda dets, scores, iou_threshold: scores.argsort(), "CPU")
"""


def run(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={"PYTHONPATH": f"{folder}:{ROOT}", "PATH": ""},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def fake(folder: Path, torchvision: str, timm: str = "import torchvision\n") -> Path:
    for name, code in (("torchvision", torchvision), ("timm", timm)):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(textwrap.dedent(code))
    return folder


def test_the_installed_timm_makes_a_backbone(tmp_path: Path) -> None:
    code = """
        from model_repository.timm_import import import_timm
        timm = import_timm()
        assert import_timm() is timm
        print(type(timm.create_model("test_vit", num_classes=0)).__name__)
    """
    done = run(tmp_path, code)
    assert done.stdout.strip() == "VisionTransformer", done.stderr


def test_a_torchvision_without_operators_is_repaired(tmp_path: Path) -> None:
    code = """
        from model_repository.timm_import import import_timm
        print(import_timm().__name__)
    """
    done = run(fake(tmp_path, WITHOUT_OPERATORS), code)
    assert done.stdout.strip() == "timm", done.stderr


def test_a_pair_that_fits_keeps_its_own_operator(tmp_path: Path) -> None:
    code = """
        from model_repository.timm_import import import_timm
        import_timm()
        import torch
        scores = torch.tensor([3.0, 1.0])
        print(torch.ops.torchvision.nms(torch.zeros(2, 4), scores, 0.5).tolist())
    """
    done = run(fake(tmp_path, WITH_OPERATORS), code)
    assert done.stdout.strip() == "[1, 0]", done.stderr


def test_another_fault_is_not_hidden(tmp_path: Path) -> None:
    code = """
        from model_repository.timm_import import import_timm
        import_timm()
    """
    done = run(fake(tmp_path, "raise RuntimeError('disk on fire')"), code)
    assert done.returncode == 1
    assert "disk on fire" in done.stderr


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("operator torchvision::nms does not exist"), True),
        (RuntimeError("operator other::nms does not exist"), False),
        (ImportError("operator torchvision::nms does not exist"), False),
    ],
)
def test_only_the_missing_operator_counts(error: Exception, expected: bool) -> None:
    assert is_missing_operator(error) is expected
