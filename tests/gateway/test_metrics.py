"""Metrics: what counts, what is exported, and what is kept out."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics import MAX_SERIES, MAX_WARNINGS, FrameCounters, Histogram, Metrics, Sample, counters_source


def families(metrics: Metrics) -> dict[str, tuple[str, dict[tuple[tuple[str, str], ...], float]]]:
    """The page as Prometheus reads it: family -> (type, {(sample, labels...): value})."""
    parsed = text_string_to_metric_families(metrics.exposition().decode())
    return {
        family.name: (
            family.type,
            {(("", sample.name), *sorted(sample.labels.items())): sample.value for sample in family.samples},
        )
        for family in parsed
    }


def test_counters_gauges_and_labels_are_exported():
    metrics = Metrics(process=False)
    metrics.register(
        "a",
        lambda: [
            Sample("frames", "counter", "Frames", 3, {"channel": "tcp"}),
            Sample("frames", "counter", "Frames", 4, {"channel": 'a"\n\\'}),
            Sample("sessions", "gauge", "Sessions", 7),
        ],
    )
    page = families(metrics)
    assert page["loadgate_frames"] == (
        "counter",
        {
            (("", "loadgate_frames_total"), ("channel", "tcp")): 3.0,
            (("", "loadgate_frames_total"), ("channel", 'a"\n\\')): 4.0,
        },
    )
    assert page["loadgate_sessions"] == ("gauge", {(("", "loadgate_sessions"),): 7.0})


def test_sources_are_asked_at_each_scrape_until_they_end():
    counters = FrameCounters()
    metrics = Metrics(process=False)
    end = metrics.register("tcp", counters_source("channel", counters, labels={"channel": "tcp"}))
    key = (("", "loadgate_channel_frames_in_total"), ("channel", "tcp"))
    assert families(metrics)["loadgate_channel_frames_in"][1] == {key: 0.0}
    counters.frames_in += 5
    assert families(metrics)["loadgate_channel_frames_in"][1] == {key: 5.0}
    with pytest.raises(ValueError, match="tcp is registered already"):
        metrics.register("tcp", list)
    end()
    end()
    assert "loadgate_channel_frames_in" not in families(metrics)


def test_warnings_by_name_are_bounded():
    counters = FrameCounters()
    for number in range(MAX_WARNINGS + 50):
        counters.warn(f"oddity-{number}")
    counters.warn("oddity-3")
    assert len(counters.warnings) == MAX_WARNINGS + 1
    assert (counters.warnings["oddity-3"], counters.warnings["other"]) == (2, 50)
    metrics = Metrics(process=False)
    metrics.register("tcp", counters_source("channel", counters))
    kind, samples = families(metrics)["loadgate_channel_warnings"]
    assert kind == "counter"
    assert samples[("", "loadgate_channel_warnings_total"), ("name", "oddity-3")] == 2


def test_counters_source_knows_totals_from_what_is_now():
    @dataclass(slots=True)
    class Counters:
        rows: int = 2
        waiting: int = 1
        commit_seconds: Histogram = field(default_factory=Histogram)

    metrics = Metrics(process=False)
    counters = Counters()
    counters.commit_seconds.observe(0.001)
    metrics.register("j", counters_source("journal", counters, gauges=["waiting"], texts={"rows": "Rows on disk"}))
    page = families(metrics)
    assert {name: page[f"loadgate_journal_{name}"][0] for name in ("rows", "waiting", "commit_seconds")} == {
        "rows": "counter",
        "waiting": "gauge",
        "commit_seconds": "histogram",
    }
    assert b"# HELP loadgate_journal_rows_total Rows on disk\n" in metrics.exposition()
    with pytest.raises(ValueError, match="Counters has no field sent"):
        counters_source("journal", counters, gauges=["sent"])


def test_a_family_with_too_many_label_sets_is_cut_and_counted():
    metrics = Metrics(process=False)
    metrics.register(
        "bad", lambda: [Sample("seen", "gauge", "Seen", 1, {"terminal": str(i)}) for i in range(MAX_SERIES + 30)]
    )
    page = families(metrics)
    assert len(page["loadgate_seen"][1]) == MAX_SERIES
    cut = (("", "loadgate_metrics_truncated_total"), ("family", "seen"))
    assert page["loadgate_metrics_truncated"][1] == {cut: 30.0}
    assert families(metrics)["loadgate_metrics_truncated"][1] == {cut: 60.0}


def test_a_source_that_fails_or_contradicts_does_not_spoil_the_others():
    def broken():
        yield Sample("before", "gauge", "Before", 1)
        raise RuntimeError("source")

    metrics = Metrics(process=False)
    metrics.register("broken", broken)
    metrics.register("good", lambda: [Sample("good", "gauge", "Good", 1)])
    metrics.register("kind", lambda: [Sample("good", "counter", "Good", 1)])
    metrics.register("twice", lambda: [Sample("good", "gauge", "Good", 2)])
    metrics.register("labels", lambda: [Sample("good", "gauge", "Good", 3, {"a": "b"})])
    metrics.register("value", lambda: [Sample("odd", "histogram", "Odd", 3)])
    page = families(metrics)
    assert page["loadgate_good"] == ("gauge", {(("", "loadgate_good"),): 1.0})
    assert page["loadgate_before"][1] == {(("", "loadgate_before"),): 1.0}
    assert page["loadgate_metrics_rejected"][1] == {
        (("", "loadgate_metrics_rejected_total"), ("source", name)): 1.0
        for name in ("broken", "kind", "twice", "labels", "value")
    }


def test_histogram_on_the_page():
    histogram = Histogram()
    for seconds in (0.00001, 0.000064, 0.000065, 0.1, 1_000.0):
        histogram.observe(seconds)
    metrics = Metrics(process=False)
    metrics.register("h", lambda: [Sample("settle_seconds", "histogram", "Settle", histogram, {"channel": "tcp"})])
    kind, samples = families(metrics)["loadgate_settle_seconds"]
    assert kind == "histogram"
    bucket = {
        dict(labels)["le"]: value
        for labels, value in samples.items()
        if labels[0] == ("", "loadgate_settle_seconds_bucket")
    }
    assert (bucket["6.4e-05"], bucket["0.000128"], bucket["0.131072"], bucket["+Inf"]) == (2.0, 3.0, 4.0, 5.0)
    assert samples[("", "loadgate_settle_seconds_count"), ("channel", "tcp")] == 5.0
    assert samples[("", "loadgate_settle_seconds_sum"), ("channel", "tcp")] == pytest.approx(1_000.100139)


@given(us=st.integers(0, 1 << 40))
def test_every_duration_is_in_the_first_bucket_that_holds_it(us: int):
    histogram = Histogram()
    histogram.observe((us + 0.5) / 1_000_000)
    expected = next((i for i, bound in enumerate(Histogram.BOUNDS_US) if us <= bound), len(Histogram.BOUNDS_US))
    assert histogram.counts[expected] == histogram.count == 1


def test_histogram_quantiles_and_a_clock_that_was_set():
    histogram = Histogram()
    assert histogram.quantile(0.5) == 0.0
    histogram.observe(-5.0)
    assert (histogram.count, histogram.sum_us) == (1, 0)
    for _ in range(8):
        histogram.observe(0.001)
    histogram.observe(1e6)
    assert (histogram.quantile(0.1), histogram.quantile(0.5), histogram.quantile(1.0)) == (
        0.000064,
        0.001024,
        float("inf"),
    )


def test_the_process_is_measured_too():
    page = families(Metrics())
    assert page["process_resident_memory_bytes"][1][(("", "process_resident_memory_bytes"),)] > 1_000_000
