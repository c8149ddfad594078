"""The counting of tests/run.sh, on what the runners really print: a sum that is wrong would hide failures."""

import subprocess

import pytest

from conftest import ROOT

NEXTEST = """        PASS [   0.055s] (17/18) arqon-test-support::nats nats_source_is_real
  stdout ---
    test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out; finished in 0.05s
     Summary [   0.586s] 18 tests run: {passed}, {failed}0 skipped
        FAIL [   0.284s] (10/18) arqon-test-support::nats a_binary_can_be_stopped
"""
CASES = {
    "libtest, two binaries": ("test result: ok. 8 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0s\n"
                              "test result: FAILED. 9 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out\n", "17 2"),
    "nextest, all well": (NEXTEST.format(passed="18 passed (2 slow)", failed=""), "18 0"),
    "nextest, one failed": (NEXTEST.format(passed="17 passed", failed="1 failed, "), "17 1"),
    "nextest, one passed at the second try": (NEXTEST.format(passed="18 passed (1 flaky)", failed=""), "18 0"),
    "nextest, one timed out": (NEXTEST.format(passed="17 passed (1 slow)", failed="1 timed out, "), "17 1"),
    "nextest, in colour": ("\x1b[32;1m     Summary\x1b[0m [   0.1s] \x1b[1m1\x1b[0m test run: \x1b[1m1\x1b[0m \x1b[32;1mpassed\x1b[0m, 0 skipped\n",
                           "1 0"),
    "pytest, all well": ("23 passed in 0.07s\n", "23 0"),
    "pytest, failures and errors": ("2 failed, 5 passed, 18 errors in 1.07s\n", "5 20"),
    "pytest, past a minute": ("5 passed in 75.02s (0:01:15)\n", "5 0"),
    "a script": ("12 passed, 1 failed\n", "12 1"),
    "the contract": ("ready: saw False\ncontract: 40 of 42 shapes hold\n", "40 2"),
    "words that look alike": ("I passed, it failed\nnote: 3 passed, 1 failed here\n5 passed\n", "0 0"),
    "nothing": ("", "0 0"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_runners_print_is_added_up(name, tmp_path):
    printed, sums = CASES[name]
    log = tmp_path / "log"
    log.write_text(printed, encoding="utf-8")
    done = subprocess.run(["bash", "-c", 'source tests/run.sh; count "$1"', "count", str(log)], cwd=ROOT,
                          capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout.strip(), done.stderr) == (sums, "")


def test_what_a_step_leaves_out_is_said_again_at_the_end(tmp_path):
    step = 'printf "not run: the third, for want of a tool\\n2 passed, 0 failed\\n"'
    script = f"source tests/run.sh; logs=$1; run some bash -c '{step}' >/dev/null; printf '%s\\n' \"${{not_run[@]}}\" \"$passed\""
    done = subprocess.run(["bash", "-c", script, "run", str(tmp_path)], cwd=ROOT, capture_output=True, text=True,
                          timeout=30, check=False)
    assert (done.stdout, done.stderr) == ("some: the third, for want of a tool\n2\n", "")


@pytest.mark.parametrize(("failures", "sums", "told"), [(0, "2 0", 0), (1, "2 0", 1), (2, "1 1", 0)])
def test_a_live_step_is_tried_twice_and_one_that_needed_it_is_named(tmp_path, failures, sums, told):
    step = tmp_path / "step"
    step.write_text(f"""echo x >>{tmp_path}/tries
[ $(wc -l <{tmp_path}/tries) -gt {failures} ] || {{ echo "1 passed, 1 failed"; exit 1; }}
echo "2 passed, 0 failed"
""", encoding="utf-8")
    script = 'source tests/run.sh; logs=$1 live=true; run some bash "$1/step" >/dev/null; echo "$passed $failed ${#flaky[@]}"'
    done = subprocess.run(["bash", "-c", script, "run", str(tmp_path)], cwd=ROOT, capture_output=True, text=True,
                          timeout=30, check=False)
    assert (done.stdout, done.stderr) == (f"{sums} {told}\n", "")
    assert len((tmp_path / "tries").read_text().splitlines()) == min(failures + 1, 2)


def test_what_nextest_calls_flaky_is_named(tmp_path):
    step = "printf '     Summary [   1.0s] 2 tests run: 2 passed (1 flaky), 0 skipped\\n   FLAKY 2/3 [   0.1s] a::serve f10\\n'"
    script = 'source tests/run.sh; logs=$1; run some bash -c "$2" >/dev/null; printf "%s|" "$passed" "$failed" "${flaky[@]}"'
    done = subprocess.run(["bash", "-c", script, "run", str(tmp_path), step], cwd=ROOT, capture_output=True, text=True,
                          timeout=30, check=False)
    assert (done.stdout, done.stderr) == ("2|0|some: 2/3 [   0.1s] a::serve f10|", "")
