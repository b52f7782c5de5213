//! What users are promised, where nothing is broken.

use std::time::Duration;

use netns_tests::Rack;
use netns_tests::recipe::Recipe;

use crate::scene::{Talk, knows, takes};

#[test]
fn p27_the_recipe_works_word_for_word() {
    let mut rack = Rack::bare(3, 1);
    Recipe::read(include_str!("../../../../docs/overlay.md")).run(&mut rack, |_, _| {});
}

#[test]
fn containers_on_different_machines_find_and_reach_each_other_in_both_families() {
    let rack = Rack::cluster(3, 1);
    rack.network(0, "", "app");
    let talk = Talk::new(&rack, "app");
    takes("they talk", Duration::from_secs(2), || talk.works());
    rack.daemon(2).run("third", "--network app --network-alias web");
    rack.agrees();
    rack.daemon(1).rnet("rm -f web");
    let left = rack.daemon(2).addresses("third")["app"].clone();
    takes("the name leads elsewhere", Duration::from_secs(2), || knows(&talk.asker, "web", &left));
    rack.agrees();
    for (machine, container) in [(0, "asker"), (2, "third")] {
        rack.daemon(machine).rnet(&format!("rm -f {container}"));
    }
    rack.agrees();
    rack.daemon(1).rnet("network rm app");
    takes("the network is gone everywhere", Duration::from_secs(2), || {
        rack.machines.iter().all(|machine| {
            machine.daemon().rnet("network ls -q --filter driver=overlay").is_empty()
        })
    });
    rack.agrees();
    assert!(rack.records().addresses.is_empty(), "{:?}", rack.records());
}
