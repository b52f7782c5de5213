//! Volumes of a driver that does what it is told, or does not.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};

use super::super::Want;
use super::super::tests::Scratch;
use super::*;

#[derive(Debug, Default)]
struct Inner {
    volumes: BTreeSet<String>,
    calls: Vec<String>,
    refuses: &'static str,
    /// Where the notes are that it looks at when it mounts.
    notes: PathBuf,
}

#[derive(Clone, Debug, Default)]
struct Fake(Arc<Mutex<Inner>>);

impl Fake {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    fn called(&self, call: &str, subject: &str) -> Result<MutexGuard<'_, Inner>> {
        let mut inner = self.inner();
        inner.calls.push(format!("{call} {subject}"));
        if inner.refuses == call {
            return Err(Error::new(Kind::Internal, "not today"));
        }
        Ok(inner)
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.inner().calls)
    }
}

impl Driver for Fake {
    fn create(&self, name: &str, _: &BTreeMap<String, String>) -> Result<()> {
        self.called("create", name)?.volumes.insert(name.to_owned());
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.called("remove", name)?.volumes.remove(name);
        Ok(())
    }

    fn find(&self, name: &str) -> Result<Option<Told>> {
        let known = self.inner().volumes.contains(name);
        Ok(known.then(|| Told { name: name.to_owned(), ..Told::default() }))
    }

    fn list(&self) -> Result<Vec<Told>> {
        let inner = self.called("list", "")?;
        let told = |name: &String| Told { name: name.clone(), ..Told::default() };
        Ok(inner.volumes.iter().map(told).collect())
    }

    fn mount(&self, name: &str, user: &str) -> Result<PathBuf> {
        let inner = self.called("mount", user)?;
        assert!(inner.notes.join(name).join("mounted").join(user).exists(), "it is noted first");
        Ok(PathBuf::from("/kept").join(name))
    }

    fn unmount(&self, _: &str, user: &str) -> Result<()> {
        self.called("unmount", user).map(drop)
    }

    fn scope(&self) -> &'static str {
        "global"
    }
}

impl Drivers for Fake {
    fn find(&self, name: &str) -> Result<Arc<dyn Driver>> {
        if name == "fake" { Ok(Arc::new(self.clone())) } else { OnlyLocal.find(name) }
    }

    fn names(&self) -> Vec<String> {
        vec!["fake".to_owned()]
    }
}

fn open(scratch: &Scratch, fake: &Fake) -> Volumes {
    let root = scratch.0.join("volumes");
    fake.inner().notes.clone_from(&root);
    Volumes::open_with(root, Arc::new(fake.clone())).unwrap()
}

fn new() -> New {
    New { driver: "fake".to_owned(), ..New::default() }
}

#[test]
fn a_user_is_noted_from_before_a_mount_until_the_driver_has_let_go() {
    let (scratch, fake) = (Scratch::new(), Fake::default());
    let volumes = open(&scratch, &fake);
    volumes.hold("one", Want::Named("data"), &new()).unwrap();
    volumes.attach("one", "data").unwrap();
    volumes.attach("one", "data").unwrap();
    assert_eq!(volumes.find("data").unwrap().mountpoint, Path::new("/kept/data"));
    fake.inner().refuses = "unmount";
    volumes.detach_from_drivers("one");
    assert_eq!(fake.calls(), ["create data", "mount one", "unmount one"]);
    // It is told before it mounts for the same user again.
    fake.inner().refuses = "";
    volumes.attach("one", "data").unwrap();
    volumes.detach_from_drivers("one");
    volumes.attach("copy of one", "data").unwrap();
    volumes.detach_from_drivers("copy of one");
    let said =
        ["unmount one", "mount one", "unmount one", "mount copy-of-one", "unmount copy-of-one"];
    assert_eq!(fake.calls(), said);
    assert_eq!(volumes.find("data").unwrap().mountpoint, Path::new(""));
    let error = volumes.remove("data").unwrap_err().to_string();
    assert_eq!(error, "remove data: volume is in use - [one]");
    volumes.release("one", &[]);
    volumes.remove("data").unwrap();
    assert_eq!(fake.calls(), ["remove data"]);
}

#[test]
fn the_next_daemon_lets_go_for_those_that_are_gone_and_for_nobody_else() {
    let (scratch, fake) = (Scratch::new(), Fake::default());
    let volumes = open(&scratch, &fake);
    for user in ["stays", "ends"] {
        volumes.hold(user, Want::Named("data"), &new()).unwrap();
        volumes.attach(user, "data").unwrap();
    }
    drop(volumes);
    fake.calls();
    let volumes = open(&scratch, &fake);
    volumes.take_up("stays", "data").unwrap();
    volumes.settle_with_drivers();
    volumes.settle_with_drivers();
    assert_eq!(fake.calls(), ["unmount ends"]);
    assert_eq!(volumes.find("data").unwrap().mountpoint, Path::new("/kept/data"));
    volumes.detach_from_drivers("stays");
    assert_eq!(fake.calls(), ["unmount stays"]);
}

#[test]
fn what_a_driver_refuses_is_neither_made_nor_forgotten() {
    let (scratch, fake) = (Scratch::new(), Fake::default());
    let volumes = open(&scratch, &fake);
    fake.inner().refuses = "create";
    let error = volumes.hold("one", Want::Named("data"), &new()).unwrap_err().to_string();
    assert_eq!(error, "create data: not today");
    assert_eq!(volumes.list().unwrap(), []);
    fake.inner().refuses = "mount";
    volumes.create_with("data", &new()).unwrap();
    let error = volumes.attach("one", "data").unwrap_err().to_string();
    assert_eq!(error, "error while mounting volume 'data': not today");
    assert!(volumes.names_attached("one").is_empty());
    fake.inner().refuses = "remove";
    assert_eq!(volumes.remove("data").unwrap_err().to_string(), "remove data: not today");
    assert_eq!(volumes.find("data").unwrap().driver, "fake");
    // What is gone there goes here.
    fake.inner().volumes.clear();
    volumes.remove("data").unwrap();
    assert_eq!(volumes.find("data").unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn a_name_is_one_driver_s_and_earlier_releases_know_its_record_for_a_newer_one() {
    let (scratch, fake) = (Scratch::new(), Fake::default());
    let volumes = open(&scratch, &fake);
    volumes.create_with("far", &new()).unwrap();
    volumes.create("near", BTreeMap::new()).unwrap();
    let version = |name: &str| {
        let record = fs::read(scratch.0.join("volumes").join(name).join("volume.json")).unwrap();
        serde_json::from_slice::<Value>(&record).unwrap()["version"].clone()
    };
    assert_eq!((version("near"), version("far")), (1.into(), 2.into()));
    let local = New { driver: LOCAL.to_owned(), ..New::default() };
    for (name, wanted, own) in [("far", local, "fake"), ("near", new(), "local")] {
        let error = volumes.create_with(name, &wanted).unwrap_err().to_string();
        let text = "volume name must be unique";
        assert_eq!(
            error,
            format!("create {name}: driver '{own}' already has volume '{name}': {text}")
        );
    }
    // Of a driver that is not there that is said first, whoever has the name.
    let nobody = New { driver: "nobody".to_owned(), ..New::default() };
    for (name, want) in [("far", Want::Named("far")), ("near", Want::Named("near"))] {
        let text = format!("create {name}: error looking up volume plugin nobody: ");
        let error = volumes.create_with(name, &nobody).unwrap_err().to_string();
        assert!(error.starts_with(&text), "{error}");
        let error = volumes.hold("one", want, &nobody).unwrap_err().to_string();
        assert!(error.starts_with(&text), "{error}");
    }
    assert_eq!(volumes.prune(|_| true).unwrap().removed, ["near"]);
    fake.inner().volumes.insert("outside".to_owned());
    let (all, warnings) = volumes.describe_all().unwrap();
    let names: Vec<_> = all.iter().map(|known| &*known.volume.name).collect();
    assert_eq!((names, warnings.len()), (vec!["far", "outside"], 0));
    fake.inner().refuses = "list";
    let (all, warnings) = volumes.describe_all().unwrap();
    assert_eq!(
        (all.len(), warnings),
        (1, vec!["error while listing volumes of fake: not today".to_owned()])
    );
}
