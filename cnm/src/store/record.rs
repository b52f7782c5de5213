//! Records: the form in which things are kept, and what becomes of those that cannot be read.
//!
//! A record is a JSON object with the version of its form; one without was written by the first
//! release. Fields that came later have defaults, so an old record stays readable. One that is
//! damaged is set aside, byte for byte, under `damaged/`: whoever reads goes on without it. One of
//! a newer release stays where it is, for that release to find it again.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Batch, Durability, Store, StoreError};

/// Where damaged records are kept, under their old keys.
pub const DAMAGED: &str = "damaged/";

/// Where it is kept why a record counts as damaged, under its old key.
const REASONS: &str = "meta/damage/";

/// The form of a record.
pub trait Record: Serialize + DeserializeOwned {
    /// The version that is written. All up to it can be read.
    const VERSION: u32;
}

/// Why a record is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It is not what it should be.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// A later release wrote it.
    #[error("it has version {found}, and this release reads versions up to {known}")]
    Newer {
        /// Its version.
        found: u32,
        /// The latest one that is known here.
        known: u32,
    },
}

/// A record that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The key it has or had.
    pub key: String,
    /// Why it cannot be used, as a clause about "it".
    pub why: String,
    /// Where it is now.
    pub place: String,
}

/// The version in a record, whatever else is there.
#[derive(Deserialize)]
struct Version {
    #[serde(default = "first")]
    version: u32,
}

/// A record as it is written.
#[derive(Serialize)]
struct Versioned<'r, R> {
    version: u32,
    #[serde(flatten)]
    record: &'r R,
}

fn first() -> u32 {
    1
}

/// The bytes of a record.
pub fn encode<R: Record>(record: &R) -> Vec<u8> {
    let versioned = Versioned { version: R::VERSION, record };
    // Records are plain data, of which JSON can express all.
    serde_json::to_vec(&versioned).unwrap_or_else(|error| unreachable!("{error}"))
}

/// The record in some bytes.
pub fn decode<R: Record>(bytes: &[u8]) -> Result<R, RecordError> {
    let damaged = |error: serde_json::Error| RecordError::Damaged(error.to_string());
    let Version { version } = serde_json::from_slice(bytes).map_err(damaged)?;
    match version {
        0 => Err(RecordError::Damaged("its version is 0".to_owned())),
        found if found > R::VERSION => Err(RecordError::Newer { found, known: R::VERSION }),
        _ => serde_json::from_slice(bytes).map_err(damaged),
    }
}

/// Reads records, and goes on where one cannot be read.
#[derive(Debug)]
pub struct Reading<'s> {
    store: &'s dyn Store,
    damaged: Vec<(String, Vec<u8>, RecordError)>,
    newer: Vec<(String, RecordError)>,
}

impl<'s> Reading<'s> {
    /// Nothing has been read yet.
    pub fn new(store: &'s dyn Store) -> Self {
        Self { store, damaged: Vec::new(), newer: Vec::new() }
    }

    /// The records below a prefix that can be read by `read`, in the order of their keys.
    pub fn list_with<T, E: Into<RecordError>>(
        &mut self,
        prefix: &str,
        read: impl Fn(&[u8]) -> Result<T, E>,
    ) -> Result<Vec<(String, T)>, StoreError> {
        let mut all = Vec::new();
        for (key, bytes) in self.store.list(prefix)? {
            match read(&bytes) {
                Ok(record) => all.push((key, record)),
                Err(why) => self.put_by(&key, bytes, why.into()),
            }
        }
        Ok(all)
    }

    /// The records below a prefix that can be read, in the order of their keys.
    pub fn list<R: Record>(&mut self, prefix: &str) -> Result<Vec<(String, R)>, StoreError> {
        self.list_with(prefix, decode::<R>)
    }

    /// The record under a key, if there is one that `read` can read.
    pub fn get_with<T, E: Into<RecordError>>(
        &mut self,
        key: &str,
        read: impl Fn(&[u8]) -> Result<T, E>,
    ) -> Result<Option<T>, StoreError> {
        let Some(bytes) = self.store.get(key)? else { return Ok(None) };
        let read = read(&bytes).map_err(|why| self.put_by(key, bytes, why.into()));
        Ok(read.ok())
    }

    /// Counts a record as damaged that can be read and cannot be true.
    pub fn reject(&mut self, key: &str, why: impl std::fmt::Display) -> Result<(), StoreError> {
        if let Some(bytes) = self.store.get(key)? {
            self.damaged.push((key.to_owned(), bytes, RecordError::Damaged(why.to_string())));
        }
        Ok(())
    }

    /// The keys of what could not be used so far.
    pub fn unreadable(&self) -> impl Iterator<Item = &str> {
        let damaged = self.damaged.iter().map(|(key, _, _)| key);
        damaged.chain(self.newer.iter().map(|(key, _)| key)).map(String::as_str)
    }

    /// Sets aside what is damaged. Gives back all that could not be used this time; what a full
    /// disk keeps from being moved stays where it is, and is found again.
    pub fn finish(self) -> Vec<Unreadable> {
        let mut unreadable: Vec<_> = self.newer.into_iter().map(left).collect();
        for (key, bytes, why) in self.damaged {
            let place = set_aside(self.store, &key, &bytes, &why).unwrap_or_else(|_| key.clone());
            unreadable.push(Unreadable { key, why: why.to_string(), place });
        }
        unreadable
    }

    fn put_by(&mut self, key: &str, bytes: Vec<u8>, why: RecordError) {
        match why {
            RecordError::Newer { .. } => self.newer.push((key.to_owned(), why)),
            RecordError::Damaged(_) => self.damaged.push((key.to_owned(), bytes, why)),
        }
    }
}

/// What has been set aside in a store, now or earlier.
pub fn set_aside_in(store: &dyn Store) -> Result<Vec<Unreadable>, StoreError> {
    let unreadable = |(place, _): (String, Vec<u8>)| {
        let key = place.strip_prefix(DAMAGED).unwrap_or(&place).to_owned();
        let why = store.get(&format!("{REASONS}{key}"))?.unwrap_or_default();
        let key = key.trim_end_matches('~').to_owned();
        Ok(Unreadable { key, why: String::from_utf8_lossy(&why).into_owned(), place })
    };
    store.list(DAMAGED)?.into_iter().map(unreadable).collect()
}

/// Forgets a record that was set aside; tells whether there was one.
pub fn discard(store: &dyn Store, key: &str) -> Result<bool, StoreError> {
    let place = format!("{DAMAGED}{key}");
    let known = store.get(&place)?.is_some();
    let mut batch = Batch::default();
    batch.delete(place);
    batch.delete(format!("{REASONS}{key}"));
    store.commit(&batch, Durability::Immediate)?;
    Ok(known)
}

fn left((key, why): (String, RecordError)) -> Unreadable {
    Unreadable { place: key.clone(), key, why: why.to_string() }
}

/// Moves a record to a place of its own below [`DAMAGED`], and tells which.
fn set_aside(
    store: &dyn Store,
    key: &str,
    bytes: &[u8],
    why: &RecordError,
) -> Result<String, StoreError> {
    let mut name = key.to_owned();
    while store.get(&format!("{DAMAGED}{name}"))?.is_some() {
        name.push('~');
    }
    let mut batch = Batch::default();
    batch.delete(key);
    batch.put(format!("{DAMAGED}{name}"), bytes.to_vec());
    batch.put(format!("{REASONS}{name}"), why.to_string().into_bytes());
    store.commit(&batch, Durability::Immediate)?;
    Ok(format!("{DAMAGED}{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Memory;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Thing {
        name: String,
        #[serde(default)]
        later: Option<u32>,
    }

    impl Record for Thing {
        const VERSION: u32 = 2;
    }

    fn store(records: &[(&str, &str)]) -> Memory {
        let store = Memory::default();
        let mut batch = Batch::default();
        for (key, text) in records {
            batch.put(*key, text.as_bytes().to_vec());
        }
        store.commit(&batch, Durability::Immediate).unwrap();
        store
    }

    #[test]
    fn records_say_their_version_and_old_ones_are_read() {
        let thing = Thing { name: "a".to_owned(), later: Some(1) };
        let bytes = encode(&thing);
        assert_eq!(bytes, br#"{"version":2,"name":"a","later":1}"#);
        assert_eq!(decode::<Thing>(&bytes), Ok(thing));
        let old = Thing { name: "b".to_owned(), later: None };
        assert_eq!(decode::<Thing>(br#"{"name":"b"}"#), Ok(old));
    }

    #[test]
    fn whatever_is_in_the_place_of_a_record_is_an_error_and_no_more() {
        let newer = RecordError::Newer { found: 3, known: 2 };
        assert_eq!(decode::<Thing>(br#"{"version":3,"shape":[]}"#), Err(newer));
        for text in
            ["", "{", "\0\u{1}", "[]", "1", "null", "{}", r#"{"version":0}"#, r#"{"version":"x"}"#]
        {
            let error = decode::<Thing>(text.as_bytes());
            assert!(matches!(error, Err(RecordError::Damaged(_))), "{text}: {error:?}");
        }
    }

    #[test]
    fn damaged_records_are_set_aside_untouched_and_newer_ones_stay() {
        let newer = r#"{"version":9}"#;
        let store =
            store(&[("t/1", r#"{"name":"a"}"#), ("t/2", "}"), ("t/3", newer), ("t/4", "{}")]);
        let mut reading = Reading::new(&store);
        let read = reading.list::<Thing>("t/").unwrap();
        assert_eq!(read.len(), 1);
        let unreadable = reading.finish();
        let places: Vec<_> = unreadable.iter().map(|found| found.place.as_str()).collect();
        assert_eq!(places, ["t/3", "damaged/t/2", "damaged/t/4"]);
        assert_eq!(store.get("damaged/t/2").unwrap().unwrap(), b"}");
        assert_eq!(store.get("t/2").unwrap(), None);
        assert_eq!(store.get("t/3").unwrap().unwrap(), newer.as_bytes());

        // The next one who reads hears of them, too.
        assert_eq!(set_aside_in(&store).unwrap(), unreadable[1..]);
        assert!(discard(&store, "t/2").unwrap());
        assert!(!discard(&store, "t/2").unwrap());
        assert_eq!(set_aside_in(&store).unwrap(), unreadable[2..]);
    }

    #[test]
    fn a_second_damage_under_a_key_does_not_replace_the_first() {
        let store = store(&[("t/1", "first")]);
        for second in ["second", "third"] {
            let mut reading = Reading::new(&store);
            assert_eq!(reading.get_with("t/1", decode::<Thing>).unwrap(), None);
            reading.finish();
            let mut batch = Batch::default();
            batch.put("t/1", second.as_bytes().to_vec());
            store.commit(&batch, Durability::Immediate).unwrap();
        }
        assert_eq!(store.get("damaged/t/1").unwrap().unwrap(), b"first");
        assert_eq!(store.get("damaged/t/1~").unwrap().unwrap(), b"second");
        let mut reading = Reading::new(&store);
        reading.reject("t/1", "it is about nothing").unwrap();
        let why = reading.finish().remove(0).why;
        assert_eq!(why, "it is damaged: it is about nothing");
    }
}
