"""tests/bus_gates.py fails on each regression it is meant to see: every gate, with a figure just beyond it, and a baseline
better than the figures. Runs no bench: it reads the committed figures."""

import importlib.util
import json
import subprocess
import sys

import pytest

from conftest import ROOT

SCRIPT = ROOT / "tests" / "bus_gates.py"
SPEC = importlib.util.spec_from_file_location("bus_gates", SCRIPT)
GATES = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(GATES)
COMMITTED = json.loads(GATES.BASELINE.read_text(encoding="utf-8"))
PERFORMANCE = (ROOT / "docs" / "bus" / "performance.md").read_text(encoding="utf-8")


def run(folder, figures, baseline):
    (folder / "figures.json").write_text(json.dumps(figures))
    (folder / "baseline.json").write_text(json.dumps(baseline))
    command = [sys.executable, SCRIPT, folder / "figures.json", "--baseline", folder / "baseline.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, [line for line in done.stdout.splitlines() if line.startswith("BROKEN")]


def broken(figures, baseline=None):
    return [text for holds, text, _ in GATES.check(figures, baseline or COMMITTED) if not holds]


def test_the_committed_figures_pass(tmp_path):
    assert run(tmp_path, COMMITTED, COMMITTED) == (0, [])


@pytest.mark.parametrize("name,side,bound", [gate[:3] for gate in GATES.BOUNDS])
def test_a_figure_beyond_its_bound_breaks_its_gate(name, side, bound):
    beyond = bound * 0.99 if side == "least" else bound * 1.01 + 1e-6
    found = broken({**COMMITTED, name: beyond})
    assert any(text.startswith(f"{name} = ") for text in found), found


@pytest.mark.parametrize("name", [name for name in COMMITTED if name.startswith("allocs.")])
def test_one_allocation_more_breaks_its_gate(name):
    found = broken({**COMMITTED, name: COMMITTED[name] + 1})
    assert any(text.startswith(name) for text in found), found


@pytest.mark.parametrize("name", GATES.RATIOS)
def test_a_ratio_more_than_a_tenth_under_the_baseline_breaks_its_gate(name):
    # As high as the gate looks: what a baseline has above 1 is luck where both sides do the same work.
    best = COMMITTED[name] if name.startswith("b4") else min(COMMITTED[name], 1.0)
    found = broken({**COMMITTED, name: 0.89 * best})
    assert any("baseline - 10 %" in text and text.startswith(f"{name} = ") for text in found), found


@pytest.mark.parametrize("rate", ["50k", "200k"])
def test_a_p95_more_than_a_fifth_above_the_baseline_breaks_its_gate(rate):
    name = f"b6.p95_over_raw.{rate}"
    found = broken({**COMMITTED, name: 1.21 * max(COMMITTED[name], 1.0)})
    assert any("baseline + 20 %" in text for text in found), found


def test_a_better_baseline_makes_the_script_fail(tmp_path):
    better = {name: 1.3 * value if name in GATES.RATIOS else value for name, value in COMMITTED.items()}
    code, lines = run(tmp_path, COMMITTED, better)
    assert code == 1
    assert sum("b4.batch8_over_single" in line for line in lines) == len(GATES.SHAPES), lines


def test_a_missing_figure_is_no_pass(tmp_path):
    figures = dict(COMMITTED)
    del figures["b4.batch8_over_single.4x8"]
    assert run(tmp_path, figures, COMMITTED)[0] != 0


def test_every_gated_cell_has_its_bound_in_the_document():
    for text in ("0.97", "1.8x", "4x", "5x", "0.01 %", "0.1 %", "5 ns", "1.2"):
        assert text in PERFORMANCE, text
    for shape in GATES.SHAPES:
        for family in ("b1.publish_over_raw", "b2.observed_over_plain", "b4.batch8_over_single"):
            for workers in (".w1", ""):
                name = f"{family}.{shape}{workers}"
                assert name in {gate[0] for gate in GATES.BOUNDS}, name
