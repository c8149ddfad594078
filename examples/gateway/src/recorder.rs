//! The process's metrics: what requests count, and the text of `/metrics`.
//!
//! Names, descriptions and text are `metrics-exporter-prometheus`'s. Its handles are not what requests write: a count there is
//! two locked operations, and each value of a histogram is kept until somebody looks, some 100 MB in the minute of a
//! busy gateway. Here a thread adds to [`Cells`] of its own, and whoever reads sums them up; a histogram is its buckets (ADR 0051).

mod cells;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use metrics_exporter_prometheus::{
    LabelSet, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
    formatting::{write_help_line, write_metric_line, write_type_line},
};

use self::cells::Cells;

/// Counters and gauges of one tray.
const TRAY: usize = 64;

/// Where a histogram's buckets end, by its name, in ascending order.
pub(crate) type Buckets = &'static [(&'static str, &'static [f64])];

/// The metrics of a process. Cloning it is a reference count.
#[derive(Clone)]
pub(crate) struct Metrics(Arc<Inner>);

struct Inner {
    library: PrometheusRecorder,
    handle: PrometheusHandle,
    buckets: Buckets,
    counts: Mutex<HashMap<Key, Arc<Count>>>,
    levels: Mutex<HashMap<Key, Arc<Level>>>,
    tray: Mutex<Tray>,
    /// By name, and then as they came.
    spreads: Mutex<BTreeMap<&'static str, Family>>,
}

/// The histograms of one name.
#[derive(Default)]
struct Family {
    what: Option<SharedString>,
    spreads: Vec<(Key, Arc<Spread>)>,
}

/// Where the next counters and gauges have their numbers: those that are registered one after the other are mostly written so,
/// and lie beside each other.
#[derive(Default)]
struct Tray {
    cells: Option<Arc<Cells>>,
    used: usize,
}

/// One of a tray's numbers.
struct Number {
    cells: Arc<Cells>,
    at: usize,
}

/// A counter.
struct Count {
    added: Number,
    told: Counter,
}

/// A gauge.
struct Level {
    /// A float's bits.
    added: Number,
    told: Gauge,
    /// What of `added` was told.
    said: Mutex<f64>,
}

/// A histogram.
struct Spread {
    bounds: &'static [f64],
    /// A count for each bound, one for what is above them all, and the sum as a float's bits.
    cells: Cells,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Metrics {
    /// With these histograms; others are summaries.
    pub(crate) fn new(buckets: Buckets) -> Self {
        let library = PrometheusBuilder::new().build_recorder();
        Self(Arc::new(Inner {
            handle: library.handle(),
            library,
            buckets,
            counts: Mutex::default(),
            levels: Mutex::default(),
            tray: Mutex::default(),
            spreads: Mutex::default(),
        }))
    }

    /// Makes it the process's recorder. It has to be before any layer is built, for a layer takes its handles then.
    ///
    /// # Errors
    /// When there is one already.
    pub(crate) fn install(&self) -> Result<(), String> {
        metrics::set_global_recorder(self.clone()).map_err(|error| error.to_string())
    }

    /// All of them, in Prometheus' text format.
    pub(crate) fn render(&self) -> String {
        lock(&self.0.counts).values().for_each(|count| count.tell());
        lock(&self.0.levels).values().for_each(|level| level.tell());
        let mut text = self.0.handle.render();
        for (name, family) in &*lock(&self.0.spreads) {
            family.write(name, &mut text);
        }
        text
    }

    /// Takes in what the summaries kept; to be called every few seconds.
    pub(crate) fn run_upkeep(&self) {
        self.0.handle.run_upkeep();
    }

    /// The name of a histogram of ours, and where its buckets end.
    fn bounds(&self, name: &str) -> Option<(&'static str, &'static [f64])> {
        self.0.buckets.iter().find(|(known, _)| *known == name).copied()
    }
}

impl Recorder for Metrics {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.0.library.describe_counter(key, unit, description);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.0.library.describe_gauge(key, unit, description);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        match self.bounds(key.as_str()) {
            Some((name, _)) => lock(&self.0.spreads).entry(name).or_default().what = Some(description),
            None => self.0.library.describe_histogram(key, unit, description),
        }
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        let mut counts = lock(&self.0.counts);
        let count = counts.entry(key.clone()).or_insert_with(|| {
            Arc::new(Count {
                added: lock(&self.0.tray).number(),
                told: self.0.library.register_counter(key, metadata),
            })
        });
        Counter::from_arc(Arc::clone(count))
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        let mut levels = lock(&self.0.levels);
        let level = levels.entry(key.clone()).or_insert_with(|| {
            Arc::new(Level {
                added: lock(&self.0.tray).number(),
                told: self.0.library.register_gauge(key, metadata),
                said: Mutex::new(0.0),
            })
        });
        Gauge::from_arc(Arc::clone(level))
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        let Some((name, bounds)) = self.bounds(key.name()) else {
            return self.0.library.register_histogram(key, metadata);
        };
        let mut spreads = lock(&self.0.spreads);
        let family = &mut spreads.entry(name).or_default().spreads;
        let spread = match family.iter().find(|(known, _)| known == key) {
            Some((_, spread)) => Arc::clone(spread),
            None => {
                let cells = Cells::new(bounds.len() + 2);
                let spread = Arc::new(Spread { bounds, cells });
                family.push((key.clone(), Arc::clone(&spread)));
                spread
            }
        };
        Histogram::from_arc(spread)
    }
}

impl Tray {
    fn number(&mut self) -> Number {
        if self.used == TRAY {
            *self = Self::default();
        }
        let cells = self.cells.get_or_insert_with(|| Arc::new(Cells::new(TRAY)));
        let at = self.used;
        self.used += 1;
        Number {
            cells: Arc::clone(cells),
            at,
        }
    }
}

impl Number {
    #[inline]
    fn change(&self, to: impl Fn(u64) -> u64) {
        self.cells.change(self.at, to);
    }

    fn copies(&self) -> impl Iterator<Item = u64> + '_ {
        self.cells.copies(self.at)
    }
}

impl Count {
    /// Tells the library; it takes no count for less than it was.
    fn tell(&self) {
        self.told.absolute(self.added.copies().fold(0, u64::wrapping_add));
    }
}

impl CounterFn for Count {
    fn increment(&self, value: u64) {
        self.added.change(|old| old.wrapping_add(value));
    }

    /// For a counter that is only ever told so.
    fn absolute(&self, value: u64) {
        self.told.absolute(value);
    }
}

impl Level {
    /// What was added and was not told.
    fn news(&self, said: &mut f64) -> f64 {
        let added = self.added.copies().map(f64::from_bits).sum();
        added - std::mem::replace(said, added)
    }

    fn tell(&self) {
        let mut said = lock(&self.said);
        self.told.increment(self.news(&mut said));
    }
}

impl GaugeFn for Level {
    fn increment(&self, value: f64) {
        self.added.change(|old| (f64::from_bits(old) + value).to_bits());
    }

    fn decrement(&self, value: f64) {
        self.increment(-value);
    }

    fn set(&self, value: f64) {
        let mut said = lock(&self.said);
        // What was added before is of no account any more.
        self.news(&mut said);
        self.told.set(value);
    }
}

impl Spread {
    const fn sum_at(&self) -> usize {
        self.bounds.len() + 1
    }
}

impl HistogramFn for Spread {
    fn record(&self, value: f64) {
        self.record_many(value, 1);
    }

    fn record_many(&self, value: f64, count: usize) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        self.cells.change(at, |old| old + count as u64);
        let all = value * count as f64;
        self.cells
            .change(self.sum_at(), |old| (f64::from_bits(old) + all).to_bits());
    }
}

impl Family {
    fn write(&self, name: &str, text: &mut String) {
        if self.spreads.is_empty() {
            return;
        }
        if let Some(what) = &self.what {
            write_help_line(text, name, None, None, what);
        }
        write_type_line(text, name, None, None, "histogram");
        for (key, spread) in &self.spreads {
            let labels = LabelSet::from_key_and_global(key, &Default::default());
            let mut line = |suffix, bound: Option<String>, value: String| {
                let bound = bound.map(|bound| ("le", bound));
                write_metric_line(text, name, Some(suffix), &labels, bound, value, None);
            };
            let counted = |at| spread.cells.copies(at).sum::<u64>();
            let mut below = 0;
            for (at, bound) in spread.bounds.iter().enumerate() {
                below += counted(at);
                line("bucket", Some(bound.to_string()), below.to_string());
            }
            below += counted(spread.bounds.len());
            line("bucket", Some("+Inf".to_owned()), below.to_string());
            let sum: f64 = spread.cells.copies(spread.sum_at()).map(f64::from_bits).sum();
            line("sum", None, sum.to_string());
            line("count", None, below.to_string());
        }
        text.push('\n');
    }
}

#[cfg(test)]
mod tests;
