#!/usr/bin/env python3
"""Writes sampler.json, the golden vectors of the sampler, with the reference implementation of XXH3 (PyPI xxhash)."""

import json
import pathlib

import xxhash

FILE = pathlib.Path(__file__).with_name("sampler.json")

SEEDS = [0, 1, 42, 2**53 + 1, 2**63, 2**64 - 1]
TRACES = [
    "0af7651916cd43dd8448eb211c80319c",
    "4bf92f3577b34da6a3ce929d0e0e4736",
    "12345678901234567890123456789012",
    "ffffffffffffffffffffffffffffffff",
]
TEXTS = ["", "a", "abc", "trace-1", "c:0af7651916cd43dd8448eb211c80319c", "Ключ", "🦀", *TRACES]
# XXH3 has its own code for 0, 1-3, 4-8, 9-16, 17-128, 129-240 and more bytes.
LENGTHS = [1, 3, 4, 8, 9, 16, 17, 32, 33, 128, 129, 240, 241, 1024, 4097]
FRACTIONS = [0.0, 5e-324, 1e-19, 2.0**-64, 1e-9, 0.001, 0.01, 0.05, 0.1, 0.2, 0.25, 1 / 3, 0.5, 0.75, 0.9, 0.999,
             1 - 2.0**-53, 1.0]


def digest(key: bytes, seed: int) -> int:
    return xxhash.xxh3_64_intdigest(key, seed)


def below(fraction: float):
    """The exclusive border. A double times 2^64 is exact, and so is its integer part."""
    if fraction >= 1.0:
        return "always"
    border = int(fraction * 2.0**64)
    return f"{border:016x}" if border else "never"


def decide(key: bytes, seed: int, fraction: float) -> bool:
    border = below(fraction)
    return border == "always" or (border != "never" and digest(key, seed) < int(border, 16))


def vectors() -> dict:
    hashes = [{"key": key, "seed": str(seed), "hash": f"{digest(key.encode(), seed):016x}"}
              for key in TEXTS for seed in SEEDS]
    for length in LENGTHS:
        key = bytes((7 * n + length) % 256 for n in range(length))
        hashes += [{"key_hex": key.hex(), "seed": str(seed), "hash": f"{digest(key, seed):016x}"} for seed in SEEDS[:3]]
    keys = TRACES + [f"{n:032x}" for n in range(1, 21)]
    decisions = [{"key": key, "seed": str(seed), "fraction": fraction, "in": decide(key.encode(), seed, fraction)}
                 for key in keys for seed in SEEDS[:2] for fraction in (0.0, 0.05, 0.1, 0.5, 1.0)]
    return {
        "about": "XXH3-64 with a seed, below floor(fraction * 2^64); made by make_sampler.py",
        "hashes": hashes,
        "thresholds": [{"fraction": fraction, "below": below(fraction)} for fraction in FRACTIONS],
        "decisions": decisions,
    }


def render(made: dict) -> str:
    """One vector a line, so that a change shows in a diff."""
    lines = ["{", f'"about": {json.dumps(made["about"])},']
    names = ["hashes", "thresholds", "decisions"]
    for name in names:
        rows = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in made[name])
        lines.append(f'"{name}": [\n{rows}\n]' + ("," if name != names[-1] else ""))
    return "\n".join([*lines, "}", ""])


if __name__ == "__main__":
    FILE.write_text(render(vectors()), encoding="utf-8")
