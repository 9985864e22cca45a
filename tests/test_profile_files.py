"""read_profiles: tables as people write them, and one clear sentence for those it cannot read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.errors import FileFormatError, InvalidArgumentError
from dilu_core.profile_files import read_profiles

HEADER = "function,batch,sm_milli,latency_ms\n"


def write(folder: Path, text: str, *, encoding: str = "utf-8") -> Path:
    path = folder / "profile.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_reads_what_spreadsheets_write(tmp_path: Path) -> None:
    """Byte order mark, CRLF, blank lines, comments, spaces, extra and reordered columns, Unicode, quoted commas."""
    text = (
        "\ufeff# measured on a Tuesday\r\n\r\nlatency_ms, batch ,color,function,sm_milli,memory_mib\r\n"
        '10.5,1,red,"größe, 大",100,700\r\n  # a remark, with a comma\r\n,,,,,\r\n20,2.0,blue,"größe, 大",1e2,\r\n'
    )
    (samples,) = read_profiles(write(tmp_path, text)).values()
    assert samples.function == "größe, 大"
    assert samples.batch.tolist() == [1, 2]
    assert samples.latency_ms.tolist() == [10.5, 20.0]
    assert samples.memory_mib is not None
    assert samples.memory_mib[0] == 700


def test_functions_come_in_order_of_appearance(tmp_path: Path) -> None:
    """Rows of a function need not stand together."""
    found = read_profiles(write(tmp_path, HEADER + "b,1,100,5\na,1,100,4\nb,2,100,6\n"))
    assert list(found) == ["b", "a"]
    assert len(found["b"]) == 2
    assert found["a"].memory_mib is None


@pytest.mark.parametrize("code", ["", "nan", "0", "-1", "9999", "inf"])
def test_failed_rows_are_dropped_and_counted_or_refused(tmp_path: Path, code: str) -> None:
    """By default a failed row leaves a count; failed="error" refuses the file at its line."""
    path = write(tmp_path, HEADER + f"f,1,100,5\nf,2,100,{code}\n")
    samples = read_profiles(path)["f"]
    assert (len(samples), samples.dropped) == (1, 1)
    with pytest.raises(FileFormatError, match=r"profile.csv:3: failed measurement of 'f'"):
        read_profiles(path, failed="error")


def test_a_function_that_failed_throughout_is_named(tmp_path: Path) -> None:
    """One good function does not hide another that has nothing."""
    path = write(tmp_path, HEADER + "good,1,100,5\nbad,1,100,0\nbad,2,100,-1\n")
    with pytest.raises(FileFormatError, match=r"profile.csv:3: every measurement of function 'bad' failed"):
        read_profiles(path)


def test_rows_of_one_cell_under_different_notes_must_be_chosen(tmp_path: Path) -> None:
    """Mixing experiments is an error that says how to choose; choosing gives the plain table."""
    text = "function,batch,sm_milli,latency_ms,note\nf,1,143,13,n_proc=1\nf,1,143,19,n_proc=2\nf,2,143,20,n_proc=1\n"
    path = write(tmp_path, text)
    with pytest.raises(FileFormatError, match=r"profile.csv:3: 'f' at batch 1, share 143 .*'n_proc=1'.*note="):
        read_profiles(path)
    assert read_profiles(path, note="n_proc=1")["f"].latency_ms.tolist() == [13, 20]
    with pytest.raises(FileFormatError, match="no measurement with note='n_proc=9'"):
        read_profiles(path, note="n_proc=9")


def test_notes_that_differ_between_cells_are_only_remarks(tmp_path: Path) -> None:
    """A note on another cell is no mixture."""
    text = "function,batch,sm_milli,latency_ms,note\nf,1,143,13,warm\nf,2,143,19,\n"
    assert len(read_profiles(write(tmp_path, text))["f"]) == 2
    assert len(read_profiles(write(tmp_path, text), note="")["f"]) == 1


def test_gpu_types_of_one_function_must_be_chosen(tmp_path: Path) -> None:
    """Latencies of two GPU types are not one function's samples."""
    path = write(tmp_path, "function,batch,sm_milli,latency_ms,gpu_type\nf,1,100,5,A100\nf,2,100,9,V100\n")
    with pytest.raises(FileFormatError, match=r"'f' is measured on 'A100' and 'V100'.*gpu_type="):
        read_profiles(path)
    assert read_profiles(path, gpu_type="V100")["f"].gpu_type == "V100"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("# only a remark\n\n", "is empty"),
        (HEADER, "no measurement in it"),
        ("function,batch,latency_ms\nf,1,2\n", "profile.csv:1: no column sm_milli"),
        ("a;b;c\n1;2;3\n", "no column function, batch, sm_milli, latency_ms"),
        ("function,batch,batch,sm_milli,latency_ms\n", "column batch stands twice"),
        (HEADER + "f,1,100\n", "profile.csv:2: 3 fields under a header of 4"),
        (HEADER + "# remark\nf,one,100,5\n", "profile.csv:3: batch is 'one'; expected a number"),
        (HEADER + "f,0,100,5\n", "batch is '0'; expected a whole number"),
        (HEADER + "f,1,0.5,5\n", "sm_milli is '0.5'; expected a whole number between 1 and 1000"),
        (HEADER + "f,1,,5\n", "sm_milli is ''"),
        (HEADER + "f,1,1200,5\n", "sm_milli is '1200'"),
        (HEADER + "f,1,100,fast\n", "latency_ms is 'fast'"),
        (HEADER + ",1,100,5\n", "function is empty"),
        (HEADER + 'f,1,100,"5\n', "not well-formed CSV"),
        ("function,batch,sm_milli,latency_ms,memory_mib\nf,1,100,5,-3\n", "memory_mib is '-3'"),
        (HEADER + "f\0,1,100,5\n", "not a text file"),
    ],
)
def test_bad_files_get_one_sentence_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    """Path, line and what was expected, in one line."""
    with pytest.raises(FileFormatError) as caught:
        read_profiles(write(tmp_path, text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_encodings_and_missing_files_say_so(tmp_path: Path) -> None:
    """UTF-16 is refused as no UTF-8; a missing file is the OSError it is; a bad choice is named."""
    with pytest.raises(FileFormatError, match=r"not UTF-8 text|not a text file"):
        read_profiles(write(tmp_path, HEADER + "f,1,100,5\n", encoding="utf-16"))
    with pytest.raises(FileNotFoundError):
        read_profiles(tmp_path / "nothing.csv")
    with pytest.raises(InvalidArgumentError, match="failed is 'keep'"):
        read_profiles(tmp_path / "nothing.csv", failed="keep")  # type: ignore[arg-type]


names = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1).filter(lambda s: s[0] != "#")


@given(st.lists(st.tuples(names, st.integers(1, 512), st.integers(1, 1000), st.floats(0.001, 9998)), min_size=1))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, table: list[tuple]) -> None:
    """Any names and values come back, grouped by function, in order."""
    quoted = [(name.replace('"', '""'), *values) for name, *values in table]
    text = HEADER + "".join(f'"{name}",{b},{s},{t!r}\n' for name, b, s, t in quoted)
    found = read_profiles(write(tmp_path_factory.mktemp("csv"), text))
    for name in {row[0] for row in table}:
        assert found[name].latency_ms.tolist() == [t for n, _, _, t in table if n == name]


def test_the_published_tables_are_read_whole(data_dir: Path) -> None:
    """Every row of the measured tables is a sample of some function."""
    assert sum(map(len, read_profiles(data_dir / "profiles" / "dilu_a100.csv").values())) == 300
    assert sum(map(len, read_profiles(data_dir / "profiles" / "igniter_v100.csv").values())) == 648
    parva = data_dir / "profiles" / "parvagpu_a100.csv"
    assert sum(map(len, read_profiles(parva, note="n_proc=1").values())) == 420
    with pytest.raises(FileFormatError, match="n_proc"):
        read_profiles(parva)


def test_a_failed_row_may_have_failed_memory(tmp_path: Path) -> None:
    """A run that died for lack of memory writes -1 in both columns, and costs only its own row."""
    text = "function,batch,sm_milli,latency_ms,memory_mib\na,1,100,-1,-1\na,1,200,5,900\n"
    (samples,) = read_profiles(write(tmp_path, text)).values()
    assert (len(samples), samples.dropped) == (1, 1)


def test_absurd_batches_are_refused_by_line(tmp_path: Path) -> None:
    """A batch beyond exact integers is named with its line."""
    with pytest.raises(FileFormatError, match=r":2: batch is '1e300'"):
        read_profiles(write(tmp_path, HEADER + "a,1e300,100,5\n"))
