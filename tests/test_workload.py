"""Workload files: what is read, and how every bad file is refused with one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.cluster import Node
from dilu_core.errors import FileFormatError
from dilu_core.mig import A100_40GB
from dilu_core.workload import read_workload

TABLE = "function,batch,sm_milli,latency_ms,memory_mib\nbert,1,500,10,2000\nbert,2,500,12,2100\nbert,4,1000,9,2300\n"
GOOD = """
profiles = "table.csv"
price_per_gpu_hour = 1.5
[plan]
quantile = 0.9
[oversubscription]
limit_milli = 1400
[gpu_types.A100]
memory_mib = 40960
[[nodes]]
name = "node"
count = 2
gpu_type = "A100"
gpus = 4
[[functions]]
name = "bért ☂"
profile = "bert"
kind = "inference"
slo_ms = 100
load_rps = 50
affinity = ["other"]
"""


def _write(folder: Path, text: str) -> Path:
    (folder / "table.csv").write_text(TABLE, encoding="utf-8")
    path = folder / "workload.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_everything_arrives(tmp_path: Path) -> None:
    """Functions, nodes, caps, options and price are read as written; `count` numbers the nodes."""
    workload = read_workload(_write(tmp_path, GOOD))
    (function,) = workload.functions
    assert (function.name, function.slo_ms, function.affinity) == ("bért ☂", 100.0, ("other",))
    assert len(function.samples) == 3
    a100 = workload.cluster.gpu_types[0]
    assert workload.cluster.nodes == (Node("node-0", a100, 4), Node("node-1", a100, 4))
    assert (workload.oversubscription.request_milli, workload.oversubscription.limit_milli) == (1000, 1400)
    assert (workload.options, workload.price_per_gpu_hour) == ({"quantile": 0.9}, 1.5)


LLM = """
profiles = "table.csv"
[gpu_types.A100]
memory_mib = 40960
[[functions]]
name = "llm"
kind = "llm-inference"
profile = "bert"
prefill_profile = "prefill"
ttft_slo_ms = 800
tpot_slo_ms = 50
prompt_tokens = 500
output_tokens = 200
ttft_prompt_tokens = 900
load_rps = 2
"""


def _write_llm(folder: Path, text: str) -> Path:
    path = _write(folder, text)
    rows = "prefill,128,500,30,2000\nprefill,512,500,100,2100\nprefill,1024,1000,110,2300\n"
    (folder / "table.csv").write_text(TABLE + rows, encoding="utf-8")
    return path


def test_gpu_types_may_be_partitioned(tmp_path: Path) -> None:
    """`mig` names a published geometry; another name is refused with those there are."""
    text = GOOD.replace("memory_mib = 40960", 'memory_mib = 40960\nmig = "A100-40GB"')
    assert read_workload(_write(tmp_path, text)).cluster.gpu_types[0].mig is A100_40GB
    with pytest.raises(FileFormatError, match=r"gpu_types\.A100\.mig"):
        read_workload(_write(tmp_path, text.replace('mig = "A100', 'mig = "B100')))


def test_an_llm_has_two_profiles(tmp_path: Path) -> None:
    """`prefill_profile` names the rows of the second surface, and the other fields are those of FunctionSpec."""
    (function,) = read_workload(_write_llm(tmp_path, LLM)).functions
    assert function.phases is not None
    assert function.phases.prefill_samples.batch.tolist() == [128, 512, 1024]
    assert function.samples.batch.tolist() == [1, 2, 4]
    assert (function.ttft_slo_ms, function.tpot_slo_ms, function.slo_ms) == (800.0, 50.0, None)
    assert (function.prompt_tokens, function.output_tokens, function.ttft_prompt_tokens) == (500, 200, 900)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"prefill"', '"prefil"', r"functions\[0\]\.prefill_profile is 'prefil'.*did you mean 'prefill'"),
        ('"prefill"', "3", r"functions\[0\]\.prefill_profile is 3"),
        (
            'prefill_profile = "prefill"',
            "",
            r"functions\[0\]\.prefill_profile of 'llm' is missing; ttft_slo_ms is given",
        ),
        ("ttft_slo_ms = 800", "", r"functions\[0\]\.ttft_slo_ms of 'llm' is missing; prefill_profile is given"),
        ("tpot_slo_ms = 50", "tpot_slo_ms = 50\nslo_ms = 9", r"functions\[0\]\.slo_ms of 'llm' is given beside"),
        ("output_tokens = 200", "output_tokens = 1", r"functions\[0\]\.output_tokens is 1"),
        ("llm-inference", "inference", r"functions\[0\]\.prefill_profile is given for inference function"),
        ("prefill_profile", "prefill_samples", r"functions\[0\]\.prefill_samples is not a known key"),
    ],
)
def test_mistakes_about_phases_are_refused_by_entry(tmp_path: Path, old: str, new: str, message: str) -> None:
    """One mistake in a good LLM entry is an error in the words of the file."""
    assert old in LLM
    with pytest.raises(FileFormatError, match=message):
        read_workload(_write_llm(tmp_path, LLM.replace(old, new, 1)))


def test_nothing_but_a_gpu_type_is_an_empty_workload(tmp_path: Path) -> None:
    """No functions and no nodes are legal: a plan of nothing on nothing."""
    workload = read_workload(_write(tmp_path, "[gpu_types.A100]\nmemory_mib = 1\n"))
    assert workload.functions == ()
    assert workload.cluster.gpus == 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('kind = "inference"', 'kind = "inferencing"', r"functions\[0\]\.kind is 'inferencing'"),
        ("slo_ms = 100", "slo = 100", r"functions\[0\]\.slo is not a known key \(did you mean 'slo_ms'\?\)"),
        ("slo_ms = 100", "slo_ms = -1", r"functions\[0\]\.slo_ms is -1"),
        ("slo_ms = 100", "", r"functions\[0\]\.slo_ms of inference function"),
        ('profile = "bert"', 'profile = "brt"', r"functions\[0\]\.profile is 'brt'.*did you mean 'bert'"),
        ('kind = "inference"', "", r"functions\[0\]\.kind is missing"),
        ('name = "bért ☂"', 'name = ""', r"functions\[0\]\.name is empty"),
        ('gpu_type = "A100"', 'gpu_type = "H100"', r"nodes\[0\]\.gpu_type is 'H100'"),
        ('gpu_type = "A100"', "gpu_type = [1]", r"nodes\[0\]\.gpu_type is \[1\]"),
        ('profile = "bert"', "profile = []", r"functions\[0\]\.profile is \[\]"),
        ('kind = "inference"', "kind = []", r"functions\[0\]\.kind is \[\]"),
        ("affinity = [", "gpu_types = [[1]]\naffinity = [", r"functions\[0\]\.gpu_types\[0\] is \[1\]"),
        ("gpus = 4", "gpus = 0", r"nodes\[0\]\.gpus is 0"),
        ("gpus = 4", "", r"nodes\[0\]\.gpus is missing"),
        ("count = 2", "count = -2", r"nodes\[0\]\.count is -2"),
        ("memory_mib = 40960", "", r"gpu_types\.A100\.memory_mib is missing"),
        ("[gpu_types.A100]\nmemory_mib = 40960", "", r"gpu_types is missing"),
        ("limit_milli = 1400", "limit_milli = 14", r"oversubscription\.limit_milli is 14"),
        ("quantile = 0.9", "quantil = 0.9", r"plan\.quantil is not a known key"),
        ("price_per_gpu_hour = 1.5", "price_per_gpu_hour = -1", r"price_per_gpu_hour is -1"),
        ('profiles = "table.csv"', 'profiles = "missing.csv"', r"profiles\[0\] is 'missing.csv', which cannot be read"),
        ('profiles = "table.csv"', "profiles = [3]", r"profiles\[0\]"),
        ('profiles = "table.csv"', 'profiles = ["table.csv", "table.csv"]', r"profiles\[1\].*repeats.*'bert'"),
        ('"table.csv"', '{ path = "table.csv", functions = ["gpt"] }', r"profiles\[0\]\.functions names 'gpt'"),
        ('"table.csv"', '{ file = "table.csv" }', r"profiles\[0\]\.file is not a known key"),
        ("[[functions]]", "[functions]", r"functions is .*expected \[\[functions\]\]"),
        ("[plan]", "[plan", r"is not valid TOML"),
    ],
)
def test_bad_files_are_refused_by_entry(tmp_path: Path, old: str, new: str, message: str) -> None:
    """One mistake in a good file raises an error with the file's name and the entry at fault."""
    assert old in GOOD
    path = _write(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(FileFormatError, match=message) as caught:
        read_workload(path)
    assert str(path) in str(caught.value)


def test_a_bad_table_is_named_itself(tmp_path: Path) -> None:
    """An error inside the profile table points at the table and its line, not at the workload."""
    path = _write(tmp_path, GOOD)
    (tmp_path / "table.csv").write_text(TABLE.replace("bert,2,500", "bert,2,5000"), encoding="utf-8")
    with pytest.raises(FileFormatError, match=r"table\.csv:3"):
        read_workload(path)


def test_variables_of_the_environment_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table's path may start with a variable; one that is not set is read as it stands, and not found."""
    path = _write(tmp_path, GOOD.replace('"table.csv"', '"${TABLES}/table.csv"'))
    monkeypatch.setenv("TABLES", str(tmp_path))
    assert len(read_workload(path).functions) == 1
    monkeypatch.delenv("TABLES")
    with pytest.raises(FileFormatError, match=r"\$\{TABLES\}/table.csv.*cannot be read"):
        read_workload(path)


def test_duplicate_functions_are_refused(tmp_path: Path) -> None:
    """Two functions of one name cannot be told apart."""
    again = '[[functions]]\nname = "bért ☂"\nprofile = "bert"\nkind = "inference"\nslo_ms = 1\n'
    with pytest.raises(FileFormatError, match=r"functions\[1\] repeats the name"):
        read_workload(_write(tmp_path, GOOD + again))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    """A binary file is an error about encoding."""
    path = tmp_path / "workload.toml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(FileFormatError, match="UTF-8"):
        read_workload(path)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Whatever stands in the file, the answer is a workload or a FileFormatError."""
    path = tmp_path_factory.mktemp("any") / "workload.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FileFormatError):  # no random text holds the one table that is required
        read_workload(path)
