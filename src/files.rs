//! Files that are there whole or not at all, whenever the machine stops.
//!
//! A path, its content and its mode enter. The content is written beside the path under a name of its own, given to the
//! disk, and only then takes the path's name. Never: a half-written file, or one that others could read for a moment.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Writes a file that is not there yet, and the directories above it. `mode` is that of `chmod`.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] when it is there: it is left alone then.
pub fn write_new(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    // A link, unlike a rename, fails when the target exists.
    write(path, content, mode, |temporary, target| fs::hard_link(temporary, target))
}

/// Writes a file over the one that is there, if one is.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    write(path, content, mode, |temporary, target| fs::rename(temporary, target))
}

/// Gives a file the name of another one, which is gone then; durable when it returns.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_directory(to)
}

fn write(
    path: &Path,
    content: &[u8],
    mode: u32,
    publish: impl FnOnce(&Path, &Path) -> io::Result<()>,
) -> io::Result<()> {
    let mut drawn = [0; 8];
    getrandom::fill(&mut drawn).map_err(io::Error::other)?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{:016x}.tmp", u64::from_ne_bytes(drawn)));
    let temporary = PathBuf::from(temporary);
    let written = (|| {
        fs::create_dir_all(directory_of(path))?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        publish(&temporary, path)?;
        sync_directory(path)
    })();
    // Gone after a rename, and of no use in every other case.
    if let Err(error) = fs::remove_file(&temporary)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!("cannot remove {}: {error}", temporary.display());
    }
    written
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A name is on the disk when its directory is.
fn sync_directory(path: &Path) -> io::Result<()> {
    fs::File::open(directory_of(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_is_written_with_its_mode_and_nothing_stays_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("made/a.key");
        write_new(&path, b"one", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        let again = write_new(&path, b"two", 0o600).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"one", "a new file replaces nothing");

        replace(&path, b"three", 0o644).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);

        rename(&path, &path.with_extension("old")).unwrap();
        assert_eq!(names(&directory.path().join("made")), ["a.old"]);
    }

    #[test]
    fn a_write_that_fails_leaves_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        fs::create_dir(&path).unwrap();
        assert!(replace(&path, b"x", 0o600).is_err(), "a directory is not replaced by a file");
        assert!(write_new(&path.join("a/b"), b"x", 0o600).is_ok());
        assert!(write_new(&path.join("a/b/c"), b"x", 0o600).is_err(), "a file is no directory");
        assert_eq!(names(directory.path()), ["a"]);
    }
}
