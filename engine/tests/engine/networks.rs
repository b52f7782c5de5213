//! Networks without containers.

use cnm::network::PoolSpec;
use cnm::{Kind, NetworkSpec};

use crate::scene::{Scene, on_a_host_of_its_own, output};

fn network(name: &str, subnet: &str) -> NetworkSpec {
    NetworkSpec {
        name: name.to_owned(),
        pools: vec![PoolSpec { subnet: Some(subnet.to_owned()), ..PoolSpec::default() }],
        ..NetworkSpec::default()
    }
}

#[test]
fn the_predefined_networks_are_there_and_stay() {
    on_a_host_of_its_own("networks::the_predefined_networks_are_there_and_stay", async |dir| {
        let scene = Scene::open(dir).await;
        let names: Vec<_> = scene.engine.networks.all().iter().map(|n| n.name.clone()).collect();
        assert_eq!(names, ["bridge", "host", "none"]);
        let error = scene.blocking(|engine| engine.networks.remove("bridge")).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Forbidden);
        assert!(output("ip", "-br link show rnet0").contains("rnet0"));
        scene.end().await;
    });
}

#[test]
fn a_network_outlives_the_daemon_and_is_healed() {
    on_a_host_of_its_own("networks::a_network_outlives_the_daemon_and_is_healed", async |dir| {
        let scene = Scene::open(dir).await;
        let spec = network("n1", "10.77.0.0/24");
        let (made, _) = scene.blocking(move |engine| engine.networks.create(&spec)).await.unwrap();
        let bridge = made.profile().device.unwrap().to_string();
        let Scene { dir, engine } = scene;
        engine.close().await;
        drop(engine);
        output("ip", &format!("link del {bridge}"));
        let scene = Scene::open(dir).await;
        assert_eq!(scene.engine.networks.network("n1").unwrap().id, made.id);
        assert!(output("ip", &format!("-br addr show {bridge}")).contains("10.77.0.1/24"));
        scene.end().await;
    });
}

#[test]
fn a_reset_leaves_nothing() {
    on_a_host_of_its_own("networks::a_reset_leaves_nothing", async |dir| {
        let scene = Scene::open(dir.clone()).await;
        let spec = network("n1", "10.78.0.0/24");
        scene.blocking(move |engine| engine.networks.create(&spec)).await.unwrap();
        scene.end().await;
        assert_eq!(output("ip", "-br link").lines().count(), 1);
        assert_eq!(output("nft", "list tables").trim(), "");
        assert_eq!(output("find", dir.to_str().unwrap()).trim(), dir.to_str().unwrap());
    });
}
