//! What outlives the daemon, and what `rnet-dns` itself survives.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use cnm::{PortBinding, Protocol};
use dns::client::{Client, ClientError};
use dns::protocol::{HeldPort, Reply, Request};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::{Lab, eventually, named, network, own_address, view};

fn binding(host: IpAddr, host_port: u16, protocol: Protocol) -> PortBinding {
    PortBinding { host, host_port, protocol, port: 80 }
}

fn reserved(host: IpAddr, host_port: u16) -> HeldPort {
    let binding = binding(host, host_port, Protocol::Tcp);
    HeldPort { binding, target: None, twin: None }
}

#[test]
fn a_held_port_is_taken_until_it_is_dropped() {
    let lab = Lab::new(&[]);
    // Bound to a number, as published ports are: the kernel takes one back that it chose itself.
    let listener = TcpListener::bind((own_address(), 8080)).unwrap();
    let address = listener.local_addr().unwrap();
    let held = reserved(address.ip(), address.port());
    lab.client.hold(&[(held.clone(), listener.as_fd())]).unwrap();
    drop(listener);
    assert!(TcpListener::bind(address).is_err());
    assert_eq!(lab.client.status().unwrap().ports, std::slice::from_ref(&held.binding));
    lab.client.drop_ports(&[held.binding]).unwrap();
    TcpListener::bind(address).unwrap();
    assert!(lab.client.status().unwrap().ports.is_empty());
}

#[test]
fn more_ports_than_fit_into_a_packet_are_held_and_told() {
    let lab = Lab::new(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().ip();
    let ports: Vec<_> = (1..=1500).map(|port| (reserved(host, port), listener.as_fd())).collect();
    lab.client.hold(&ports).unwrap();
    assert_eq!(lab.client.status().unwrap().ports.len(), 1500);
    let bindings: Vec<_> = ports.into_iter().map(|(held, _)| held.binding).collect();
    lab.client.drop_ports(&bindings).unwrap();
    assert!(lab.client.status().unwrap().ports.is_empty());
}

#[test]
fn released_sockets_are_closed_when_release_returns() {
    let lab = Lab::new(&[]);
    let sandbox = lab.sandbox(view(1));
    let udp = sandbox.udp.local_addr().unwrap();
    let id = sandbox.id.clone();
    drop(sandbox);
    assert!(UdpSocket::bind(udp).is_err());
    lab.client.release(&id).unwrap();
    UdpSocket::bind(udp).unwrap();
    lab.client.release(&id).unwrap();
}

#[test]
fn the_owner_socket_is_kept_and_handed_out() {
    let lab = Lab::new(&[]);
    assert!(lab.client.take_owner().unwrap().is_none());
    let (mut here, there) = UnixStream::pair().unwrap();
    lab.client.keep_owner(there.as_fd()).unwrap();
    drop(there);
    for _ in 0..2 {
        let owner: OwnedFd = lab.client.take_owner().unwrap().unwrap();
        UnixStream::from(owner).write_all(b"x").unwrap();
        here.read_exact(&mut [0; 1]).unwrap();
    }
    assert!(lab.client.status().unwrap().owner);
}

#[test]
fn everything_stays_when_the_daemon_goes() {
    let lab = Lab::new(&[]);
    let daemon = Client::connect(&lab.socket()).unwrap();
    let sandbox = crate::lab::Sandbox::bind(view(1).sandbox);
    daemon.serve(view(1), sandbox.udp.as_fd(), sandbox.tcp.as_fd()).unwrap();
    daemon.publish(&network('a'), "app", &[named(1, "web", "10.0.0.1")]).unwrap();
    drop(daemon);
    assert_eq!(sandbox.addresses("web").len(), 1);
    let again = Client::connect(&lab.socket()).unwrap();
    let status = again.status().unwrap();
    assert_eq!(status.sandboxes, std::slice::from_ref(&sandbox.id));
    assert_eq!(status.pid, lab.child.id());
    again.publish(&network('a'), "app", &[named(1, "web", "10.0.0.9")]).unwrap();
    assert_eq!(sandbox.addresses("web"), ["10.0.0.9".parse::<IpAddr>().unwrap()]);
}

#[test]
fn a_new_process_takes_over_after_a_crash() {
    let mut lab = Lab::new(&[]);
    let sandbox = lab.sandbox(view(1));
    lab.client.publish(&network('a'), "app", &[named(1, "web", "10.0.0.1")]).unwrap();
    let old = Client::connect(&lab.socket()).unwrap();
    lab.crash_and_restart();
    assert!(matches!(old.status(), Err(ClientError::Packet { .. })));
    assert!(matches!(old.status(), Err(ClientError::Disconnected)));
    lab.serve(&sandbox, view(1));
    lab.client.publish(&network('a'), "app", &[named(1, "web", "10.0.0.1")]).unwrap();
    assert_eq!(sandbox.addresses("web").len(), 1);
}

#[test]
fn two_do_not_serve_one_socket() {
    let lab = Lab::new(&[]);
    let second = Command::new(env!("CARGO_BIN_EXE_rnet-dns"))
        .arg("--socket")
        .arg(lab.socket())
        .output()
        .unwrap();
    assert!(!second.status.success());
    let expected = format!(
        "rnet-dns: another rnet-dns serves {}: end it first, or choose another --socket\n",
        lab.socket().display(),
    );
    assert_eq!(String::from_utf8(second.stderr).unwrap(), expected);
    lab.client.status().unwrap();
}

#[test]
fn signals_of_a_terminal_do_not_end_it_and_sigterm_does() {
    let mut lab = Lab::new(&[]);
    let pid = Pid::from_raw(lab.child.id().try_into().unwrap());
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGPIPE] {
        kill(pid, signal).unwrap();
    }
    lab.client.status().unwrap();
    kill(pid, Signal::SIGTERM).unwrap();
    assert!(lab.child.wait().unwrap().success());
}

#[test]
fn shutdown_is_answered_before_the_end() {
    let mut lab = Lab::new(&[]);
    lab.client.shutdown().unwrap();
    assert!(lab.child.wait().unwrap().success());
}

#[test]
fn the_socket_is_for_its_owner_only() {
    let lab = Lab::new(&[]);
    let mode = std::fs::metadata(lab.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// Whoever the test below runs this as: it is turned away before it says anything.
#[test]
#[ignore = "is run by another test, as another user"]
fn stranger() {
    let socket = std::env::var_os("RNET_DNS_SOCKET").unwrap();
    let error = Client::connect(Path::new(&socket)).unwrap_err();
    assert!(matches!(error, ClientError::Packet { .. }), "{error:?}");
}

#[test]
fn a_process_of_another_user_is_turned_away_though_it_may_connect() {
    if !nix::unistd::getuid().is_root() {
        return;
    }
    let lab = Lab::new(&[]);
    // Were the socket's mode all that keeps strangers out, this one would get in.
    for path in [lab.dir.clone(), lab.socket()] {
        std::fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    }
    let program = lab.dir.join("stranger");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let output = Command::new(program)
        .args(["--exact", "keeping::stranger", "--ignored", "--nocapture"])
        .env("RNET_DNS_SOCKET", lab.socket())
        .current_dir("/")
        .uid(65_534)
        .gid(65_534)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{output:?}");
    lab.client.status().unwrap();
}

#[test]
fn another_version_of_the_protocol_is_refused() {
    let lab = Lab::new(&[]);
    let (reply, _) = lab.client.call(&Request::Hello { version: 99 }, &[]).unwrap();
    let message = "protocol 99 is not spoken here, only 1: restart rnet-dns".to_owned();
    assert_eq!(reply, Reply::Failed { message });
}

#[test]
fn a_wrong_number_of_descriptors_is_refused() {
    let lab = Lab::new(&[]);
    let (reply, _) = lab.client.call(&Request::Serve(Box::new(view(1))), &[]).unwrap();
    let message = "2 descriptors are needed, 0 came".to_owned();
    assert_eq!(reply, Reply::Failed { message });
}

#[test]
fn started_by_root_it_has_no_privileges_left() {
    assert!(
        nix::unistd::getuid().is_root(),
        "this is about a resolver that root starts: run it as root"
    );
    let lab = Lab::new(&[]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", lab.child.id())).unwrap();
    for expected in ["Uid:\t64053\t64053\t64053", "CapPrm:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(status.contains(expected), "{expected} in {status}");
    }
}

#[test]
fn threads_share_a_client() {
    let lab = Lab::new(&[]);
    let sandbox = lab.sandbox(view(1));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let client = &lab.client;
            scope.spawn(move || {
                for number in 0..100 {
                    let endpoint = thread * 1000 + number;
                    let names = [named(endpoint, &format!("web-{endpoint}"), "10.0.0.1")];
                    client.publish(&network('a'), "app", &names).unwrap();
                }
            });
        }
    });
    eventually(|| sandbox.addresses("web-3099").len() == 1);
}
