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
    return [text for holds, text, _ in GATES.check(figures, baseline or COMMITTED) if holds is False]


def bound_holds(name, value):
    return all(
        value >= bound if side == "least" else value <= bound for gated, side, bound, _ in GATES.BOUNDS if gated == name
    )


def test_the_committed_figures_pass(tmp_path):
    assert run(tmp_path, COMMITTED, COMMITTED) == (0, [])


@pytest.mark.parametrize("name,side,bound", [gate[:3] for gate in GATES.BOUNDS])
def test_a_figure_beyond_its_bound_breaks_its_gate(name, side, bound):
    twins = {name.replace("publish_over_raw", "twin_over_raw"): 1.0} if "publish_over_raw" in name else {}
    beyond = bound * 0.99 if side == "least" else bound * 1.01 + 1e-6
    found = broken({**COMMITTED, **twins, name: beyond})
    assert any(text.startswith(f"{name} = ") and "baseline" not in text for text in found), found
    assert not any(text.startswith(f"{name} = ") and "baseline" not in text for text in broken({**COMMITTED, **twins, name: bound}))


@pytest.mark.parametrize("name", [gate[0] for gate in GATES.BOUNDS if "publish_over_raw" in gate[0]])
def test_where_the_clock_tells_equals_apart_a_publish_is_not_measured(name, tmp_path):
    twin = name.replace("publish_over_raw", "twin_over_raw")

    def verdict(publish, twins):
        figures = {**COMMITTED, name: publish, twin: twins}
        found = [holds for holds, text, _ in GATES.check(figures, COMMITTED) if text.startswith(f"{name} = ")]
        assert len(found) == 1
        return found[0]

    for twins in (0.95, 1.05):
        assert verdict(0.96, twins) is None and verdict(0.98, twins) is True
    assert verdict(0.96, 1.02) is False and verdict(0.96, 0.98) is False
    (tmp_path / "figures.json").write_text(json.dumps({**COMMITTED, name: 0.96, twin: 0.95}))
    command = [sys.executable, SCRIPT, tmp_path / "figures.json"]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    assert f"not measured {name} = 0.96" in printed and f"ok     {name} = " not in printed
    assert printed.splitlines()[-1].endswith("1 not measured")


@pytest.mark.parametrize("ours,plain,most", GATES.STEPS)
def test_more_instructions_break_their_gate(ours, plain, most):
    def verdict(figures):
        found = [holds for holds, text, _ in GATES.check(figures, COMMITTED) if text.startswith((f"steps.{ours} ", f"steps.{ours}:"))]
        assert len(found) == 1
        return found[0]

    raw = COMMITTED[f"steps.{plain}"]
    assert verdict({**COMMITTED, f"steps.{ours}": raw * most}) is True
    assert verdict({**COMMITTED, f"steps.{ours}": raw * most + 1}) is False
    assert verdict({name: value for name, value in COMMITTED.items() if not name.startswith("steps.")}) is None


@pytest.mark.parametrize("ours,plain", GATES.WATCHED)
def test_a_loop_that_stalls_is_no_machine_that_was_away(ours, plain):
    def verdict(away):
        figures = {**COMMITTED, f"{ours}.away": away, f"{plain}.away": 0.02}
        found = [holds for holds, text, _ in GATES.check(figures, COMMITTED) if text.startswith(f"{ours}.away")]
        assert len(found) == 1
        return found[0]

    assert verdict(0.089) is True and verdict(0.091) is False


def test_a_plain_loop_that_loses_nothing_shows_that_so_many_were_no_load():
    found = broken({**COMMITTED, "b2.raw.400k.many.lost": 0.0})
    assert len(found) == 1 and found[0].startswith("b2.raw.400k.many.lost = 0,"), found


@pytest.mark.parametrize("name", [name for name in COMMITTED if name.startswith("allocs.")])
def test_one_allocation_more_breaks_its_gate(name):
    found = broken({**COMMITTED, name: COMMITTED[name] + 1})
    assert any(text.startswith(name) for text in found), found


@pytest.mark.parametrize("name", GATES.RATIOS)
def test_a_ratio_more_than_a_tenth_under_the_baseline_breaks_its_gate(name):
    # A baseline so much better that the gate's own bound holds: only the fall against it is left to be seen.
    baseline = {**COMMITTED, name: 2.0 * max(COMMITTED[name], 1.0)}
    fallen = 0.89 * baseline[name]
    assert bound_holds(name, fallen)
    found = [text for text in broken({**COMMITTED, name: fallen}, baseline) if text.startswith(f"{name} = ")]
    assert len(found) == 1 and "baseline - 10 %" in found[0], found
    assert not [text for text in broken({**COMMITTED, name: 0.91 * baseline[name]}, baseline) if text.startswith(f"{name} = ")]


@pytest.mark.parametrize("name", [name for name in GATES.RATIOS if name.startswith(("b2", "b4"))])
def test_the_committed_baseline_sees_a_fall_of_a_tenth_that_the_bound_does_not(name):
    assert bound_holds(name, 0.89 * COMMITTED[name])
    found = broken({**COMMITTED, name: 0.89 * COMMITTED[name]})
    assert [text for text in found if "baseline - 10 %" in text and text.startswith(f"{name} = ")], found


def test_a_better_baseline_makes_the_script_fail(tmp_path):
    better = {name: 1.3 * value if name in GATES.RATIOS else value for name, value in COMMITTED.items()}
    code, lines = run(tmp_path, COMMITTED, better)
    assert code == 1
    assert len(lines) == len(GATES.RATIOS) and all("baseline - 10 %" in line for line in lines), lines


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
