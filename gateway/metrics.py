"""Metrics for Prometheus: counting on the hot path, exporting when somebody asks.

Theory of operation. What runs per frame adds to plain integer attributes of objects with slots; it knows
nothing of this module's exporter. A source is a callable that reads such objects and returns samples; at
each scrape `Metrics` asks every source and makes Prometheus families of the answers. A source that fails
or contradicts another is counted and left out; the others are still exported.

Cardinality is low: never a label per terminal. A family with more than `MAX_SERIES` label sets is cut there,
and what was cut is counted in `loadgate_metrics_truncated`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

import structlog
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["FrameCounters", "Histogram", "Metrics", "Sample", "Source", "counters_source"]

log = structlog.get_logger(__name__)

PREFIX: Final = "loadgate_"
MAX_SERIES: Final = 200
"""Label sets of one family that are exported."""
MAX_WARNINGS: Final = 100
"""Names of warnings that `FrameCounters` counts apart; further ones are counted as `other`."""

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]
_Family: TypeAlias = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


# -- what the hot path counts with ----------------------------------------------------------------------------


class Histogram:
    """A histogram of durations with fixed buckets, each twice the one before: 64 µs to 67 s, and beyond.

    Integers only; resolution 1 µs. `observe` finds the bucket without a search.
    """

    __slots__ = ("counts", "sum_us")

    BOUNDS_US: Final = tuple(64 << power for power in range(21))

    def __init__(self) -> None:
        self.counts = [0] * (len(self.BOUNDS_US) + 1)
        self.sum_us = 0

    def observe(self, seconds: float) -> None:
        """Count one duration; what is below 0 (a clock was set) counts as 0."""
        us = int(seconds * 1_000_000)
        if us <= 64:
            self.counts[0] += 1
            self.sum_us += max(us, 0)
            return
        index = (us - 1).bit_length() - 6
        self.counts[min(index, 21)] += 1
        self.sum_us += us

    @property
    def count(self) -> int:
        """Durations observed."""
        return sum(self.counts)

    def quantile(self, share: float) -> float:
        """Upper bound, in seconds, of the bucket in which `share` (0 to 1) of all durations is reached.

        0.0 when there are none; infinity when it is beyond the last bound.
        """
        wanted = share * self.count
        reached = 0
        for bound, count in zip(self.BOUNDS_US, self.counts, strict=False):
            reached += count
            if reached >= wanted:
                return bound / 1_000_000 if self.count else 0.0
        return float("inf")

    def cumulative(self) -> list[tuple[str, int]]:
        """Buckets as Prometheus wants them: upper bound in seconds, durations up to it."""
        reached = 0
        buckets = []
        for bound, count in zip((*self.BOUNDS_US, None), self.counts, strict=True):
            reached += count
            buckets.append(("+Inf" if bound is None else repr(bound / 1_000_000), reached))
        return buckets


@dataclass(slots=True)
class FrameCounters:
    """What a channel counts about frames (帧). Totals since start. `octets` include garbage.

    `garbage_octets`: skipped in search of a start. `header_errors`, `frame_errors`: bad HCS, FCS.
    `oversized`: length above the limit. `wire_errors`: good frames with contents that cannot be read.
    `warnings`: oddities that were accepted (field oddities), by name.
    """

    octets_in: int = 0
    octets_out: int = 0
    frames_in: int = 0
    frames_out: int = 0
    garbage_octets: int = 0
    header_errors: int = 0
    frame_errors: int = 0
    oversized: int = 0
    wire_errors: int = 0
    warnings: dict[str, int] = field(default_factory=dict)

    def warn(self, name: str) -> None:
        """Count one oddity; names come from the codec, and are bounded all the same."""
        warnings = self.warnings
        if name in warnings:
            warnings[name] += 1
        elif len(warnings) < MAX_WARNINGS:
            warnings[name] = 1
        else:
            warnings["other"] = warnings.get("other", 0) + 1


# -- samples --------------------------------------------------------------------------------------------------


class Sample(NamedTuple):
    """One value of one family at this moment.

    `name` stands behind `loadgate_`, in base units (`_seconds`, `_bytes`), without `_total`, which counters get.
    `value` of a histogram is a `Histogram`. Samples of one name agree in kind and names of labels.
    """

    name: str
    kind: Kind
    help: str
    value: float | Histogram
    labels: Mapping[str, str] = {}


Source: TypeAlias = Callable[[], Iterable[Sample]]


def counters_source(
    prefix: str,
    counters: DataclassInstance,
    *,
    gauges: Iterable[str] = (),
    texts: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Source:
    """A source of every number of a dataclass: `{prefix}_{field}`; a dict field gets a label `name`.

    `gauges`: the fields that say what is now, not a total. `texts`: help by field. Raises `ValueError` when
    they name a field that is none.
    """
    now, texts, labels = frozenset(gauges), texts or {}, labels or {}
    names = [item.name for item in fields(counters)]
    if unknown := sorted((now | set(texts)) - set(names)):
        raise ValueError(f"{type(counters).__name__} has no field {', '.join(unknown)}")

    def source() -> Iterator[Sample]:
        for name in names:
            value = getattr(counters, name)
            text = texts.get(name) or f"{prefix} {name}".replace("_", " ")
            kind: Kind = "gauge" if name in now else "counter"
            if isinstance(value, dict):
                for key, number in list(value.items()):
                    yield Sample(f"{prefix}_{name}", kind, text, number, {**labels, "name": str(key)})
            elif isinstance(value, Histogram):
                yield Sample(f"{prefix}_{name}", "histogram", text, value, labels)
            else:
                yield Sample(f"{prefix}_{name}", kind, text, value, labels)

    return source


# -- the exporter ---------------------------------------------------------------------------------------------


class Metrics(Collector):
    """The registered sources of this process, and the page that Prometheus reads."""

    def __init__(self, *, process: bool = True) -> None:
        """`process`: also memory, CPU, open files and garbage collection of this process."""
        self._sources: dict[str, Source] = {}
        self._truncated: dict[str, int] = {}
        self._rejected: dict[str, int] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        if process:
            ProcessCollector(registry=self._registry)
            PlatformCollector(registry=self._registry)
            GCCollector(registry=self._registry)

    def register(self, name: str, source: Source) -> Callable[[], None]:
        """Ask `source` at every scrape; returns a function that ends this. Raises `ValueError`: name is taken."""
        if name in self._sources:
            raise ValueError(f"metrics source {name} is registered already")
        self._sources[name] = source
        return lambda: self._sources.pop(name, None) and None

    def exposition(self) -> bytes:
        """The page, in the text format 0.0.4 of Prometheus."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[_Family]:
        """Nothing: families are known when they are asked for."""
        return ()

    def collect(self) -> Iterator[_Family]:
        """Families of all sources at this moment, and of what went wrong in asking them."""
        families: dict[str, _Open] = {}
        for name, source in list(self._sources.items()):
            try:
                for sample in source():
                    self._add(families, name, sample)
            except Exception:
                self._reject(name)
                log.exception("metrics source failed", source=name)
        for opened in families.values():
            yield opened.family
        yield self._own("metrics_truncated", "Label sets left out, by family", "family", self._truncated)
        yield self._own("metrics_rejected", "Samples left out as contradictory or failed", "source", self._rejected)

    def _add(self, families: dict[str, _Open], source: str, sample: Sample) -> None:
        opened = families.get(sample.name)
        if opened is None:
            opened = families[sample.name] = _Open(sample)
        values = tuple(str(sample.labels.get(label, "")) for label in opened.labels)
        if (
            sample.kind != opened.kind
            or sample.labels.keys() != set(opened.labels)
            or isinstance(sample.value, Histogram) != (sample.kind == "histogram")
            or values in opened.seen
        ):
            self._reject(source)
        elif len(opened.seen) >= MAX_SERIES:
            if sample.name not in self._truncated:
                log.warning("metric has too many label sets", family=sample.name, at_most=MAX_SERIES)
            self._truncated[sample.name] = self._truncated.get(sample.name, 0) + 1
        else:
            opened.add(values, sample.value)

    def _reject(self, source: str) -> None:
        self._rejected[source] = self._rejected.get(source, 0) + 1

    def _own(self, name: str, text: str, label: str, counts: dict[str, int]) -> CounterMetricFamily:
        family = CounterMetricFamily(f"{PREFIX}{name}", text, labels=[label])
        for value, count in counts.items():
            family.add_metric([value], count)
        return family


_KINDS: Final[Mapping[Kind, type[_Family]]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


class _Open:
    """A family in the making: made by its first sample, which sets kind and labels."""

    __slots__ = ("family", "kind", "labels", "seen")

    def __init__(self, sample: Sample) -> None:
        self.kind = sample.kind
        self.labels = tuple(sorted(sample.labels))
        self.seen: set[tuple[str, ...]] = set()
        make: Any = _KINDS[sample.kind]
        self.family: _Family = make(f"{PREFIX}{sample.name}", sample.help, labels=self.labels)

    def add(self, values: tuple[str, ...], value: float | Histogram) -> None:
        self.seen.add(values)
        if isinstance(value, Histogram):
            assert isinstance(self.family, HistogramMetricFamily)
            self.family.add_metric(values, value.cumulative(), value.sum_us / 1_000_000)
        else:
            assert not isinstance(self.family, HistogramMetricFamily)
            self.family.add_metric(values, value)
