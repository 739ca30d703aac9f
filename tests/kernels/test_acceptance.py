"""The acceptance: stages in processes with limits, findings written as they come, a verdict."""

import json

import pytest
from hfcnn.kernels.tools import acceptance
from hfcnn.kernels.tools.acceptance import STAGES, Finding, Stage, accept, findings_table, read_findings
from hfcnn.kernels.tools.acceptance_page import findings_markdown
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


def test_the_page_holds_the_last_run_of_each_stage(tmp_path):
    about = {"device": "a GPU", "torch": "2", "triton": "3", "python": "3.12", "cores": 16}
    end = {"seconds": 2.0}
    product = {"triton us": 3766.9, "torch us": 11_498.6}
    findings = [
        Finding("versions", "versions", None, about),
        Finding("versions", "copy", None, {"GB/s": 4245.5}),
        Finding("versions", "stage", True, end),
        Finding("ops", "conv_jvp, cnn3 MNIST 1, N = 1, tf32", False, {"error": 0.5}, "differs"),
        Finding("ops", "stage", True, end),
        Finding("ops", "conv_jvp, cnn3 MNIST 1, N = 1, tf32", True, {"error": 1e-4}),
        Finding("ops", "conv_jvp, cnn3 MNIST 1, N = 7, tf32", True, {"error": 2e-4}),
        Finding("ops", "stage", True, end),
        Finding("kernels", "conv_jvp, cnn3 MNIST 1", None, {"triton us": 100.0, "torch tf32 us": 250.0}),
        Finding("products", "times", None, product),
        Finding("fit", "digits", False, {"CG": 180}, ""),
    ]
    page = findings_markdown(findings)
    assert "a GPU, torch 2, Triton 3" in page and "copy 4,246 GB/s" in page
    assert "| conv_jvp | tf32 | 2 | 2.0e-04 | 1e-02 |" in page and "differs" not in page
    assert "| conv_jvp | cnn3 MNIST 1 | 100 | 250 | 2.5 |" in page
    assert "| times | 3,767 | 11,499 |" in page
    assert "| fit | digits | CG 180 | 1 |" in page
    assert "| kernels | - | 0 | 0 | not ended |" in page
    with pytest.raises(ValueError, match="stage versions"):
        findings_markdown(findings[3:])

    lines = "".join(json.dumps(vars(finding)) + "\n" for finding in findings)
    (tmp_path / "findings.jsonl").write_text(lines)
    command = ["accept", "--no-runs", "--out", str(tmp_path), "--markdown", str(tmp_path / "page.md")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == page
    result = CliRunner().invoke(app, [*command[:-1], str(tmp_path / "no folder" / "page.md")])
    assert result.exit_code != 0
    empty = ["accept", "--dry-run", "--stage", "ops", "--out", str(tmp_path / "empty"), *command[-2:]]
    result = CliRunner().invoke(app, empty)  # before a stage has begun
    assert result.exit_code == 1 and "stage versions" in result.stderr and not (tmp_path / "empty").exists()
