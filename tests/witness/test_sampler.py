"""The sampler, recomputed: by another library than the project's, and by exact arithmetic instead of floats."""

import fractions
import json
import subprocess
import sys

import pytest
import xxhash


@pytest.fixture(scope="module")
def golden(vectors):
    return json.loads((vectors / "sampler.json").read_text(encoding="utf-8"))


def key_of(row) -> bytes:
    return bytes.fromhex(row["key_hex"]) if "key_hex" in row else row["key"].encode()


def border(share: float) -> int:
    """floor(share * 2^64) with no rounding anywhere: a double is a fraction of integers."""
    return fractions.Fraction(share) * 2**64 // 1


def is_in(key: bytes, seed: int, share: float) -> bool:
    return share >= 1 or xxhash.xxh3_64(key, seed=seed).intdigest() < border(share)


def test_hashes_are_xxh3(golden):
    assert len(golden["hashes"]) > 100
    for row in golden["hashes"]:
        assert xxhash.xxh3_64(key_of(row), seed=int(row["seed"])).hexdigest() == row["hash"], row


def test_thresholds_are_exact(golden):
    for row in golden["thresholds"]:
        share = row["fraction"]
        expected = "always" if share >= 1 else f"{border(share):016x}" if border(share) else "never"
        assert row["below"] == expected, row


def test_decisions_follow(golden):
    for row in golden["decisions"]:
        assert is_in(key_of(row), int(row["seed"]), row["fraction"]) == row["in"], row


def test_who_is_in_at_a_share_is_in_at_every_greater_one(golden):
    found = {}
    for row in golden["decisions"]:
        found.setdefault((row["key"], row["seed"]), []).append((row["fraction"], row["in"]))
    for key, answers in found.items():
        said = [answer for _, answer in sorted(answers)]
        assert said == sorted(said), key
        assert (said[0], said[-1]) == (False, True), "0 and 1 are exact"


def test_the_file_is_what_its_script_makes(vectors):
    sys.path.insert(0, str(vectors))
    try:
        import make_sampler
    finally:
        sys.path.pop(0)
    made = make_sampler.render(make_sampler.vectors())
    assert (vectors / "sampler.json").read_text(encoding="utf-8") == made


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
@pytest.mark.parametrize("share", ["0", "0.05", "0.1", "10%", "0.5", "1"])
def test_the_command_line_says_the_same(arqon, seed, share):
    keys = [f"{n:032x}" for n in range(500)] + ["a", "trace-1", "Ключ", "🦀"]
    done = subprocess.run([arqon, "sample", "--percent", share, "--seed", str(seed)], input="\n".join(keys) + "\n",
                          capture_output=True, text=True, encoding="utf-8", timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    number = float(share[:-1]) / 100 if share.endswith("%") else float(share)
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == keys
    for key, said, digest in rows:
        assert digest == xxhash.xxh3_64(key.encode(), seed=seed).hexdigest(), key
        assert said == ("in" if is_in(key.encode(), seed, number) else "out"), key
