//! What a host decides before it builds a bus (source: CONFIG).

/// Settings of a bus; the host reads them from its own flags, environment and files.
///
/// ```
/// use ron_bus::BusConfig;
///
/// let config = BusConfig::new(512).with_emit_amnesia_label(false);
/// assert_eq!(config.validate(), Ok(()));
/// assert_eq!(
///     BusConfig::new(1).validate(),
///     Err("bus.capacity must be >= 2 (recommended >= 8)".to_owned()),
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default)
)]
#[non_exhaustive]
pub struct BusConfig {
    /// Events (slots) kept for slow subscribers: 2 to 1,048,576, default 256. Fixed for the life of a bus.
    pub capacity: u32,
    /// Most overflow warnings handed to the host in any minute: at least 1, default 60.
    pub overflow_warn_rate_per_min: u32,
    /// Name the host may give its metrics registry: an ASCII identifier, default `ron_bus`. The bus
    /// itself never prefixes a metric name with it.
    pub metrics_namespace: String,
    /// Whether [`Bus::metric_labels`](crate::Bus::metric_labels) lists `amnesia`; default `true`.
    pub emit_amnesia_label: bool,
}

impl BusConfig {
    /// Largest capacity that [`validate`](Self::validate) accepts: 2^20.
    pub const CAPACITY_MAX: u32 = 1 << 20;

    /// Defaults with this capacity (in events).
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        Self {
            capacity,
            ..Self::default()
        }
    }

    /// Sets [`capacity`](Self::capacity).
    #[must_use]
    pub fn with_capacity(mut self, capacity: u32) -> Self {
        self.capacity = capacity;
        self
    }

    /// Sets [`overflow_warn_rate_per_min`](Self::overflow_warn_rate_per_min).
    #[must_use]
    pub fn with_overflow_warn_rate_per_min(mut self, per_min: u32) -> Self {
        self.overflow_warn_rate_per_min = per_min;
        self
    }

    /// Sets [`metrics_namespace`](Self::metrics_namespace).
    #[must_use]
    pub fn with_metrics_namespace(mut self, namespace: impl Into<String>) -> Self {
        self.metrics_namespace = namespace.into();
        self
    }

    /// Sets [`emit_amnesia_label`](Self::emit_amnesia_label).
    #[must_use]
    pub fn with_emit_amnesia_label(mut self, emit: bool) -> Self {
        self.emit_amnesia_label = emit;
        self
    }

    /// Checks every key; never panics.
    ///
    /// # Errors
    ///
    /// The first rule that is broken, naming the key and the bound.
    pub fn validate(&self) -> Result<(), String> {
        if self.capacity < 2 {
            return Err("bus.capacity must be >= 2 (recommended >= 8)".into());
        }
        if self.capacity > Self::CAPACITY_MAX {
            return Err("bus.capacity must be <= 1048576".into());
        }
        if self.overflow_warn_rate_per_min == 0 {
            return Err("bus.overflow_warn_rate_per_min must be >= 1".into());
        }
        if self.metrics_namespace.trim().is_empty() {
            return Err("bus.metrics_namespace must be non-empty".into());
        }
        if !is_identifier(&self.metrics_namespace) {
            return Err("bus.metrics_namespace must be an ASCII identifier".into());
        }
        Ok(())
    }
}

impl Default for BusConfig {
    fn default() -> Self {
        Self {
            capacity: 256,
            overflow_warn_rate_per_min: 60,
            metrics_namespace: "ron_bus".to_owned(),
            emit_amnesia_label: true,
        }
    }
}

impl From<u32> for BusConfig {
    fn from(capacity: u32) -> Self {
        Self::new(capacity)
    }
}

/// `[A-Za-z_][A-Za-z0-9_]*`: what Prometheus takes as a name.
fn is_identifier(name: &str) -> bool {
    let tail = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    name.bytes().all(tail) && !name.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::BusConfig;

    #[test]
    fn the_messages_are_those_of_the_source() {
        let broken = [
            (BusConfig::new(0), "bus.capacity must be >= 2 (recommended >= 8)"),
            (BusConfig::new(1), "bus.capacity must be >= 2 (recommended >= 8)"),
            (BusConfig::new((1 << 20) + 1), "bus.capacity must be <= 1048576"),
            (
                BusConfig::default().with_overflow_warn_rate_per_min(0),
                "bus.overflow_warn_rate_per_min must be >= 1",
            ),
            (
                BusConfig::default().with_metrics_namespace(""),
                "bus.metrics_namespace must be non-empty",
            ),
            (
                BusConfig::default().with_metrics_namespace(" \t"),
                "bus.metrics_namespace must be non-empty",
            ),
            (
                BusConfig::default().with_metrics_namespace("7up"),
                "bus.metrics_namespace must be an ASCII identifier",
            ),
            (
                BusConfig::default().with_metrics_namespace("a-b"),
                "bus.metrics_namespace must be an ASCII identifier",
            ),
            (
                BusConfig::default().with_metrics_namespace("búś"),
                "bus.metrics_namespace must be an ASCII identifier",
            ),
        ];
        for (config, message) in broken {
            assert_eq!(config.validate().unwrap_err(), message, "{config:?}");
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_source() {
        let config = BusConfig::default();
        assert_eq!(config.capacity, 256);
        assert_eq!(config.overflow_warn_rate_per_min, 60);
        assert_eq!(config.metrics_namespace, "ron_bus");
        assert!(config.emit_amnesia_label);
        assert_eq!(config.validate(), Ok(()));
        assert_eq!(BusConfig::new(1 << 20).validate(), Ok(()));
        assert_eq!(BusConfig::from(2).validate(), Ok(()));
    }
}
