//! Containers as they are kept, in a form of their own (`form.rs`).
//!
//! Of a container whose record cannot be read nothing is swept: its files, its run and its sandbox
//! stay for whoever mends the record, or discards it.

mod form;
mod values;

use std::collections::HashSet;

use cnm::Store;
use cnm::store::Batch;
use cnm::store::record::{self, Reading, Record, Unreadable};

use super::remove::record_key;
use super::{Container, Containers};
use engine_error::Result;
use form::{ContainerForm, Form};

/// What the keys of containers begin with.
const PREFIX: &str = "container/";

impl Record for ContainerForm {
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
        for (key, form) in reading.list::<ContainerForm>(PREFIX)? {
            let container = form.model();
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
        batch.put(record_key(&container.id), encode(container));
        batch
    }
}

fn encode(container: &Container) -> Vec<u8> {
    record::encode(&ContainerForm::of(container.clone()))
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
        let read = record::decode::<ContainerForm>(text.as_bytes()).unwrap().model();
        assert_eq!((read.name.as_str(), read.spec.image.as_str()), ("a", "x"));
    }

    /// Nothing in it has its default, so that nothing can get lost on the way.
    #[test]
    fn the_form_of_a_container_is_what_it_was_and_loses_nothing() {
        let text = include_str!("record/container.json");
        let written: serde_json::Value = serde_json::from_str(text).unwrap();
        let read = record::decode::<ContainerForm>(text.as_bytes()).unwrap().model();
        let again: serde_json::Value = serde_json::from_slice(&encode(&read)).unwrap();
        assert_eq!(again, written);
        let bare: serde_json::Value =
            serde_json::from_slice(&encode(&Container::default())).unwrap();
        assert_eq!(idle("", &written, &bare), Vec::<String>::new());
    }

    /// The fields that have their defaults, or that are in one of the two only.
    fn idle(path: &str, full: &serde_json::Value, bare: &serde_json::Value) -> Vec<String> {
        use serde_json::Value::Object;
        match (full, bare) {
            (Object(full), Object(bare)) => {
                let keys: std::collections::BTreeSet<_> = full.keys().chain(bare.keys()).collect();
                let nothing = &serde_json::Value::Null;
                let below = |key: &String| {
                    let at = |of: &'_ serde_json::Map<_, _>| of.get(key).unwrap_or(nothing).clone();
                    idle(&format!("{path}/{key}"), &at(full), &at(bare))
                };
                keys.into_iter().filter(|key| *key != "version").flat_map(below).collect()
            }
            (full, bare) if full == bare => vec![path.to_owned()],
            _ => Vec::new(),
        }
    }

    #[test]
    fn a_container_that_cannot_be_read_is_lost_alone_and_stays_known() {
        let store = Memory::default();
        let (good, other) = (container('a'), container('b'));
        let mut batch = Containers::record(&good);
        let [c, d, e] = ["c", "d", "e"].map(|digit| format!("container/{}", digit.repeat(64)));
        batch.put(&*c, b"{\"id\":".to_vec());
        batch.put(&*d, br#"{"version":99}"#.to_vec());
        batch.put(&*e, encode(&other));
        store.commit(&batch, Durability::Immediate).unwrap();
        let lost = ["c", "d", "e"].map(|digit| digit.repeat(64)).into();
        let first = Stored::read(&store).unwrap();
        assert_eq!(first.containers.len(), 1);
        assert_eq!((first.lost, first.unreadable.len()), (HashSet::clone(&lost), 3));
        // The next daemon sweeps nothing of them either.
        assert_eq!(Stored::read(&store).unwrap().lost, lost);
    }
}
