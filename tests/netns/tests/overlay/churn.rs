//! Containers come and go everywhere while daemons and etcd's leader are killed.

use std::process::Child;
use std::time::Duration;

use netns_tests::Rack;

use crate::scene::takes;

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(self.0 >> 33).unwrap() % end
    }
}

#[test]
fn p4_every_address_has_one_owner_after_kills_during_sixty_creates_and_removes() {
    churn(60);
}

#[test]
#[ignore = "minutes"]
fn p4_every_address_has_one_owner_after_kills_during_a_thousand_creates_and_removes() {
    churn(1000);
}

/// A command that was begun on a machine, and the container that it is to leave there.
struct UnderWay {
    machine: usize,
    made: Option<String>,
    child: Child,
}

/// What was asked for and what came of it.
struct Churn {
    rack: Rack,
    /// The containers of each machine that are to be removed some time.
    present: [Vec<String>; 3],
    under_way: Vec<UnderWay>,
    done: usize,
}

impl Churn {
    fn begin(&mut self, machine: usize, words: &str, made: Option<String>) {
        let child = self.rack.daemon(machine).begin(words);
        self.under_way.push(UnderWay { machine, made, child });
    }

    /// Waits until no more than so many commands are under way.
    fn settle(&mut self, most: usize) {
        while self.under_way.len() > most {
            let UnderWay { machine, made, mut child } = self.under_way.remove(0);
            if child.wait().unwrap().success() {
                self.done += 1;
                self.present[machine].extend(made);
            }
        }
    }

    /// Kills a daemon under its commands. What became of them only its successor knows.
    fn kill(&mut self, victim: usize) {
        self.rack.machines[victim].daemon_mut().kill();
        self.rack.machines[victim].daemon_mut().restart();
        self.settle(0);
        let names = self.rack.daemon(victim).rnet("ps -a --format {{.Names}}");
        self.present[victim] = names.split_whitespace().map(str::to_owned).collect();
    }
}

fn churn(steps: usize) {
    let rack = Rack::cluster(3, 3);
    rack.network(0, "--subnet 10.9.0.0/26 --subnet fd00:9::/64", "app");
    let mut dice = Dice(7);
    let mut churn = Churn { rack, present: Default::default(), under_way: Vec::new(), done: 0 };
    for step in 0..steps {
        let machine = dice.below(3);
        let here = &mut churn.present[machine];
        if here.len() > 8 || (!here.is_empty() && dice.below(2) == 0) {
            let words = format!("rm -f {}", here.swap_remove(dice.below(here.len())));
            churn.begin(machine, &words, None);
        } else {
            let name = format!("c{machine}x{step}");
            let words = format!("run -d --name {name} --network app rnet/toolbox sleep 1000");
            churn.begin(machine, &words, Some(name));
        }
        churn.settle(4);
        if step % 12 == 7 {
            churn.kill(dice.below(3));
        }
        if step == steps / 2 {
            let leader = churn.rack.etcd.leader();
            churn.rack.etcd.kill(leader);
            churn.rack.etcd.restart(leader);
        }
    }
    churn.settle(0);
    let Churn { rack, done, .. } = churn;
    rack.agrees_within(Duration::from_secs(30));
    for machine in 0..3 {
        let all = rack.daemon(machine).rnet("ps -aq");
        if !all.is_empty() {
            let all: Vec<_> = all.split_whitespace().collect();
            rack.daemon(machine).rnet(&format!("rm -f {}", all.join(" ")));
        }
    }
    rack.agrees();
    assert!(done > steps / 3, "only {done} of {steps} commands came to something");
    // A removal does not wait for the store to be told of each address that was kept.
    takes("every address is free", Duration::from_secs(30), || {
        rack.records().addresses.values().all(|record| record["holder"].is_null())
    });
}
