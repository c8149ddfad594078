"""The governance vectors, by PyPI rfc8785 and cryptography: the witness stands beside the vectors it reads."""

import json
import re
import subprocess
import sys


def test_digests_and_signatures_agree_with_other_libraries(vectors):
    folder = vectors / "governance"
    done = subprocess.run([sys.executable, str(folder / "check.py")], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    said = re.fullmatch(r"(\d+) digests, (\d+) envelopes, (\d+) signatures: all agree\n", done.stdout)
    assert said, done.stdout
    assert int(said[2]) == len(json.loads((folder / "envelopes.json").read_text(encoding="utf-8"))["envelopes"]) > 0
    assert int(said[1]) > 0 and int(said[3]) > 0
