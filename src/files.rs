//! Files that an operator names: read whole, up to a size, and only where there is an end to them.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

/// The largest configuration, in bytes.
pub const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// The largest key set, certificate chain or private key, in bytes.
pub const KEYS_BYTES_MAX: u64 = 1 << 20;
/// The largest file with a token or a credential, in bytes.
pub const TOKEN_BYTES_MAX: u64 = 64 << 10;

/// Reads a file of at most `max` bytes. It has to be a regular one, or a link to one: a pipe or a device may never end, and
/// reading one that nobody writes never begins.
///
/// # Errors
/// Whatever the system says; `InvalidInput` for what is no regular file, `FileTooLarge` above `max`.
pub fn read(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        let why = "it is not a regular file: give a file, or a link to one";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        let why = format!("it is larger than {max} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    Ok(bytes)
}

/// As [`read`], for text.
///
/// # Errors
/// As [`read`]; `InvalidData` for what is not UTF-8.
pub fn read_text(path: &Path, max: u64) -> io::Result<String> {
    String::from_utf8(read(path, max)?)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_bytes_as_may_be_are_read_and_one_more_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("f");
        fs::write(&path, [b'x'; 10]).expect("written");
        assert_eq!(read_text(&path, 10).expect("it fits"), "x".repeat(10));
        let refused = read(&path, 9).expect_err("one too many");
        assert_eq!(refused.kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(refused.to_string(), "it is larger than 9 bytes");
        fs::write(&path, [0xff]).expect("written");
        let refused = read_text(&path, 9).expect_err("no text");
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    }

    #[cfg(unix)]
    #[test]
    fn what_has_no_end_is_not_begun() {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.expect("mkfifo").success());
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/dev/zero", &link).expect("linked");
        for path in [pipe.as_path(), &link, folder.path()] {
            let refused = read(path, 10).expect_err("no regular file");
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{}", path.display());
        }
    }
}
