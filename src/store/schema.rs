//! The record that says which form the whole store has, so that an older program never misreads a newer store.

use super::{Batch, KeyRange, Store, StoreError, Table};

/// The schema that this program writes.
pub const VERSION: u32 = 1;

const META: Table<String, u32> = Table::new("meta", 1);
const KEY: &str = "schema_version";

/// Writes the version into an empty store and checks it in any other.
///
/// # Errors
/// [`StoreError::NewerSchema`], [`StoreError::NoSchema`] when there are records without a version,
/// [`StoreError::Corrupt`] when the version cannot be read, and what the store itself says.
pub fn prepare(store: &dyn Store) -> Result<(), StoreError> {
    match META.get(store, &KEY.to_owned())? {
        Some(VERSION) => Ok(()),
        Some(found) if found > VERSION => Err(StoreError::NewerSchema { found, known: VERSION }),
        Some(found) => Err(StoreError::Corrupt {
            table: META.name(),
            key: KEY.to_owned(),
            reason: format!("there never was a schema version {found}"),
        }),
        None if store.scan(&KeyRange::all(), 1)?.is_empty() => {
            let mut batch = Batch::new();
            batch.put(&META, &KEY.to_owned(), &VERSION)?;
            store.commit(batch)
        }
        None => Err(StoreError::NoSchema),
    }
}

#[cfg(test)]
mod tests {
    use super::super::MemoryStore;
    use super::*;

    const RAW_KEY: &[u8] = b"meta\0schema_version";

    fn store_with(value: &[u8]) -> MemoryStore {
        let store = MemoryStore::new();
        let mut batch = Batch::new();
        batch.raw(RAW_KEY, Some(value));
        store.commit(batch).unwrap();
        store
    }

    #[test]
    fn an_empty_store_gets_the_version_and_is_accepted_again() {
        let store = MemoryStore::new();
        prepare(&store).unwrap();
        assert_eq!(store.read(RAW_KEY).unwrap().unwrap(), b"\x011");
        prepare(&store).unwrap();
    }

    #[test]
    fn a_newer_store_is_refused_naming_both_versions_and_left_alone() {
        let store = store_with(b"\x017");
        let error = prepare(&store).unwrap_err();
        assert!(matches!(error, StoreError::NewerSchema { found: 7, known: VERSION }));
        let text = error.to_string();
        assert!(text.contains("schema version 7") && text.contains("up to 1"), "{text}");
        assert_eq!(store.read(RAW_KEY).unwrap().unwrap(), b"\x017");
    }

    #[test]
    fn a_damaged_version_names_table_and_key() {
        for value in [&b""[..], b"\x01", b"\x01abc", b"\x01-1", b"\x01\xff\xfe", b"\x021", b"\x010", b"\x0199999999999"]
        {
            let error = prepare(&store_with(value)).unwrap_err();
            assert!(matches!(error, StoreError::Corrupt { .. }), "{value:?}: {error}");
            let text = error.to_string();
            assert!(text.contains("`meta`") && text.contains("`schema_version`"), "{text}");
        }
    }

    #[test]
    fn records_without_a_version_are_refused() {
        let store = MemoryStore::new();
        let mut batch = Batch::new();
        batch.raw(b"users\0x", Some(b"y"));
        store.commit(batch).unwrap();
        assert!(matches!(prepare(&store), Err(StoreError::NoSchema)));
    }
}
