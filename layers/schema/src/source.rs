//! `.proto` source to a descriptor set, compiled by protox.
//!
//! The compiler goes down into what is nested, and from file to imported file, by recursion; to run out of stack ends the
//! process, which nothing contains. So it has a thread with a stack of its own, and is given only what that holds.

use std::{
    cell::Cell,
    fs,
    io::{self, Read},
    path::{Component, Path, PathBuf},
    thread,
};

use protox::{
    Compiler,
    file::{ChainFileResolver, File, FileResolver, GoogleFileResolver},
};

use crate::{descriptors::contained, error::LoadError, table::FILES_MAX};

/// Unoptimised, a level of nesting takes 25 KiB and a level of imports 8 KiB: 21 MiB at the limits.
const STACK: usize = 64 << 20;
/// Most brackets inside one another in one file.
const NESTED_MAX: usize = 200;
/// Most bytes of one file.
const SOURCE_BYTES_MAX: u64 = 4 << 20;

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
    compile(vec![name.to_owned()], Origin::Folder(folder.to_owned()))
}

/// Compiles files of a folder, named relative to it, into one set.
pub(crate) fn compile_files(folder: &Path, names: &[String]) -> Result<Vec<u8>, LoadError> {
    compile(names.to_vec(), Origin::Folder(folder.to_owned()))
}

/// Compiles source text under that file name.
pub(crate) fn compile_text(name: &str, source: &str) -> Result<Vec<u8>, LoadError> {
    let text = Origin::Text(name.to_owned(), source.to_owned());
    compile(vec![name.to_owned()], text)
}

fn compile(names: Vec<String>, origin: Origin) -> Result<Vec<u8>, LoadError> {
    let compiling = move || {
        contained(|| {
            let mut chain = ChainFileResolver::new();
            chain.add(Bounded {
                origin,
                opened: Cell::new(0),
            });
            chain.add(Bounded {
                origin: Origin::Text(
                    "buf/validate/validate.proto".to_owned(),
                    include_str!("../proto/buf/validate/validate.proto").to_owned(),
                ),
                opened: Cell::new(0),
            });
            chain.add(GoogleFileResolver::new());
            let mut compiler = Compiler::with_file_resolver(chain);
            compiler.include_imports(true).include_source_info(false);
            for name in &names {
                compiler.open_file(name).map_err(|error| {
                    // The words alone do not say where.
                    let file = error.file().unwrap_or(name);
                    LoadError::Compile(format!("{file}: {error}"))
                })?;
            }
            Ok(compiler.encode_file_descriptor_set())
        })
    };
    let thread = thread::Builder::new()
        .name("schema-source".to_owned())
        .stack_size(STACK)
        .spawn(compiling)
        .map_err(|error| LoadError::Compile(format!("there is no thread to compile on: {error}")))?;
    thread.join().unwrap_or(Err(LoadError::Panicked))
}

/// Where files are.
enum Origin {
    Folder(PathBuf),
    /// One file.
    Text(String, String),
}

/// Opens what is small and flat enough to be compiled.
struct Bounded {
    origin: Origin,
    opened: Cell<usize>,
}

impl FileResolver for Bounded {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let read;
        let source = match &self.origin {
            Origin::Text(own, source) if own == name => source,
            Origin::Text(..) => return Err(protox::Error::file_not_found(name)),
            Origin::Folder(folder) => {
                read = read_source(folder, name)?;
                &read
            }
        };
        self.opened.set(self.opened.get() + 1);
        if self.opened.get() > FILES_MAX {
            return Err(refused(name, &format!("there are more than {FILES_MAX} files")));
        }
        if nesting(source) > NESTED_MAX {
            return Err(refused(name, &format!("nested deeper than {NESTED_MAX} levels")));
        }
        File::from_source(name, source)
    }
}

fn refused(name: &str, why: &str) -> protox::Error {
    protox::Error::new(io::Error::other(format!("{name}: {why}")))
}

/// A file of that folder or below it.
fn read_source(folder: &Path, name: &str) -> Result<String, protox::Error> {
    let mut parts = Path::new(name).components();
    if !parts.all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(protox::Error::file_not_found(name));
    }
    let mut text = String::new();
    let read = fs::File::open(folder.join(name))
        .and_then(|file| file.take(SOURCE_BYTES_MAX + 1).read_to_string(&mut text));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(protox::Error::file_not_found(name)),
        Err(error) => Err(refused(name, &format!("cannot be read: {error}"))),
        Ok(size) if size as u64 > SOURCE_BYTES_MAX => {
            Err(refused(name, &format!("has more than {SOURCE_BYTES_MAX} bytes")))
        }
        Ok(_) => Ok(text),
    }
}

/// How many brackets are open at most, but for those in comments and strings.
fn nesting(source: &str) -> usize {
    let (mut open, mut most) = (0_usize, 0);
    let mut rest = source.as_bytes();
    while let [first, after @ ..] = rest {
        rest = match (first, after) {
            (b'{' | b'[' | b'(' | b'<', _) => {
                open += 1;
                most = most.max(open);
                after
            }
            (b'}' | b']' | b')' | b'>', _) => {
                open = open.saturating_sub(1);
                after
            }
            (b'/', [b'/', ..]) => past(after, b"\n"),
            (b'/', [b'*', inside @ ..]) => past(inside, b"*/"),
            (quote @ (b'"' | b'\''), _) => past_string(after, *quote),
            _ => after,
        };
    }
    most
}

/// What follows the end of a comment.
fn past<'a>(rest: &'a [u8], end: &[u8]) -> &'a [u8] {
    memchr::memmem::find(rest, end).map_or(&[], |at| &rest[at + end.len()..])
}

/// What follows a string. It ends with its line at the latest, so that nothing hides behind one that is not closed.
fn past_string(mut rest: &[u8], quote: u8) -> &[u8] {
    while let [first, after @ ..] = rest {
        rest = match (first, after) {
            (b'\\', [escaped, after @ ..]) if *escaped != b'\n' => after,
            (b'\n', _) => return after,
            (first, _) if *first == quote => return after,
            _ => after,
        };
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::nesting;

    #[test]
    fn brackets_are_counted_where_they_are_code() {
        for (source, depth) in [
            ("", 0),
            ("message M { map<string, M> m = 1 [(o) = {a: [{}]}]; }", 5),
            ("}}}{{", 2),
            ("// {{{{\n{}", 1),
            ("/* {{{{ // */ {}", 1),
            ("/* {{{{", 0),
            (r#""{{{{" {}"#, 1),
            (r#""\"{{{{" {}"#, 1),
            (r#"'\\' {{}}"#, 2),
            ("'\" {{{'{}", 1),
            ("\"{{{{\n{{", 2),
            ("\"\\\n{{", 2),
            ("{/{}}", 2),
        ] {
            assert_eq!(nesting(source), depth, "{source}");
        }
    }
}
