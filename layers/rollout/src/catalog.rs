//! The variants that exist, with their parameters and bounds. Nothing outside the catalog ever runs.
//!
//! ```json
//! {"version": 1, "baseline": 1, "variants": [
//!   {"id": 1, "name": "stable"},
//!   {"id": 42, "name": "fast-path", "params": {"alpha": {"default": 0.5, "min": 0.0, "max": 1.0}}}
//! ]}
//! ```

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    refusal::{Reason, Refusal},
    strict,
    variant::{Params, Variant},
    wire::VariantId,
};

/// Largest catalog that is read.
pub const MAX_CATALOG_BYTES: usize = 1024 * 1024;

/// Most variants of a catalog: each is a label of `shield_rollout_decisions_total`.
pub const MAX_VARIANTS: usize = 256;

/// Most parameters of a variant.
pub const MAX_PARAMS: usize = 256;

/// Why a catalog is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// More than [`MAX_CATALOG_BYTES`].
    #[error("{bytes} bytes, at most {MAX_CATALOG_BYTES}")]
    Oversize {
        /// How large it is.
        bytes: usize,
    },
    /// Not a catalog.
    #[error("not a catalog: {0}")]
    Malformed(#[source] serde_json::Error),
    /// A rule is broken.
    #[error("{0}")]
    Invalid(String),
    /// Not the bytes that were announced.
    #[error("the catalog's digest is {actual}, announced was {announced}")]
    Digest {
        /// What was announced.
        announced: String,
        /// What arrived.
        actual: String,
    },
}

/// A parameter of a variant.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParamSpec {
    /// The value when nobody says otherwise.
    pub default: f64,
    /// Smallest legal value.
    pub min: f64,
    /// Largest legal value.
    pub max: f64,
}

/// A variant as the catalog describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VariantSpec {
    /// Its number.
    pub id: VariantId,
    /// Its name: `[A-Za-z0-9._-]{1,64}`, the value of `x-arqon-variant`.
    pub name: String,
    /// Its parameters by name.
    #[serde(default)]
    pub params: BTreeMap<String, ParamSpec>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CatalogJson {
    version: u64,
    baseline: VariantId,
    variants: Vec<VariantSpec>,
}

/// A checked catalog.
#[derive(Debug, Clone, PartialEq)]
pub struct Catalog {
    version: u64,
    baseline: VariantId,
    variants: BTreeMap<VariantId, VariantSpec>,
}

impl Catalog {
    /// No catalog: version 0 and one baseline nobody described. Every newer catalog replaces it.
    pub fn empty() -> Self {
        let spec = VariantSpec {
            id: 0,
            name: "baseline".to_owned(),
            params: BTreeMap::new(),
        };
        Self {
            version: 0,
            baseline: 0,
            variants: BTreeMap::from([(0, spec)]),
        }
    }

    /// Reads and checks a catalog.
    ///
    /// # Errors
    ///
    /// [`CatalogError`], naming the first rule that is broken.
    pub fn parse(json: &[u8]) -> Result<Self, CatalogError> {
        if json.len() > MAX_CATALOG_BYTES {
            return Err(CatalogError::Oversize { bytes: json.len() });
        }
        let CatalogJson {
            version,
            baseline,
            variants,
        } = strict::from_slice(json).map_err(CatalogError::Malformed)?;
        Self::new(version, baseline, variants)
    }

    /// Checks a catalog made in the program.
    ///
    /// # Errors
    ///
    /// [`CatalogError::Invalid`].
    pub fn new(
        version: u64,
        baseline: VariantId,
        variants: impl IntoIterator<Item = VariantSpec>,
    ) -> Result<Self, CatalogError> {
        let invalid = |text: String| Err(CatalogError::Invalid(text));
        if version == 0 {
            return invalid("`version` is 0: versions start at 1".to_owned());
        }
        let mut by_id = BTreeMap::new();
        for spec in variants {
            check(&spec)?;
            let twin = by_id.values().any(|other: &VariantSpec| other.name == spec.name);
            if twin || by_id.contains_key(&spec.id) {
                return invalid(format!("variant {} `{}` is there twice", spec.id, spec.name));
            }
            by_id.insert(spec.id, spec);
        }
        if by_id.len() > MAX_VARIANTS {
            return invalid(format!("{} variants, at most {MAX_VARIANTS}", by_id.len()));
        }
        if !by_id.contains_key(&baseline) {
            return invalid(format!("`baseline` = {baseline} is not one of the variants"));
        }
        Ok(Self {
            version,
            baseline,
            variants: by_id,
        })
    }

    /// Its version; 0 for [`empty`](Self::empty).
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether this is no catalog at all.
    pub fn is_empty(&self) -> bool {
        self.version == 0
    }

    /// What it says of a variant.
    pub fn get(&self, id: VariantId) -> Option<&VariantSpec> {
        self.variants.get(&id)
    }

    /// Every variant, by number.
    pub fn variants(&self) -> impl Iterator<Item = &VariantSpec> {
        self.variants.values()
    }

    /// The safe baseline: what an emergency stop serves.
    pub fn baseline(&self) -> Arc<Variant> {
        let resolved = self.resolve(None, None);
        resolved.expect("a catalog has its baseline, and defaults are inside their bounds")
    }

    /// A variant (None is the baseline) with its default parameters, replaced by `params` where given.
    ///
    /// # Errors
    ///
    /// [`Reason::UnknownVariant`] and [`Reason::InvalidParams`].
    pub fn resolve(
        &self,
        id: Option<VariantId>,
        params: Option<&HashMap<String, f64>>,
    ) -> Result<Arc<Variant>, Refusal> {
        let id = id.unwrap_or(self.baseline);
        let Some(spec) = self.variants.get(&id) else {
            let detail = format!("variant {id} is not in catalog version {}", self.version);
            return Err(Refusal::new(Reason::UnknownVariant, detail));
        };
        let mut values: Params = spec
            .params
            .iter()
            .map(|(name, spec)| (name.clone(), spec.default))
            .collect();
        for (name, &value) in params.into_iter().flatten() {
            let invalid = |detail: String| Err(Refusal::new(Reason::InvalidParams, detail));
            let Some(bounds) = spec.params.get(name) else {
                return invalid(format!("variant {id} has no parameter `{name}`"));
            };
            if !(bounds.min..=bounds.max).contains(&value) {
                return invalid(format!(
                    "`{name}` = {value} is not in {}..={}",
                    bounds.min, bounds.max
                ));
            }
            values.insert(name.clone(), value);
        }
        Ok(Arc::new(Variant::new(
            id,
            &spec.name,
            values,
            id == self.baseline,
        )))
    }

    /// The catalog as JSON.
    pub fn to_json(&self) -> String {
        let json = CatalogJson {
            version: self.version,
            baseline: self.baseline,
            variants: self.variants.values().cloned().collect(),
        };
        serde_json::to_string(&json).expect("finite numbers and strings always serialise")
    }
}

fn check(spec: &VariantSpec) -> Result<(), CatalogError> {
    let invalid = |text: String| Err(CatalogError::Invalid(text));
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if spec.name.is_empty() || spec.name.len() > 64 || !spec.name.bytes().all(legal) {
        return invalid(format!(
            "variant {}: name `{}` is not [A-Za-z0-9._-]{{1,64}}",
            spec.id, spec.name
        ));
    }
    if spec.params.len() > MAX_PARAMS {
        return invalid(format!(
            "variant {}: {} params, at most {MAX_PARAMS}",
            spec.id,
            spec.params.len()
        ));
    }
    for (name, ParamSpec { default, min, max }) in &spec.params {
        let finite = [default, min, max].into_iter().all(|value| value.is_finite());
        if name.is_empty() || name.len() > 128 || !finite || !(min..=max).contains(&default) {
            return invalid(format!(
                "variant {}: param `{name}`: {min} <= default {default} <= {max} does not hold",
                spec.id
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CATALOG: &str = r#"{"version":1,"baseline":1,"variants":[{"id":1,"name":"stable"},
        {"id":42,"name":"fast","params":{"alpha":{"default":0.5,"min":0,"max":1}}}]}"#;

    #[test]
    fn a_variant_is_resolved_with_defaults_and_bounds() {
        let catalog = Catalog::parse(CATALOG.as_bytes()).unwrap();
        assert_eq!(catalog.baseline().id, 1);
        let variant = catalog.resolve(Some(42), None).unwrap();
        assert_eq!(variant.param("alpha"), Some(0.5));
        let params = |value| HashMap::from([("alpha".to_owned(), value)]);
        assert_eq!(
            catalog
                .resolve(Some(42), Some(&params(1.0)))
                .unwrap()
                .param("alpha"),
            Some(1.0)
        );
        for bad in [1.01, -0.01, f64::NAN, f64::INFINITY] {
            let refusal = catalog.resolve(Some(42), Some(&params(bad))).unwrap_err();
            assert_eq!(refusal.reason, Reason::InvalidParams);
        }
        assert_eq!(
            catalog.resolve(Some(1), Some(&params(0.5))).unwrap_err().reason,
            Reason::InvalidParams
        );
        assert_eq!(
            catalog.resolve(Some(7), None).unwrap_err().reason,
            Reason::UnknownVariant
        );
    }

    #[test]
    fn a_catalog_survives_its_json() {
        let catalog = Catalog::parse(CATALOG.as_bytes()).unwrap();
        assert_eq!(Catalog::parse(catalog.to_json().as_bytes()).unwrap(), catalog);
    }

    #[test]
    fn a_broken_catalog_is_refused() {
        for (from, to) in [
            (r#""version":1"#, r#""version":0"#),
            (r#""baseline":1"#, r#""baseline":2"#),
            (r#""id":42"#, r#""id":1"#),
            (r#""name":"fast""#, r#""name":"stable""#),
            (r#""name":"fast""#, r#""name":"f st""#),
            (r#""name":"fast""#, r#""name":"""#),
            (r#""max":1"#, r#""max":0.4"#),
            (r#""min":0"#, r#""min":0,"min":0"#),
            (r#""min":0"#, r#""minimum":0"#),
        ] {
            assert!(CATALOG.contains(from));
            assert!(
                Catalog::parse(CATALOG.replace(from, to).as_bytes()).is_err(),
                "{to}"
            );
        }
    }
}
