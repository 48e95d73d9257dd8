"""What `abruzzi doctor` says of a vLLM that runs is true."""

from __future__ import annotations

import json

from click.testing import CliRunner

from abruzzi.cli.commands import main
from tests.real.vllm_serve import Vllm


def test_the_doctor_tells_the_truth(vllm: Vllm) -> None:
    result = CliRunner().invoke(main, ["doctor", vllm.url, "--variant", "k2", "--json"])
    assert result.exit_code == 0, result.output
    found = {one["subject"]: (one["found"], one["verdict"]) for one in json.loads(result.stdout)}
    assert found["engine"] == ("vLLM 0.32.0", "good")
    assert found["unknown fields"] == ("ignored", "fair")
    assert found["special tokens"] == ("kept", "good")
    lark, tag = found["grammar by structured_outputs.grammar"], found["grammar by structured_outputs.structural_tag"]
    # llguidance takes no structural tags; xgrammar reads Lark as something else, which fails or isn't obeyed.
    assert (lark[1], tag[1]) == (("good", "fair") if vllm.backend == "guidance" else ("fair", "good")), (lark, tag)
    assert found["end of turn"] == ("stops at <|im_end|>", "good")
    for subject in ("token ids in", "token ids out", "prefix", "logprobs"):
        assert found[subject][1] == "good", (subject, found[subject])
    assert found["a client that leaves"][0].startswith("ends its request")
