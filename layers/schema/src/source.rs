//! `.proto` source to a descriptor set, compiled by protox.

use std::path::Path;

use protox::{
    Compiler,
    file::{ChainFileResolver, File, FileResolver, GoogleFileResolver, IncludeFileResolver},
};

use crate::{descriptors::contained, error::LoadError};

/// Compiles a file; its imports are looked up in its folder, then among `buf/validate/validate.proto` and
/// `google/protobuf/*.proto`.
pub(crate) fn compile_file(path: &Path) -> Result<Vec<u8>, LoadError> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name =
        name.ok_or_else(|| LoadError::Compile(format!("{} is not a file name in UTF-8", path.display())))?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    compile(&[name], IncludeFileResolver::new(folder.to_owned()))
}

/// Compiles files of a folder, named relative to it, into one set.
pub(crate) fn compile_files(folder: &Path, names: &[String]) -> Result<Vec<u8>, LoadError> {
    compile(names, IncludeFileResolver::new(folder.to_owned()))
}

/// Compiles source text under that file name.
pub(crate) fn compile_text(name: &str, source: &str) -> Result<Vec<u8>, LoadError> {
    compile(
        &[name],
        Text {
            name: name.to_owned(),
            source: source.to_owned(),
        },
    )
}

fn compile(names: &[impl AsRef<str>], resolver: impl FileResolver + 'static) -> Result<Vec<u8>, LoadError> {
    contained(|| {
        let mut chain = ChainFileResolver::new();
        chain.add(resolver);
        chain.add(Text {
            name: "buf/validate/validate.proto".to_owned(),
            source: include_str!("../proto/buf/validate/validate.proto").to_owned(),
        });
        chain.add(GoogleFileResolver::new());
        let mut compiler = Compiler::with_file_resolver(chain);
        compiler.include_imports(true).include_source_info(false);
        for name in names {
            compiler.open_file(name.as_ref()).map_err(|error| {
                // The words alone do not say where.
                let file = error.file().unwrap_or(name.as_ref());
                LoadError::Compile(format!("{file}: {error}"))
            })?;
        }
        Ok(compiler.encode_file_descriptor_set())
    })
}

struct Text {
    name: String,
    source: String,
}

impl FileResolver for Text {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        if name == self.name {
            File::from_source(name, &self.source)
        } else {
            Err(protox::Error::file_not_found(name))
        }
    }
}
