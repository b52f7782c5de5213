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
#[ignore = "ten minutes"]
fn p4_every_address_has_one_owner_after_kills_during_a_thousand_creates_and_removes() {
    churn(1000);
}

fn churn(steps: usize) {
    let mut rack = Rack::cluster(3, 3);
    rack.network(0, "--subnet 10.9.0.0/26 --subnet fd00:9::/64", "app");
    let mut dice = Dice(7);
    let mut present: [Vec<String>; 3] = Default::default();
    let mut under_way: Vec<Child> = Vec::new();
    let mut done = 0;
    for step in 0..steps {
        let machine = dice.below(3);
        let here = &mut present[machine];
        let words = if here.len() > 8 || (!here.is_empty() && dice.below(2) == 0) {
            format!("rm -f {}", here.swap_remove(dice.below(here.len())))
        } else {
            let name = format!("c{machine}x{step}");
            here.push(name.clone());
            format!("run -d --name {name} --network app rnet/toolbox sleep 1000")
        };
        under_way.push(rack.daemon(machine).begin(&words));
        if under_way.len() > 4 {
            done += usize::from(under_way.remove(0).wait().unwrap().success());
        }
        if step % 12 == 7 {
            let victim = dice.below(3);
            rack.machines[victim].daemon_mut().kill();
            rack.machines[victim].daemon_mut().restart();
        }
        if step == steps / 2 {
            let leader = rack.etcd.leader();
            rack.etcd.kill(leader);
            rack.etcd.restart(leader);
        }
    }
    for mut child in under_way {
        done += usize::from(child.wait().unwrap().success());
    }
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
