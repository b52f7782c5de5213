//! Containers that have no memory left.

use shim::client;
use shim::protocol::{Event, Stdin, Streams};
use tokio::io::AsyncWriteExt;

use super::{run, with_each_runtime};

#[test]
fn a_container_without_memory_is_killed_and_that_is_known() {
    with_each_runtime("oom", &["hog"], |mut container| {
        container.input.resources.memory = 16 << 20;
        container.start(&[]).unwrap();
        run(async {
            if let Ok(mut watch) = container.client().watch().await {
                while watch.next().await.is_some() {}
            }
        });
        let exit = client::exit(&container.config.directory).unwrap();
        assert_eq!((exit.code, exit.oom), (137, true));
    });
}

#[test]
fn a_child_that_is_killed_for_want_of_memory_is_told_of_while_the_container_runs() {
    with_each_runtime("hogs", &["hogs"], |mut container| {
        container.input.resources.memory = 16 << 20;
        container.config.stdin = Stdin::Open;
        container.start(&[]).unwrap();
        run(async {
            let client = container.client();
            let mut watch = client.watch().await.unwrap();
            let input = Streams { stdin: true, ..Streams::default() };
            let mut stream = client.attach(input).await.unwrap();
            stream.write_all(b"\n").await.unwrap();
            assert!(matches!(watch.next().await, Some(Event::Oom)));
            client.kill(9, None).await.unwrap();
            let mut last = None;
            while let Some(event) = watch.next().await {
                assert!(!matches!(event, Event::Oom), "it is told of once");
                last = Some(event);
            }
            assert!(matches!(last, Some(Event::Exit(exit)) if exit.oom && exit.code == 137));
        });
    });
}
