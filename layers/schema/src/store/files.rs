//! Files that hold schemas: by their names, and as the bytes a store keeps.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use crate::{config::SCHEMAS_MAX, error::LoadError};

/// Endings of files that hold a descriptor set, before an optional `.gz`.
const SETS: [&str; 5] = ["binpb", "pb", "fds", "desc", "protoset"];
/// Most `.proto` files of one schema.
const SOURCES_MAX: usize = 2_000;
/// How deep folders may be nested.
const FOLDERS_MAX: usize = 32;

/// The schema id that a file's name says: without `.proto`, `.binpb`, `.pb`, `.fds`, `.desc` or `.protoset` (the last five
/// also with `.gz`); `None` for other files.
///
/// ```
/// use arqon_schema::schema_id;
///
/// assert_eq!(schema_id("schemas/v1.users.proto".as_ref()).as_deref(), Some("v1.users"));
/// assert_eq!(schema_id("v1.users.binpb.gz".as_ref()).as_deref(), Some("v1.users"));
/// assert_eq!(schema_id("README.md".as_ref()), None);
/// ```
#[must_use]
pub fn schema_id(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let stem = match name.strip_suffix(".proto") {
        Some(stem) => stem,
        None => {
            let (stem, ending) = name.strip_suffix(".gz").unwrap_or(name).rsplit_once('.')?;
            SETS.contains(&ending).then_some(stem)?
        }
    };
    (!stem.is_empty() && !stem.starts_with('.')).then(|| stem.to_owned())
}

/// The schemas of a folder: ids and their files, sorted. More than one file for an id is for the caller to refuse.
/// Sub-folders hold what is imported, not schemas.
///
/// # Errors
///
/// The folder cannot be read, or has more than [`SCHEMAS_MAX`] schemas.
pub fn schema_files(dir: &Path) -> io::Result<BTreeMap<String, Vec<PathBuf>>> {
    let mut files: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if let Some(id) = schema_id(&path)
            && path.is_file()
        {
            files.entry(id).or_default().push(path);
        }
        if files.len() > SCHEMAS_MAX {
            return Err(io::Error::other(format!("more than {SCHEMAS_MAX} schemas")));
        }
    }
    for paths in files.values_mut() {
        paths.sort();
    }
    Ok(files)
}

/// The descriptor set that a file holds (as it is, so perhaps gzipped) or that its `.proto` source compiles to; imports are
/// looked up beside it. It is not checked: [`Descriptors::decode`](crate::Descriptors::decode) does.
///
/// # Errors
///
/// The file cannot be read, is too large or does not compile.
pub fn read_schema(path: &Path) -> Result<Vec<u8>, LoadError> {
    crate::descriptors::read_set(path)
}

/// One descriptor set of every `.proto` file in a folder and below it, imports included; the files in the order of their
/// names, so that a mapping has to name its message.
///
/// # Errors
///
/// The folder cannot be read, has no source, or a source does not compile.
pub fn compile_folder(dir: &Path) -> Result<Vec<u8>, LoadError> {
    let mut names = Vec::new();
    sources(dir, "", FOLDERS_MAX, &mut names)?;
    if names.is_empty() {
        let problem = format!("{} has no .proto file", dir.display());
        return Err(LoadError::Compile(problem));
    }
    names.sort();
    crate::source::compile_files(dir, &names)
}

fn sources(dir: &Path, prefix: &str, depth: usize, names: &mut Vec<String>) -> Result<(), LoadError> {
    let unreadable = |cause| LoadError::Io {
        path: dir.to_owned(),
        cause,
    };
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let name = format!("{prefix}{name}");
        if path.is_dir() {
            if depth > 0 {
                sources(&path, &format!("{name}/"), depth - 1, names)?;
            }
        } else if name.ends_with(".proto") {
            names.push(name);
        }
        if names.len() > SOURCES_MAX {
            return Err(LoadError::TooLarge {
                what: "source files",
                limit: SOURCES_MAX,
            });
        }
    }
    Ok(())
}
