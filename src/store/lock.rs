//! One broker for each directory: whatever the store keeps, and even when it keeps nothing.
//!
//! A directory enters, which is made with mode 0700 where it is not there; a [`DirectoryLock`] leaves. The system frees it
//! when the process ends, however it ends.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::StoreError;

/// The lock of the broker, beside sled's own, which lingers: this one is taken at once or not at all.
#[derive(Debug)]
pub(super) struct DirectoryLock(File);

impl DirectoryLock {
    /// Makes the directory, and takes it.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when somebody else has it, [`StoreError::Access`] for what the operating system refuses.
    pub(super) fn take(path: &Path) -> Result<Self, StoreError> {
        make_directory(path)?;
        let file_path = path.join("lock");
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&file_path)
            .map_err(|error| StoreError::access("cannot open", &file_path, error))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(fs::TryLockError::WouldBlock) => Err(StoreError::Locked(path.to_owned())),
            Err(fs::TryLockError::Error(error)) => Err(StoreError::access("cannot lock", file_path, error)),
        }
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // Closing would not do: a child process that is just being started holds the same open file for a moment.
        // An error has no consequence but that moment.
        let _ = self.0.unlock();
    }
}

fn make_directory(path: &Path) -> Result<(), StoreError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder.create(path).map_err(|error| StoreError::access("cannot make the directory", path, error))?;
    set_mode(path, 0o700)
}

#[cfg(unix)]
pub(super) fn set_mode(path: &Path, mode: u32) -> Result<(), StoreError> {
    use std::os::unix::fs::PermissionsExt;
    match fs::set_permissions(path, fs::Permissions::from_mode(mode)) {
        // An old snapshot file that sled removes in the background.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(|error| StoreError::access("cannot set the mode of", path, error)),
    }
}

#[cfg(not(unix))]
pub(super) fn set_mode(_path: &Path, _mode: u32) -> Result<(), StoreError> {
    Ok(())
}
