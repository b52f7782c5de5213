//! How long it takes to publish ports: `cargo run -p netns-tests --example elements`, as root.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "an example that prints figures")]

use std::time::{Duration, Instant};

use cnm::{Element, Key, Protocol, Step, Value};
use drivers::kernel::nft::{Nft, Ownership};
use netns_tests::site::Space;

fn main() {
    let host = Space::new();
    let nft = host.run(|| Nft::open("rnet", None, Ownership::Preferred).unwrap());
    println!("{:>9} {:>12} {:>12} {:>12}", "elements", "add", "list", "remove");
    for count in [1, 10, 100, 1_000, 10_000, 50_000] {
        let (add, remove) = steps(count);
        let added = time(|| nft.apply(&add.iter().collect::<Vec<_>>()).unwrap());
        let listed = time(|| assert_eq!(nft.observe().unwrap().len(), add.len()));
        let removed = time(|| nft.apply(&remove.iter().collect::<Vec<_>>()).unwrap());
        println!("{count:>9} {added:>12.1?} {listed:>12.1?} {removed:>12.1?}");
    }
    let (many, _) = steps(50_000);
    nft.apply(&many[1..].iter().collect::<Vec<_>>()).unwrap();
    let one = time(|| nft.apply(&[&many[0]]).unwrap());
    println!("one more beside 49,999: {one:.1?}");
    println!("{:>9} {:>12} {:>12} {:>12}", "ranges", "add", "one more", "remove");
    for count in [1, 10, 100, 1_000] {
        let (add, remove) = ranges(count);
        let added = time(|| nft.apply(&add[1..].iter().collect::<Vec<_>>()).unwrap());
        let one = time(|| nft.apply(&[&add[0]]).unwrap());
        let removed = time(|| nft.apply(&remove.iter().collect::<Vec<_>>()).unwrap());
        println!("{count:>9} {added:>12.1?} {one:>12.1?} {removed:>12.1?}");
    }
}

/// Ranges of 30 ports each.
fn ranges(count: u16) -> (Vec<Step>, Vec<Step>) {
    let element = |number| {
        let (host, protocol, first) = ("0.0.0.0".parse().unwrap(), Protocol::Udp, number * 40);
        let element = Element::PublishedRange { host, protocol, first, last: first + 29 };
        let target = Value::Target { address: "10.1.0.2".parse().unwrap(), port: first };
        (Key::Element(element), target)
    };
    let add = (1..=count).map(element).map(|(key, value)| Step::Add(key, value)).collect();
    let remove = (1..=count).map(element).map(|(key, value)| Step::Remove(key, value)).collect();
    (add, remove)
}

fn steps(count: u16) -> (Vec<Step>, Vec<Step>) {
    let element = |port| {
        let host = "0.0.0.0".parse().unwrap();
        let key = Key::Element(Element::Published { host, protocol: Protocol::Tcp, port });
        (key, Value::Target { address: "10.1.0.2".parse().unwrap(), port: 80 })
    };
    let add = (1..=count).map(element).map(|(key, value)| Step::Add(key, value)).collect();
    let remove = (1..=count).map(element).map(|(key, value)| Step::Remove(key, value)).collect();
    (add, remove)
}

fn time(work: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    work();
    begun.elapsed()
}
