//! Containers as they are kept.
//!
//! A field that came later has a default, so what an earlier release wrote stays readable. Of a
//! container whose record cannot be read nothing is swept: its files, its run and its sandbox stay
//! for whoever mends the record, or discards it.

use std::collections::HashSet;

use cnm::Store;
use cnm::store::Batch;
use cnm::store::record::{self, Reading, Record, Unreadable};

use super::remove::record_key;
use super::{Container, Containers};
use engine_error::Result;

/// What the keys of containers begin with.
const PREFIX: &str = "container/";

impl Record for Container {
    const VERSION: u32 = 1;
}

/// What the store has of containers.
#[derive(Debug)]
pub(crate) struct Stored {
    /// Those that can be read, with their keys.
    pub(crate) containers: Vec<(String, Container)>,
    /// The ids of the others, now and of earlier starts.
    pub(crate) lost: HashSet<String>,
    /// Those of them that were found now.
    pub(crate) unreadable: Vec<Unreadable>,
}

impl Stored {
    /// Reads all containers.
    pub(crate) fn read(store: &dyn Store) -> Result<Self> {
        let mut reading = Reading::new(store);
        let mut containers = Vec::new();
        for (key, container) in reading.list::<Container>(PREFIX)? {
            if key == record_key(&container.id) {
                containers.push((key, container));
            } else {
                reading.reject(&key, "it is of another container")?;
            }
        }
        let unreadable = reading.finish();
        let earlier = record::set_aside_in(store)?;
        let keys = unreadable.iter().chain(&earlier).map(|lost| &lost.key);
        let lost = keys.filter_map(|key| key.strip_prefix(PREFIX)).map(str::to_owned).collect();
        Ok(Self { containers, lost, unreadable })
    }
}

impl Containers {
    /// The batch that writes a container's record.
    pub(crate) fn record(container: &Container) -> Batch {
        let mut batch = Batch::default();
        batch.put(record_key(&container.id), record::encode(container));
        batch
    }
}

#[cfg(test)]
mod tests {
    use cnm::store::{Durability, Memory};

    use super::*;

    fn container(digit: char) -> Container {
        let id = String::from(digit).repeat(64);
        Container { id: id.try_into().unwrap(), name: digit.to_string(), ..Container::default() }
    }

    #[test]
    fn a_record_that_lacks_what_came_later_is_read() {
        let id = "a".repeat(64);
        let text = format!(r#"{{"id":"{id}","name":"a","spec":{{"image":"x"}}}}"#);
        let read: Container = record::decode(text.as_bytes()).unwrap();
        assert_eq!((read.name.as_str(), read.spec.image.as_str()), ("a", "x"));
    }

    #[test]
    fn a_container_that_cannot_be_read_is_lost_alone_and_stays_known() {
        let store = Memory::default();
        let (good, other) = (container('a'), container('b'));
        let mut batch = Containers::record(&good);
        let [c, d, e] = ["c", "d", "e"].map(|digit| format!("container/{}", digit.repeat(64)));
        batch.put(&*c, b"{\"id\":".to_vec());
        batch.put(&*d, br#"{"version":99}"#.to_vec());
        batch.put(&*e, record::encode(&other));
        store.commit(&batch, Durability::Immediate).unwrap();
        let lost = ["c", "d", "e"].map(|digit| digit.repeat(64)).into();
        let first = Stored::read(&store).unwrap();
        assert_eq!(first.containers.len(), 1);
        assert_eq!((first.lost, first.unreadable.len()), (HashSet::clone(&lost), 3));
        // The next daemon sweeps nothing of them either.
        assert_eq!(Stored::read(&store).unwrap().lost, lost);
    }
}
