//! What the log reader makes of files.

use std::fs::{File, OpenOptions, rename};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::pin::pin;

use flate2::{Compression, GzBuilder};
use futures_util::StreamExt;

use super::*;

struct Scene {
    dir: PathBuf,
    path: PathBuf,
    progress: watch::Sender<Progress>,
}

impl Scene {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("rnet-logs-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let running = Progress { running: true, ..Progress::default() };
        Self { path: dir.join("c-json.log"), dir, progress: watch::Sender::new(running) }
    }

    fn write(&self, stream: &str, second: i64, texts: &[&str]) {
        append(&self.path, stream, second, texts);
    }

    fn rotate(&self) {
        for number in (0..5).rev() {
            let name = |n: u32| match n {
                0 => self.path.clone(),
                n => self.dir.join(format!("c-json.log.{n}")),
            };
            let _ = rename(name(number), name(number + 1));
        }
    }

    fn end(&self) {
        self.progress.send_modify(|progress| progress.running = false);
    }

    async fn read(&self, query: LogQuery) -> String {
        let stream = read(self.path.clone(), query, self.progress.subscribe());
        let lines: Vec<_> = stream.map(|line| text(&line.unwrap())).collect().await;
        lines.concat()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn append(path: &Path, stream: &str, second: i64, texts: &[&str]) {
    let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
    for log in texts {
        let time = DateTime::from_timestamp(second, 0).unwrap().to_rfc3339();
        let record = serde_json::json!({"log": format!("{log}\n"), "stream": stream, "time": time});
        writeln!(file, "{record}").unwrap();
    }
}

fn text(line: &LogLine) -> String {
    String::from_utf8(line.bytes.to_vec()).unwrap().replace('\n', " ")
}

fn both() -> LogQuery {
    LogQuery { stdout: true, stderr: true, ..LogQuery::default() }
}

#[tokio::test]
async fn rotated_files_are_read_oldest_first() {
    let scene = Scene::new("rotated");
    scene.write("stdout", 1, &["a", "b"]);
    scene.rotate();
    scene.write("stdout", 2, &["c"]);
    scene.rotate();
    scene.write("stdout", 3, &["d"]);
    assert_eq!(scene.read(both()).await, "a b c d ");
}

#[tokio::test]
async fn tail_counts_over_rotated_files() {
    let scene = Scene::new("tail");
    scene.write("stdout", 1, &["a", "b"]);
    scene.rotate();
    scene.write("stdout", 2, &["c", "d"]);
    for (tail, expected) in [(0, ""), (1, "d "), (2, "c d "), (3, "b c d "), (9, "a b c d ")] {
        let query = LogQuery { tail: Some(tail), ..both() };
        assert_eq!(scene.read(query).await, expected, "{tail}");
    }
}

/// Compresses the newest file that is full, as a shim does.
fn pack(scene: &Scene) {
    let full = PathBuf::from(format!("{}.1", scene.path.display()));
    let mut whole = File::open(&full).unwrap();
    let inode = whole.metadata().unwrap().ino().to_string();
    let small = File::create(format!("{}.gz", full.display())).unwrap();
    let mut small = GzBuilder::new().comment(inode).write(small, Compression::fast());
    io::copy(&mut whole, &mut small).unwrap();
    small.finish().unwrap();
    std::fs::remove_file(full).unwrap();
}

#[tokio::test]
async fn a_compressed_file_is_read_in_its_place_and_not_twice() {
    let scene = Scene::new("packed");
    scene.write("stdout", 1, &["a", "b"]);
    let query = LogQuery { follow: true, ..both() };
    let mut stream = pin!(read(scene.path.clone(), query, scene.progress.subscribe()));
    let mut next = async || stream.next().await.map(|line| text(&line.unwrap()));
    assert_eq!((next().await.unwrap(), next().await.unwrap()), ("a ".into(), "b ".into()));
    scene.rotate();
    pack(&scene);
    scene.write("stdout", 2, &["c", "d"]);
    assert_eq!((next().await.unwrap(), next().await.unwrap()), ("c ".into(), "d ".into()));
    scene.end();
    assert_eq!(next().await, None);
    for (tail, expected) in [(1, "d "), (3, "b c d "), (9, "a b c d ")] {
        let query = LogQuery { tail: Some(tail), ..both() };
        assert_eq!(scene.read(query).await, expected, "{tail}");
    }
}

#[tokio::test]
async fn a_reader_that_unpacks_rotated_files_does_not_wake_itself() {
    let scene = Scene::new("wakes");
    scene.write("stdout", 1, &["a"]);
    scene.rotate();
    scene.write("stdout", 2, &["b"]);
    let changes = Changes::of(&scene.path).unwrap();
    pack(&scene);
    let mut lines = Lines::open(&scene.path, None).unwrap();
    while lines.next().unwrap().is_some() {}
    assert!(!changes.are_there(), "what it unpacked is taken for a change of the log");
    scene.write("stdout", 3, &["c"]);
    assert!(changes.are_there() && lines.next().unwrap().is_some());
    assert!(!changes.are_there());
    scene.rotate();
    scene.write("stdout", 4, &["d"]);
    assert!(changes.are_there() && lines.next().unwrap().is_some());
}

#[tokio::test]
async fn files_whose_lines_are_not_wanted_are_not_unpacked() {
    let scene = Scene::new("unwanted-packed");
    scene.write("stdout", 1, &["a"]);
    scene.rotate();
    scene.write("stdout", 2, &["b", "c"]);
    pack(&scene);
    // Behind its head nothing of it could be unpacked.
    let packed = PathBuf::from(format!("{}.1.gz", scene.path.display()));
    let length = std::fs::metadata(&packed).unwrap().len();
    OpenOptions::new().write(true).open(&packed).unwrap().set_len(length - 9).unwrap();
    assert!(Lines::open(&scene.path, None).is_err());
    let query = LogQuery { tail: Some(1), follow: true, ..both() };
    let mut stream = pin!(read(scene.path.clone(), query, scene.progress.subscribe()));
    let mut next = async || stream.next().await.map(|line| text(&line.unwrap()));
    assert_eq!(next().await.unwrap(), "c ");
    scene.write("stdout", 3, &["d"]);
    assert_eq!(next().await.unwrap(), "d ");
    scene.end();
    assert_eq!(next().await, None);
}

#[tokio::test]
async fn streams_and_times_choose_lines() {
    let scene = Scene::new("choose");
    scene.write("stdout", 1, &["a"]);
    scene.write("stderr", 2, &["b"]);
    scene.write("stdout", 3, &["c"]);
    let at = |second| DateTime::from_timestamp(second, 0);
    assert_eq!(scene.read(LogQuery { stderr: false, ..both() }).await, "a c ");
    assert_eq!(scene.read(LogQuery { since: at(2), ..both() }).await, "b c ");
    assert_eq!(scene.read(LogQuery { until: at(2), ..both() }).await, "a b ");
}

#[tokio::test]
async fn a_broken_line_is_left_out() {
    let scene = Scene::new("broken");
    scene.write("stdout", 1, &["a"]);
    OpenOptions::new().append(true).open(&scene.path).unwrap().write_all(b"\0\0{\n").unwrap();
    scene.write("stdout", 1, &["b"]);
    assert_eq!(scene.read(both()).await, "a b ");
}

#[tokio::test]
async fn following_sees_new_lines_over_a_rotation_and_ends_with_the_container() {
    let scene = Scene::new("follow");
    scene.write("stdout", 1, &["a"]);
    let query = LogQuery { follow: true, ..both() };
    let mut stream = pin!(read(scene.path.clone(), query, scene.progress.subscribe()));
    let mut next = async || stream.next().await.map(|line| text(&line.unwrap()));
    assert_eq!(next().await.unwrap(), "a ");
    scene.write("stdout", 2, &["b"]);
    assert_eq!(next().await.unwrap(), "b ");
    scene.write("stdout", 3, &["c"]);
    scene.rotate();
    scene.write("stdout", 4, &["d"]);
    assert_eq!(next().await.unwrap(), "c ");
    assert_eq!(next().await.unwrap(), "d ");
    scene.end();
    assert_eq!(next().await, None);
}

#[tokio::test]
async fn a_log_of_one_file_is_followed_when_it_is_emptied() {
    let scene = Scene::new("emptied");
    scene.write("stdout", 1, &["a", "b"]);
    let query = LogQuery { follow: true, ..both() };
    let mut stream = pin!(read(scene.path.clone(), query, scene.progress.subscribe()));
    let mut next = async || stream.next().await.map(|line| text(&line.unwrap()));
    assert_eq!((next().await.unwrap(), next().await.unwrap()), ("a ".into(), "b ".into()));
    OpenOptions::new().write(true).open(&scene.path).unwrap().set_len(0).unwrap();
    scene.write("stdout", 2, &["c"]);
    assert_eq!(next().await.unwrap(), "c ");
    scene.end();
    assert_eq!(next().await, None);
}

#[tokio::test]
async fn a_line_that_is_half_written_is_waited_for() {
    let scene = Scene::new("half");
    scene.write("stdout", 1, &["a"]);
    let whole = std::fs::read(&scene.path).unwrap();
    let (first, second) = whole.split_at(10);
    std::fs::write(&scene.path, first).unwrap();
    let query = LogQuery { follow: true, ..both() };
    let mut stream = pin!(read(scene.path.clone(), query, scene.progress.subscribe()));
    let poll = futures_util::poll!(stream.next());
    assert!(poll.is_pending());
    OpenOptions::new().append(true).open(&scene.path).unwrap().write_all(second).unwrap();
    assert_eq!(text(&stream.next().await.unwrap().unwrap()), "a ");
}

#[tokio::test]
async fn a_log_in_which_nothing_is_wanted_holds_nobody_up() {
    let scene = Scene::new("unwanted");
    scene.write("stderr", 1, &vec!["x\n"; 20_000]);
    scene.end();
    let query = LogQuery { stdout: true, ..LogQuery::default() };
    let mut turns = 0;
    let others = async {
        loop {
            turns += 1;
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        text = scene.read(query) => assert_eq!(text, ""),
        () = others => {}
    }
    // All of it was read in one go before, on the only thread there is here.
    assert!(turns > 20, "{turns}");
}
