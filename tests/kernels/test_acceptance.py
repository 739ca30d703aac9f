"""The acceptance: stages in processes with limits, findings written as they come, a verdict."""

import json

import pytest
from hfcnn.kernels.tools import acceptance
from hfcnn.kernels.tools.acceptance import STAGES, Finding, Stage, accept, findings_table, read_findings
from hfcnn.kernels.tools.cli import app
from hfcnn.kernels.tools.report_cases import layer_cases
from rich.console import Console
from typer.testing import CliRunner

FAKES = {name: Stage("acceptance_fakes", name, 60) for name in ("good", "bad", "crashes")}


@pytest.fixture
def stages(monkeypatch):
    monkeypatch.setattr(acceptance, "STAGES", FAKES)
    monkeypatch.setattr(acceptance, "DRY_PATIENCE", 1)


@pytest.mark.slow
def test_a_crash_ends_its_stage_alone(stages, tmp_path):
    begun = []
    found = accept(tmp_path, True, ("crashes", "good", "bad"), begun.append)
    assert begun == ["crashes", "good", "bad"]
    ends = {finding.stage: finding for finding in found if finding.what == "stage"}
    assert [ends[name].is_passed for name in begun] == [False, True, True]
    assert "ended with 7" in ends["crashes"].note
    assert [(one.what, one.is_passed) for one in found if one.stage == "good"] == [
        *(("first", True), ("second", None), ("stage", True))
    ]
    lines = (tmp_path / "findings.jsonl").read_text().splitlines()
    assert (
        [Finding(**json.loads(line)) for line in lines] == found == read_findings(tmp_path / "findings.jsonl")
    )
    console = Console(width=200, record=True, quiet=True)
    console.print(findings_table(found))


@pytest.mark.slow
def test_a_stage_that_hangs_is_ended(monkeypatch, tmp_path):
    hanging = Stage("acceptance_fakes", "hangs", 15, must_finish=False)
    monkeypatch.setattr(acceptance, "STAGES", {"hangs": hanging})
    monkeypatch.setattr(acceptance, "DRY_PATIENCE", 1)
    found = accept(tmp_path, True, ("hangs",), lambda name: None)
    assert found[-1].is_passed is None and "limit of 15 s" in found[-1].note
    assert found[0].what == "before"


def test_unknown_stages_and_machines_without_a_gpu_are_refused(tmp_path, monkeypatch):
    import torch

    with pytest.raises(ValueError, match="stage must be one of versions"):
        accept(tmp_path, True, ("kernel",), lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = CliRunner().invoke(app, ["accept", "--out", str(tmp_path)])
    assert result.exit_code == 1 and "needs a GPU" in result.stderr


def test_all_limits_together_are_less_than_ten_minutes():
    assert sum(stage.limit for stage in STAGES.values()) < 600


def test_the_tiny_network_has_every_op():
    from hfcnn.kernels.tools.report_cases import USES

    assert {case.op for case in layer_cases("tiny", "sm_90")} == set(USES)
