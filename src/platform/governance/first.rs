//! The catalog that the fold starts with. It is fetched once in the life of an audit trail and kept beside it, as
//! `<audit>.catalog`: a restart folds the trail with what it was folded with before, and not with what the file or the bucket has
//! today. What is put there later comes by a signed catalog update.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use arqon_rollout::{AlertSeverity, Catalog, Executor};

use crate::config::{Finding, GovernanceConfig};

pub(super) struct First {
    /// The file of the configuration.
    path: Option<PathBuf>,
    kept: Option<PathBuf>,
    /// The configuration's key, for findings.
    key: &'static str,
}

impl First {
    pub(super) fn of(config: &GovernanceConfig) -> Self {
        let catalog = config.catalog.as_ref();
        let path = catalog.and_then(|of| of.path.clone());
        let beside = |path: &Path| {
            let mut path = path.as_os_str().to_owned();
            path.push(".catalog");
            PathBuf::from(path)
        };
        let kept = config.audit.as_ref().filter(|_| catalog.is_some());
        Self {
            key: if path.is_some() {
                "platform.rollout.catalog.path"
            } else {
                "platform.rollout.catalog.kv"
            },
            path,
            kept: kept.map(|audit| beside(&audit.path)),
        }
    }

    /// The catalog of an earlier start.
    pub(super) fn kept(&self) -> Result<Option<Catalog>, Vec<Finding>> {
        let Some(path) = &self.kept else { return Ok(None) };
        let refused = |error: String| {
            let message = format!(
                "{}: {error}: mend it, or remove it to begin with what the configuration names",
                path.display()
            );
            vec![Finding::new(self.key, message)]
        };
        match fs::read(path) {
            Ok(bytes) => Catalog::parse(&bytes)
                .map(Some)
                .map_err(|error| refused(error.to_string())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(refused(error.to_string())),
        }
    }

    pub(super) fn keep(&self, bytes: &[u8]) -> io::Result<()> {
        let Some(path) = &self.kept else { return Ok(()) };
        let mut next = path.clone().into_os_string();
        next.push(".next");
        let mut file = fs::File::create(&next)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&next, path)
    }

    /// With a catalog in a file: lets `executor` start with the one that is kept beside a trail that `goes_on`, else with the
    /// file's.
    pub(super) fn start(&self, executor: &Executor, goes_on: bool) -> Result<(), Vec<Finding>> {
        let (Some(path), Some(_)) = (&self.path, &self.kept) else {
            return Ok(());
        };
        let Some(kept) = self.kept()?.filter(|_| goes_on) else {
            return Ok(());
        };
        let today = fs::read(path).ok().and_then(|bytes| Catalog::parse(&bytes).ok());
        if today.as_ref() != Some(&kept) {
            tracing::info!(
                component = "governance",
                first = kept.version(),
                file = today.map(|today| today.version()),
                "the catalog's file is another one than the audit trail began with: it counts by a signed catalog_update"
            );
        }
        executor.start_with(&kept);
        Ok(())
    }

    /// With a catalog in a file: keeps what a trail began with, once all that was accepted holds with it.
    pub(super) fn keep_started(&self, executor: &Executor, goes_on: bool) {
        let (Some(path), Some(kept)) = (&self.path, &self.kept) else {
            return;
        };
        let handle = executor.handle();
        let differs = handle.status().tenants.iter().any(|tenant| tenant.hold.is_some());
        if goes_on && (kept.exists() || differs) {
            return;
        }
        let written = fs::read(path).and_then(|bytes| self.keep(&bytes));
        if let Err(error) = written {
            let message = format!(
                "{}: the catalog could not be kept for a restart ({error}): do not change {} before there is room",
                kept.display(),
                path.display()
            );
            handle.alert(AlertSeverity::Error, message);
        }
    }
}
