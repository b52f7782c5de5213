//! What `info` and `system df` say is true of this host.

use std::path::Path;

use serde_json::{Value, json};

use crate::daemon::Daemon;

const IMAGE: &str = "rnet/toolbox";

#[test]
fn info_tells_which_limits_this_host_can_keep() {
    let daemon = Daemon::start(&[]);
    let info = daemon.get("/info").json();
    let file = |path: &str| daemon.beside("test", &["-e", path]).status.success();
    let v1 = !Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    if v1 {
        for (name, path) in [
            ("MemoryLimit", "memory/memory.limit_in_bytes"),
            ("SwapLimit", "memory/memory.memsw.limit_in_bytes"),
            ("CpuCfsQuota", "cpu/cpu.cfs_quota_us"),
            ("PidsLimit", "pids/cgroup.procs"),
        ] {
            assert_eq!(info[name], file(&format!("/sys/fs/cgroup/{path}")), "{name}");
        }
    }
    assert_eq!(info["OomKillDisable"], v1 && file("/sys/fs/cgroup/memory/memory.oom_control"));
    let switch = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    let on = daemon.beside("grep", &["-q", "1", switch]).status.success();
    // Docker tells that until API 1.49.
    assert_eq!(daemon.get("/v1.49/info").json()["BridgeNfIptables"], on);
    assert!(info.get("BridgeNfIptables").is_none());
}

#[test]
fn what_takes_space_is_counted_once() {
    let daemon = Daemon::start(&[]);
    daemon.docker_ok(&["tag", IMAGE, "second"]);
    let empty = daemon.scratch.path("empty.tar");
    std::fs::write(&empty, [0; 1024]).unwrap();
    daemon.docker_ok(&["import", "-c", "CMD /none", empty.to_str().unwrap(), "a"]);
    daemon.docker_ok(&["import", "-c", "CMD /other", empty.to_str().unwrap(), "b"]);
    daemon.docker_ok(&["create", "--name", "c1", "-v", "data:/data", IMAGE]);
    let volume = daemon.docker_ok(&["volume", "inspect", "-f", "{{.Mountpoint}}", "data"]);
    std::fs::write(Path::new(&volume).join("file"), [0; 1000]).unwrap();
    std::fs::hard_link(Path::new(&volume).join("file"), Path::new(&volume).join("same")).unwrap();
    let usage = daemon.get("/system/df").json();
    let image = daemon.get("/images/rnet/toolbox/json").json()["Size"].clone();
    assert_eq!(usage["LayersSize"], image);
    let container = &usage["Containers"][0];
    let own = container["SizeRw"].as_u64().unwrap_or_default();
    assert_eq!(container["SizeRootFs"], json!(own + image.as_u64().unwrap()));
    assert_eq!(usage["Volumes"][0]["UsageData"], json!({"Size": 1000, "RefCount": 1}));
    let lists = |query: &str| {
        let usage = daemon.get(&format!("/system/df?{query}")).json();
        let lists = ["Images", "Containers", "Volumes", "BuildCache"];
        lists.map(|name| usage[name] != Value::Null)
    };
    assert_eq!(lists(""), [true; 4]);
    assert_eq!(lists("type=image"), [true, false, false, false]);
    assert_eq!(lists("type=volume&type=container"), [false, true, true, false]);
    assert_eq!(daemon.get("/system/df?type=pod").message(), "unknown object type: pod");
    assert!(daemon.docker_ok(&["system", "df", "-v"]).contains("data"));
}
