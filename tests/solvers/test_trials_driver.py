"""run_trials and profile_function drive any measurement; the picture draws what they did."""

from __future__ import annotations

import json
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event
from time import sleep
from typing import Any

import pytest

from dilu_core.errors import InvalidArgumentError
from dilu_core.performance import RooflineModel
from dilu_core.profiling import profile_function
from dilu_core.quota import QuotaGrid
from dilu_core.result import TerminationReason
from dilu_core.solvers.trials.drive import run_trials
from dilu_core.solvers.trials.search import TrialSearch
from dilu_core.trial_plots import plot_trials
from dilu_core.trials import Trial

GRID = QuotaGrid((1, 2, 4, 8, 16), tuple(range(100, 1001, 100)))
MODEL = RooflineModel(8.0, 0.2, 1.5, 1.2, 0.4, 3.0)


def measure(batch: int, sm_milli: int) -> float:
    return float(MODEL.latency_ms(batch, sm_milli))


def _never(batch: int, sm_milli: int) -> float:
    pytest.fail(f"measured batch {batch}, share {sm_milli}")


def _read(file: Path) -> TrialSearch:
    return TrialSearch.from_dict(json.loads(file.read_text(encoding="utf-8")))


class OutOfMemoryError(RuntimeError):
    """What deep-learning frameworks raise, by name."""


def test_a_function_is_profiled_in_one_call() -> None:
    """The result holds the best cell, every sample, why it stopped and what it cost."""
    result = profile_function(measure, GRID, slo_ms=120, progress=False)
    assert result.best is not None
    assert result.best.latency_ms == measure(result.best.batch, result.best.request_milli) <= 60
    assert result.samples is not None
    assert len(result.samples) == len(result.records) == result.stats.counts["trials"]
    assert result.stats.counts["cells"] <= len(result.records)
    assert all(record.gpu_s is not None for record in result.records)
    assert result.termination.reason in (TerminationReason.OPTIMAL, TerminationReason.FEASIBLE)


def test_the_default_grid_and_settings_pass_through() -> None:
    """Any keyword of TrialSearch; the grid is the regular one."""
    result = profile_function(measure, slo_ms=120, progress=False, max_trials=2, strategy="hybrid-growth")
    assert [record.trial for record in result.records] == [Trial(1, 50), Trial(2, 50)]


def test_memory_is_told_and_running_out_of_it_is_a_failed_trial() -> None:
    """A pair is latency and memory; an out-of-memory error ends nothing but the trial."""

    def hungry(batch: int, sm_milli: int) -> tuple[float, float]:
        if batch > 4:
            raise OutOfMemoryError("CUDA out of memory")
        return measure(batch, sm_milli), 1000.0 * batch

    result = profile_function(hungry, GRID, slo_ms=400, progress=False)
    assert result.best is not None
    assert result.best.batch == 4
    assert sum(record.out_of_memory for record in result.records) <= 2
    assert result.samples is not None
    assert result.samples.memory_mib is not None
    assert result.samples.dropped == sum(record.out_of_memory for record in result.records)


def test_another_error_is_raised_and_the_search_keeps_what_it_knew(tmp_path: Path) -> None:
    """It may be continued from the file, with the interrupted trial first, to the same answer."""
    calls: list[Trial] = []

    def flaky(batch: int, sm_milli: int) -> float:
        calls.append(Trial(batch, sm_milli))
        if len(calls) == 3:
            raise ValueError("driver lost")
        return measure(batch, sm_milli)

    file = tmp_path / "search.json"
    search = TrialSearch(GRID, slo_ms=120)
    with pytest.raises(ValueError, match="driver lost"):
        run_trials(search, flaky, checkpoint=file)
    assert len(search.trials) == 2
    assert search.outstanding == (calls[2],)
    whole = run_trials(TrialSearch(GRID, slo_ms=120), measure)
    again = run_trials(search, measure)
    assert again.best == whole.best
    assert [record.trial for record in again.records] == [record.trial for record in whole.records]
    restored = TrialSearch.from_dict(json.loads(file.read_text(encoding="utf-8")))
    assert profile_function(measure, search=restored, progress=False).best == whole.best
    assert [path.name for path in tmp_path.iterdir()] == ["search.json"]


@pytest.mark.parametrize("width", [1, 3])
def test_trials_run_side_by_side(width: int) -> None:
    """An executor gets at most so many at a time, and the answer is as good."""
    with ThreadPoolExecutor(width) as threads:
        result = profile_function(measure, GRID, slo_ms=120, progress=False, executor=threads, parallel=width)
    alone = profile_function(measure, GRID, slo_ms=120, progress=False)
    assert result.best is not None
    assert alone.best is not None
    assert result.best.efficacy == pytest.approx(alone.best.efficacy, rel=0.02)


def test_an_error_side_by_side_is_raised() -> None:
    """Trials that raise are not told."""

    def broken(batch: int, sm_milli: int) -> float:
        raise ValueError("driver lost")

    search = TrialSearch(GRID, slo_ms=120)
    with ThreadPoolExecutor(2) as threads, pytest.raises(ValueError, match="driver lost"):
        run_trials(search, broken, executor=threads, parallel=2)
    assert search.trials == ()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_side_by_side_loses_nothing_that_was_measured(error: type[BaseException], tmp_path: Path) -> None:
    """A trial still running when another raises is waited for, told and kept; the one that raised is outstanding."""
    both_began = Barrier(2)
    lost: list[Trial] = []

    def flaky(batch: int, sm_milli: int) -> float:
        if both_began.wait(timeout=10) == 0:
            lost.append(Trial(batch, sm_milli))
            raise error("driver lost")
        sleep(0.1)  # so that it is still running when the other's error is seen
        return measure(batch, sm_milli)

    file = tmp_path / "search.json"
    search = TrialSearch(GRID, slo_ms=120)
    with ThreadPoolExecutor(2) as threads, pytest.raises(error, match="driver lost"):
        run_trials(search, flaky, executor=threads, parallel=2, checkpoint=file)
    (record,) = search.trials
    assert record.latency_ms == measure(record.trial.batch, record.trial.sm_milli)
    assert search.outstanding == tuple(lost)
    assert _read(file).trials == search.trials
    assert _read(file).outstanding == search.outstanding


def test_an_interrupt_of_the_driver_waits_for_trials_that_began(tmp_path: Path) -> None:
    """Here from the progress function; what never began stays outstanding and is run first by the next call."""
    began, go_on = Event(), Event()
    calls: list[Trial] = []

    class OneThread(ThreadPoolExecutor):
        """Lets the running trial end once the driver has cancelled the waiting one."""

        def submit(self, *work: Any, **more: Any) -> Future[Any]:
            future = super().submit(*work, **more)
            future.add_done_callback(lambda ended: go_on.set() if ended.cancelled() else None)
            return future

    def slow(batch: int, sm_milli: int) -> float:
        calls.append(Trial(batch, sm_milli))
        if len(calls) == 2:
            began.set()
            go_on.wait(timeout=10)
        return measure(batch, sm_milli)

    def interrupt(search: TrialSearch) -> None:
        if search.trials:
            assert began.wait(timeout=10)
            raise KeyboardInterrupt

    file = tmp_path / "search.json"
    search = TrialSearch(GRID, slo_ms=120)
    with OneThread(1) as threads, pytest.raises(KeyboardInterrupt):
        run_trials(search, slow, executor=threads, parallel=3, checkpoint=file, progress=interrupt)
    assert [record.trial for record in search.trials] == calls
    assert len(calls) == 2
    assert _read(file).trials == search.trials
    (waiting,) = search.outstanding
    assert run_trials(_read(file), measure, checkpoint=file).records[2].trial == waiting


def test_profiling_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    """The same call again goes on where the first broke off, and once done measures nothing."""
    calls: list[Trial] = []

    def flaky(batch: int, sm_milli: int) -> float:
        calls.append(Trial(batch, sm_milli))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(batch, sm_milli)

    file = tmp_path / "search.json"
    with pytest.raises(KeyboardInterrupt):
        profile_function(flaky, GRID, slo_ms=120, prior=MODEL, progress=False, checkpoint=file)
    result = profile_function(flaky, GRID, slo_ms=120, prior=MODEL, progress=False, checkpoint=file)
    whole = profile_function(measure, GRID, slo_ms=120, prior=MODEL, progress=False)
    assert result.best == whole.best
    assert [record.trial for record in result.records] == [record.trial for record in whole.records]
    assert len(calls) == len(whole.records) + 1
    again = profile_function(_never, GRID, slo_ms=120, prior=MODEL, progress=False, checkpoint=file)
    assert again.records == result.records


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("grid", {"grid": QuotaGrid((1, 2), (500, 1000))}),
        ("slo_ms", {"slo_ms": 130}),
        ("strategy", {"strategy": "hybrid-growth"}),
        ("blocked", {"blocked": [(1, 100)]}),
        ("prior", {"prior": MODEL}),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused_untouched(name: str, asked: dict[str, Any], tmp_path: Path) -> None:
    """Before any measurement; the message says what differs and how to go on."""
    file = tmp_path / "search.json"
    run_trials(TrialSearch(GRID, slo_ms=120, max_trials=2), measure, checkpoint=file)
    before = file.read_bytes()
    arguments: dict[str, Any] = {"grid": GRID, "slo_ms": 120, "max_trials": 2, **asked}
    with pytest.raises(InvalidArgumentError, match=rf"\({name}\).*TrialSearch\.from_dict") as caught:
        profile_function(_never, progress=False, checkpoint=file, **arguments)
    assert caught.value.argument == "checkpoint"
    assert file.read_bytes() == before


def test_a_search_may_replace_only_a_checkpoint_that_it_continues(tmp_path: Path) -> None:
    """A fresh one would lose the trials in the file; the one read from it does not."""
    file = tmp_path / "search.json"
    run_trials(TrialSearch(GRID, slo_ms=120, max_trials=2), measure, checkpoint=file)
    before = file.read_bytes()
    for drive in (run_trials, lambda search, *rest, **more: profile_function(*rest, search=search, **more)):
        with pytest.raises(InvalidArgumentError, match=r"holds 2 trials.*TrialSearch\.from_dict") as caught:
            drive(TrialSearch(GRID, slo_ms=120), _never, checkpoint=file)
        assert caught.value.argument == "checkpoint"
    assert file.read_bytes() == before
    assert len(run_trials(_read(file), _never, checkpoint=file).records) == 2


@pytest.mark.parametrize("content", ["", "notes", "[1]", "{}", '{"version": 99}'])
def test_a_file_that_holds_no_search_is_never_overwritten(content: str, tmp_path: Path) -> None:
    """Whoever wrote it may want it."""
    file = tmp_path / "search.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(InvalidArgumentError, match="holds no search") as caught:
        profile_function(_never, GRID, slo_ms=120, progress=False, checkpoint=file)
    assert caught.value.argument == "checkpoint"
    assert file.read_text(encoding="utf-8") == content


@pytest.mark.parametrize("bad", ["missing/search.json", "", "nul\0", "x" * 300, 3, b"search.json", True])
def test_a_bad_checkpoint_is_refused_before_the_first_trial(
    bad: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing folder, a folder, a name that cannot be, not a path."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidArgumentError) as driven:
        run_trials(TrialSearch(GRID, slo_ms=120), _never, checkpoint=bad)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError) as profiled:
        profile_function(_never, GRID, slo_ms=120, progress=False, checkpoint=bad)  # type: ignore[arg-type]
    assert driven.value.argument == profiled.value.argument == "checkpoint"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("answer", [(1.0, 2.0, 3.0), (1.0,), (), "fast", [1.0, 2.0], True, (1.0, "much"), (1.0, -5.0)])
@pytest.mark.parametrize("width", [0, 1])
def test_an_answer_that_is_no_measurement_is_named_and_loses_nothing(
    answer: object, width: int, tmp_path: Path
) -> None:
    """The trials before it are in the search and the file; it is outstanding."""
    calls: list[Trial] = []

    def odd(batch: int, sm_milli: int) -> Any:
        calls.append(Trial(batch, sm_milli))
        return answer if len(calls) == 3 else measure(batch, sm_milli)

    file = tmp_path / "search.json"
    search = TrialSearch(GRID, slo_ms=120, strategy="hybrid-growth")
    with ThreadPoolExecutor(1) as threads, pytest.raises(InvalidArgumentError, match="returned") as caught:
        run_trials(search, odd, checkpoint=file, executor=threads if width else None)
    assert caught.value.argument == "measure"
    assert [record.trial for record in search.trials] == calls[:2]
    assert search.outstanding == (calls[2],)
    assert _read(file).trials == search.trials


def test_progress_is_called_before_the_first_and_after_every_trial() -> None:
    """With the search itself, so that a caller shows what it likes."""
    counts: list[int] = []
    result = profile_function(
        measure, GRID, slo_ms=120, progress=lambda search: counts.append(len(search.trials)), max_trials=4
    )
    assert counts == [0, 1, 2, 3, 4]
    assert len(result.records) == 4


def test_the_bar_is_shown_where_somebody_watches(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """progress=True draws on a terminal's standard error, and nothing on a pipe's."""
    pytest.importorskip("tqdm", reason="the bar needs tqdm")
    profile_function(measure, GRID, slo_ms=120)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    profile_function(measure, GRID, slo_ms=120, max_trials=5)
    shown = capsys.readouterr().err
    assert "trials:" in shown
    assert "5/5" in shown


@pytest.mark.parametrize(
    ("argument", "keywords"),
    [
        ("measure", {"measure": 3}),
        ("search", {"search": "x"}),
        ("progress", {"progress": 3}),
        ("executor", {"executor": 3}),
        ("parallel", {"parallel": 0}),
        ("parallel", {"parallel": 2}),
    ],
)
def test_bad_arguments_are_named(argument: str, keywords: dict[str, object]) -> None:
    """Refused before the first trial."""
    arguments: dict[str, object] = {"search": TrialSearch(GRID, slo_ms=100), "measure": measure, **keywords}
    with pytest.raises(InvalidArgumentError) as caught:
        run_trials(**arguments)  # type: ignore[arg-type]
    assert caught.value.argument == argument


def test_a_search_brings_its_own_settings() -> None:
    """Giving both is refused by the name of the second."""
    search = TrialSearch(GRID, slo_ms=100)
    for argument, keywords in (("grid", {"grid": GRID}), ("slo_ms", {"slo_ms": 3.0}), ("guard", {"guard": 0.1})):
        with pytest.raises(InvalidArgumentError) as caught:
            profile_function(measure, search=search, progress=False, **keywords)  # type: ignore[arg-type]
        assert caught.value.argument == argument


def test_the_picture_numbers_every_trial_and_frames_the_answer(tmp_path: Path) -> None:
    """Every cell tried carries its number, and the file is written; failures and repeats are drawn too."""
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    search = TrialSearch(GRID, slo_ms=120)
    run_trials(search, lambda b, s: None if b > 8 else measure(b, s))
    search.tell(search.trials[0].trial, search.trials[0].latency_ms)
    search.tell(Trial(3, 77), 50.0)
    figure = plot_trials(search, tmp_path / "trials.png")
    assert (tmp_path / "trials.png").read_bytes().startswith(b"\x89PNG")
    latency, progress, grid = figure.axes
    labels = [text.get_text() for text in grid.texts]
    assert labels[0].startswith("1 (x")
    assert len(labels) == len({record.trial for record in search.trials}) - 1
    steps = progress.lines[0].get_ydata()
    assert len(steps) == len(search.trials)
    assert search.best is not None
    assert max(steps) == pytest.approx(search.best.efficacy)
    frames = [line for line in grid.lines if line.get_marker() == "s"]
    column, row = GRID.sm_milli.index(search.best.request_milli), GRID.batches.index(search.best.batch)
    assert [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in frames] == [(column, row)]
    assert any(line.get_ydata()[0] == 60.0 for line in latency.lines)


def test_a_search_without_trials_and_a_training_search_draw() -> None:
    """No trial, no budget: an empty grid. Training has a budget once a whole GPU was measured."""
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    assert len(plot_trials(TrialSearch(GRID, slo_ms=120)).axes) == 3
    training = TrialSearch(QuotaGrid((8,), GRID.sm_milli), slo_ms=None, strategy="bisection")
    assert len(plot_trials(training).axes) == 3
    run_trials(training, measure)
    assert "optimal" in plot_trials(training)._suptitle.get_text()


def test_what_cannot_be_drawn_is_named(tmp_path: Path) -> None:
    """Anything but a search, a name without a known ending, and what is no name."""
    with pytest.raises(InvalidArgumentError, match="search"):
        plot_trials("x")  # type: ignore[arg-type]
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    for path in (tmp_path / "trials.txt", 5):
        with pytest.raises(InvalidArgumentError) as caught:
            plot_trials(TrialSearch(GRID, slo_ms=100), path)  # type: ignore[arg-type]
        assert caught.value.argument == "path"
