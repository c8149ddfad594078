//! What operators see of the schemas.

use arqon_schema::Origin;

use super::Platform;

impl Platform {
    /// For `/readyz`: whether there are schemas to decide by (read from the store, or the last known good copies of them)
    /// that are not too old, or why not.
    pub fn schemas_ready(&self) -> impl Fn() -> Result<(), String> + Send + Sync + 'static {
        let registry = self.schema.clone();
        move || {
            if registry.config().mappings.is_empty() {
                Ok(())
            } else if registry.origin() == Origin::Nowhere {
                Err("the schema store has not been read yet, and there is no last known good copy".to_owned())
            } else if registry.is_stale() {
                let age = registry.age().as_secs();
                Err(format!(
                    "the schema store has not been heard of for {age} s: mapped subjects are refused"
                ))
            } else {
                Ok(())
            }
        }
    }

    /// For `/readyz`: what an operator should know of the schemas although requests are served, or nothing.
    pub fn schemas_note(&self) -> impl Fn() -> Option<String> + Send + Sync + 'static {
        let registry = self.schema.clone();
        move || {
            if registry.config().mappings.is_empty() {
                return None;
            }
            let mut notes = Vec::new();
            if registry.origin() == Origin::Copy {
                let age = registry.age().as_secs();
                notes.push(format!(
                    "the store has not been read yet: served from the last known good copy, {age} s old"
                ));
            }
            let mut absent: Vec<_> = registry
                .unavailable()
                .iter()
                .map(|of| of.schema_id.clone())
                .collect();
            absent.dedup();
            if !absent.is_empty() {
                let store = if registry.schemas().is_empty() {
                    "the store is empty"
                } else {
                    "not in the store"
                };
                notes.push(format!("{store}: {} refused with 503", listed(&absent)));
            }
            let lost = registry.lost();
            if !lost.is_empty() {
                notes.push(format!("lost by the store, still in force: {}", listed(&lost)));
            }
            let refused: Vec<_> = registry.refused().into_iter().map(|of| of.id).collect();
            if !refused.is_empty() {
                notes.push(format!("the newest update is refused: {}", listed(&refused)));
            }
            (!notes.is_empty()).then(|| notes.join("; "))
        }
    }

    /// The registry as `/v1/state` shows it.
    #[must_use]
    pub fn schema_state(&self) -> serde_json::Value {
        serde_json::json!({
            "origin": self.schema.origin(),
            "schemas": self.schema.schemas(),
            "refused": self.schema.refused(),
            "lost": self.schema.lost(),
            "age_seconds": self.schema.age().as_secs(),
            "unavailable": self.schema.unavailable().iter().map(|mapping| &mapping.schema_id).collect::<Vec<_>>(),
        })
    }
}

/// The first few, and how many follow.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names
        .iter()
        .take(SHOWN)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}
