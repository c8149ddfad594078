//! The log: JSON or text, without credentials, and without floods.

mod bucket;
mod limit;
mod tenants;

use std::{
    fmt::{self, Write as _},
    io::IsTerminal,
    time::SystemTime,
};

use arqon::{
    config::TelemetryConfig,
    events::{visible, without_credentials},
};
use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter, Layer,
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields,
        format::{JsonFields, Writer},
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use self::{
    limit::{Limit, policy_of},
    tenants::Whose,
};

/// The target of the access log, which only its tenants' own limits hold back.
const ACCESS: &str = "access";
/// Values of fields with these names are never written.
const SECRET_FIELDS: &[&str] = &[
    "authorization",
    "cookie",
    "credentials",
    "jwt",
    "password",
    "secret",
    "seed",
    "token",
];

/// The longest value of a field, in bytes (T19); the rest is cut off before it is looked through.
const FIELD_BYTES_MAX: usize = 1024;
const CUT: &str = "\u{2026}";

/// Starts logging to standard error; `RUST_LOG` filters, `info` is the default.
pub(crate) fn start(config: &TelemetryConfig) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let limit = Limit::new(config.log_repeats_per_min, config.log_tenant_per_min);
    let format = Redacted {
        json: config.log == arqon::config::LogFormat::Json,
        ansi: std::io::stderr().is_terminal(),
        limit: limit.clone(),
    };
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .fmt_fields(JsonFields::new())
        .event_format(format)
        .with_filter(limit);
    // A second subscriber in one process is refused, which only tests can cause.
    let _ = tracing_subscriber::registry().with(filter).with(layer).try_init();
}

/// One line an event: its fields, and those of the spans around it.
struct Redacted {
    json: bool,
    ansi: bool,
    limit: Limit,
}

impl<S> FormatEvent<S, JsonFields> for Redacted
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    JsonFields: for<'writer> FormatFields<'writer>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let Fields(mut fields) = fields;
        for span in context.event_scope().into_iter().flatten() {
            let extensions = span.extensions();
            let Some(written) = extensions.get::<FormattedFields<JsonFields>>() else {
                continue;
            };
            // What is said nearer goes first.
            let outer: Map<String, Value> = serde_json::from_str(written).unwrap_or_default();
            for (name, value) in outer {
                fields.entry(name).or_insert(value);
            }
        }
        let of_tenant = Whose::line(event).map_or(0, |whose| self.limit.tenants.held_back(&whose));
        let held_back = self.limit.held_back(metadata, policy_of(event)) + of_tenant;
        if held_back > 0 {
            fields.insert("held_back".to_owned(), held_back.into());
        }
        for (name, value) in &mut fields {
            redact(name, value);
        }
        let message = fields.remove("message").unwrap_or_default();
        let message = message.as_str().unwrap_or_default().to_owned();
        if self.json {
            // In the order in which people read it.
            let now = timestamp(SystemTime::now());
            write!(
                out,
                "{{\"timestamp\":\"{now}\",\"level\":\"{}\"",
                metadata.level()
            )?;
            write!(out, ",\"message\":{}", Value::from(message))?;
            for (name, value) in fields {
                write!(out, ",{}:{value}", Value::from(name))?;
            }
            return writeln!(out, ",\"target\":{}}}", Value::from(metadata.target()));
        }
        let (dim, plain) = if self.ansi {
            ("\u{1b}[2m", "\u{1b}[0m")
        } else {
            ("", "")
        };
        write!(
            out,
            "{dim}{}{plain} {:>5} {message}",
            timestamp(SystemTime::now()),
            metadata.level()
        )?;
        for (name, value) in fields {
            match value {
                Value::String(text) if text.is_empty() || text.contains([' ', '"', '=', '\n', '\t']) => {
                    write!(out, " {dim}{name}={plain}{text:?}")?;
                }
                Value::String(text) => write!(out, " {dim}{name}={plain}{text}")?,
                other => write!(out, " {dim}{name}={plain}{other}")?,
            }
        }
        writeln!(out)
    }
}

fn redact(name: &str, value: &mut Value) {
    if SECRET_FIELDS.contains(&name) {
        *value = Value::from("[redacted]");
    } else if let Value::String(text) = value {
        if text.len() > FIELD_BYTES_MAX {
            text.truncate(text.floor_char_boundary(FIELD_BYTES_MAX));
            text.push_str(CUT);
        }
        let clean = visible(&without_credentials(text)).into_owned();
        if clean != *text {
            *text = clean;
        }
    }
}

#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        // A `Debug` that fails has written what it has written.
        let _ = write!(text, "{value:?}");
        self.put(field, text);
    }
}

/// RFC 3339, in UTC, with microseconds.
fn timestamp(now: SystemTime) -> String {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (seconds, micros) = (since.as_secs(), since.subsec_micros());
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's civil-from-days; the era begins on 1 March of year 0.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{micros:06}Z",
        of_day / 3_600,
        of_day / 60 % 60,
        of_day % 60
    )
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Mutex},
        time::Duration,
    };

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    /// What is written while `act` runs.
    fn written(json: bool, per_min: u32, act: impl FnOnce()) -> Vec<String> {
        let (lines, limit) = (Lines::default(), Limit::new(per_min, 5));
        let format = Redacted {
            json,
            ansi: false,
            limit: limit.clone(),
        };
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(lines.clone())
            .with_ansi(false)
            .fmt_fields(JsonFields::new())
            .event_format(format)
            .with_filter(limit);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), act);
        let bytes = lines.0.lock().expect("no panic").clone();
        String::from_utf8(bytes)
            .expect("text")
            .lines()
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn a_line_has_its_fields_and_those_of_its_spans_and_no_credentials() {
        let lines = written(true, 60, || {
            let _span =
                tracing::info_span!("request", trace_id = "t", request_id = "r", status = 1).entered();
            tracing::warn!(
                component = "nats",
                status = 7,
                token = "hunter2",
                error = "login with password: hunter2",
                url = "nats://user:hunter2@host:1",
                header = "Bearer hunter2.x",
                "two\nlines with Bearer hunter2"
            );
        });
        assert_eq!(lines.len(), 1);
        assert!(!lines[0].contains("hunter2"), "{lines:?}");
        let line: Value = serde_json::from_str(&lines[0]).expect("JSON");
        assert_eq!(
            (&line["level"], &line["component"]),
            (&"WARN".into(), &"nats".into())
        );
        assert_eq!(
            (&line["trace_id"], &line["request_id"], &line["status"]),
            (&"t".into(), &"r".into(), &7.into())
        );
        assert_eq!(line["url"], "[redacted]");
        for json in [true, false] {
            let turned = written(json, 60, || tracing::info!(path = "a\u{202e}b", "said"));
            assert!(
                turned[0].contains("a\\") && !turned[0].contains('\u{202e}'),
                "{turned:?}"
            );
        }
        let text = written(false, 60, || tracing::info!(secret = "x", name = "a b", "said"));
        assert!(
            text[0].ends_with(" INFO said name=\"a b\" secret=[redacted]"),
            "{text:?}"
        );
    }

    #[test]
    fn one_place_writes_so_many_lines_a_minute_and_others_go_on() {
        let lines = written(true, 3, || {
            for n in 0..10 {
                tracing::warn!(n, "again");
            }
            tracing::warn!("another place");
        });
        let of = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
        assert_eq!((of("again"), of("another place")), (3, 1));
    }

    #[test]
    fn one_tenant_writes_so_many_lines_a_minute_and_others_go_on() {
        let lines = written(true, 1_000, || {
            for n in 0..10 {
                tracing::info!(target: "access", n, tenant = Some("acme"), "request");
                tracing::info!(target: "access", n, tenant = None::<&str>, "request of nobody");
                tracing::warn!(n, tenant = %"acme", "refused");
                tracing::warn!(n, "of our own");
            }
            tracing::info!(target: "access", tenant = "other", "request");
        });
        let of = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
        // Five each: those of one tenant wherever they are written.
        assert_eq!((of("acme"), of("of nobody"), of("other")), (5, 5, 1), "{lines:?}");
        assert_eq!(of("of our own"), 10);
    }

    #[test]
    fn a_field_is_cut_at_its_border_between_two_characters() {
        let (fits, long) = ("x".repeat(FIELD_BYTES_MAX), "\u{e4}".repeat(FIELD_BYTES_MAX));
        let lines = written(true, 60, || {
            tracing::warn!(
                fits,
                long,
                odd = format!("x{long}"),
                secret_later = format!("{fits} token=hunter2"),
                "said"
            );
        });
        let line: Value = serde_json::from_str(&lines[0]).expect("JSON");
        assert_eq!(line["fits"].as_str(), Some(fits.as_str()));
        let half = "\u{e4}".repeat(FIELD_BYTES_MAX / 2);
        assert_eq!(line["long"], format!("{half}{CUT}"));
        let half = "\u{e4}".repeat(FIELD_BYTES_MAX / 2 - 1);
        assert_eq!(line["odd"], format!("x{half}{CUT}"));
        assert_eq!(line["secret_later"], format!("{fits}{CUT}"));
    }

    #[test]
    fn a_policy_that_logs_much_silences_only_itself() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let log = |module: &str, line: u32| {
            let msg = format!("line {line}");
            tracing::info!(target: "arqon_overseer::guest", component = "overseer", module, msg);
        };
        let lines = metrics::with_local_recorder(&recorder, || {
            written(true, 3, || {
                (0..10).for_each(|line| log("loud", line));
                (0..2).for_each(|line| log("quiet", line));
                // Not a policy's, whatever its fields are called.
                (0..10).for_each(|_| tracing::info!(target: "hyper", module = "loud", "said"));
            })
        });
        let of = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
        let counts = [
            r#""module":"loud","msg":"line"#,
            r#""module":"quiet","msg":"line"#,
            "said",
        ]
        .map(of);
        assert_eq!(counts, [3, 2, 3], "{lines:?}");
        let text = recorder.handle().render();
        for series in ["{module=\"loud\"} 7\n", " 7\n"] {
            let series = format!("shield_gateway_log_held_back_total{series}");
            assert!(text.contains(&series), "{series} in {text}");
        }
    }

    #[test]
    fn times_are_rfc_3339() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000000Z"),
            (4_102_444_800, "2100-01-01T00:00:00.000000Z"),
        ] {
            assert_eq!(
                timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
                text
            );
        }
    }
}
