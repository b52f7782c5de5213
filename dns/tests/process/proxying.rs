//! Traffic that the kernel does not translate.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::thread;

use cnm::{PortBinding, Protocol};
use dns::protocol::{HeldPort, Twin};

use crate::lab::{Lab, PATIENCE, eventually, own_address};

fn held(socket: SocketAddr, protocol: Protocol, target: SocketAddr) -> HeldPort {
    let binding =
        PortBinding { host: socket.ip(), host_port: socket.port(), protocol, port: target.port() };
    HeldPort { binding, target: Some(target), twin: None }
}

#[test]
fn a_stream_from_ipv6_reaches_an_ipv4_sandbox_and_half_closes() {
    let lab = Lab::new(&[]);
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = TcpListener::bind("[::1]:0").unwrap();
    let address = port.local_addr().unwrap();
    let held = held(address, Protocol::Tcp, target.local_addr().unwrap());
    lab.client.hold(&[(held.clone(), port.as_fd())]).unwrap();
    drop(port);
    let server = thread::spawn(move || {
        let (mut stream, _) = target.accept().unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).unwrap();
        stream.write_all(format!("{heard} back").as_bytes()).unwrap();
    });
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"there").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut heard = String::new();
    client.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "there back");
    server.join().unwrap();
    lab.client.drop_ports(&[held.binding]).unwrap();
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_port_that_leads_nowhere_refuses_and_stays_reserved() {
    let lab = Lab::new(&[]);
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    // Bound to a number, as published ports are: the kernel takes one back that it chose itself.
    let port = TcpListener::bind((own_address(), 8080)).unwrap();
    let address = port.local_addr().unwrap();
    let leading = held(address, Protocol::Tcp, target.local_addr().unwrap());
    let nowhere = HeldPort { target: None, ..leading.clone() };
    let refused = || {
        let error = TcpStream::connect(address).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(TcpListener::bind(address).unwrap_err().kind(), ErrorKind::AddrInUse);
    };
    lab.client.hold(&[(nowhere.clone(), port.as_fd())]).unwrap();
    drop(port);
    eventually(|| TcpStream::connect(address).is_err());
    refused();
    // And again: what happens once may happen often.
    for _ in 0..2 {
        lab.client.lead(std::slice::from_ref(&leading)).unwrap();
        eventually(|| TcpStream::connect(address).is_ok());
        let mut client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let (_first, _) = target.accept().unwrap();
        let (_second, _) = target.accept().unwrap();
        lab.client.lead(std::slice::from_ref(&nowhere)).unwrap();
        assert!(client.read(&mut [0; 1]).is_ok_and(|length| length == 0), "it is ended");
        eventually(|| TcpStream::connect(address).is_err());
        // What is told twice is told to a socket that does not listen any more.
        lab.client.lead(std::slice::from_ref(&nowhere)).unwrap();
        refused();
    }
    lab.client.drop_ports(&[nowhere.binding]).unwrap();
    TcpListener::bind(address).unwrap();
}

/// A client of a port and the end of its connection at the target.
fn connected(port: SocketAddr, target: &TcpListener) -> [TcpStream; 2] {
    let client = TcpStream::connect(port).unwrap();
    let (server, _) = target.accept().unwrap();
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    [client, server]
}

fn goes_on([client, server]: &mut [TcpStream; 2]) {
    let mut heard = [0; 5];
    client.write_all(b"there").unwrap();
    server.read_exact(&mut heard).unwrap();
    server.write_all(b"back!").unwrap();
    client.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"back!");
}

fn is_over([client, _]: &mut [TcpStream; 2]) -> bool {
    matches!(client.read(&mut [0; 1]), Ok(0))
}

#[test]
fn what_a_closed_port_carried_goes_on_until_it_is_cut() {
    let lab = Lab::new(&[]);
    let targets = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let port = TcpListener::bind((own_address(), 8090)).unwrap();
    let address = port.local_addr().unwrap();
    let [old, new] =
        targets.each_ref().map(|to| held(address, Protocol::Tcp, to.local_addr().unwrap()));
    // Both lead from the same port of the host to the same one of a container.
    let new = HeldPort { binding: old.binding.clone(), ..new };
    let drain = |port: &HeldPort| {
        lab.client.drain_ports(std::slice::from_ref(&port.binding)).unwrap();
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    };
    lab.client.hold(&[(old.clone(), port.as_fd())]).unwrap();
    drop(port);
    let mut first = connected(address, &targets[0]);
    goes_on(&mut first);
    drain(&old);
    goes_on(&mut first);
    // Somebody else has the port next, and loses it in the same way.
    let port = TcpListener::bind(address).unwrap();
    lab.client.hold(&[(new.clone(), port.as_fd())]).unwrap();
    drop(port);
    let mut second = connected(address, &targets[1]);
    drain(&new);
    for connection in [&mut first, &mut second] {
        goes_on(connection);
    }
    lab.client.cut(std::slice::from_ref(&new)).unwrap();
    assert!(is_over(&mut second));
    goes_on(&mut first);
    lab.client.cut_to(&["127.0.0.2".parse().unwrap()]).unwrap();
    goes_on(&mut first);
    lab.client.cut_to(&["127.0.0.1".parse().unwrap()]).unwrap();
    assert!(is_over(&mut first));
}

#[test]
fn a_port_that_is_dropped_ends_what_goes_on_from_the_last_time_it_led_there() {
    let lab = Lab::new(&[]);
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = SocketAddr::new(own_address().into(), 8091);
    let held = held(address, Protocol::Tcp, target.local_addr().unwrap());
    let publish = || {
        let port = TcpListener::bind(address).unwrap();
        lab.client.hold(&[(held.clone(), port.as_fd())]).unwrap();
    };
    publish();
    let mut before = connected(address, &target);
    lab.client.drain_ports(std::slice::from_ref(&held.binding)).unwrap();
    publish();
    let mut after = connected(address, &target);
    goes_on(&mut before);
    lab.client.drop_ports(std::slice::from_ref(&held.binding)).unwrap();
    assert!(is_over(&mut before) && is_over(&mut after));
}

#[test]
fn a_family_that_goes_is_carried_no_more_by_the_socket_of_the_other() {
    let lab = Lab::new(&[]);
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = target.local_addr().unwrap();
    let port = TcpListener::bind("[::]:0").unwrap();
    let number = port.local_addr().unwrap().port();
    let twin = Twin { host: "0.0.0.0".parse().unwrap(), target: Some(to) };
    let tcp = held(port.local_addr().unwrap(), Protocol::Tcp, to);
    let tcp = HeldPort { twin: Some(twin), ..tcp };
    lab.client.hold(&[(tcp.clone(), port.as_fd())]).unwrap();
    drop(port);
    let [v4, v6] = ["127.0.0.1", "::1"].map(|host| SocketAddr::new(host.parse().unwrap(), number));
    let [mut of_v4, mut of_v6] = [v4, v6].map(|port| connected(port, &target));
    lab.client.drain_ports(&[tcp.twin_binding().unwrap()]).unwrap();
    for connection in [&mut of_v4, &mut of_v6] {
        goes_on(connection);
    }
    let mut late = TcpStream::connect(v4).unwrap();
    late.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(matches!(late.read(&mut [0; 1]), Ok(0) | Err(_)), "it leads nowhere");
    goes_on(&mut connected(v6, &target));
    lab.client.drop_ports(std::slice::from_ref(&tcp.binding)).unwrap();
    assert!(is_over(&mut of_v6));
    goes_on(&mut of_v4);
}

#[test]
fn datagrams_go_there_and_back_for_every_client() {
    let lab = Lab::new(&[]);
    let target = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = UdpSocket::bind("[::]:0").unwrap();
    let address = SocketAddr::new("::1".parse().unwrap(), port.local_addr().unwrap().port());
    let held = held(port.local_addr().unwrap(), Protocol::Udp, target.local_addr().unwrap());
    lab.client.hold(&[(held.clone(), port.as_fd())]).unwrap();
    drop(port);
    let server = thread::spawn(move || {
        let mut buffer = [0; 1500];
        for _ in 0..4 {
            let (length, from) = target.recv_from(&mut buffer).unwrap();
            target.send_to(&buffer[..length], from).unwrap();
        }
    });
    let clients = ["a", "b"].map(|text| {
        let client = UdpSocket::bind("[::1]:0").unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        // Connected: an answer from another address would not arrive.
        client.connect(address).unwrap();
        (client, text)
    });
    for _ in 0..2 {
        for (client, text) in &clients {
            client.send(text.as_bytes()).unwrap();
            let mut buffer = [0; 10];
            let length = client.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], text.as_bytes());
        }
    }
    server.join().unwrap();
    lab.client.drop_ports(&[held.binding]).unwrap();
    UdpSocket::bind(("::", address.port())).unwrap();
}

#[test]
fn a_socket_of_both_families_carries_each_to_its_own_target() {
    let lab = Lab::new(&[]);
    let targets = ["127.0.0.1:0", "[::1]:0"].map(|address| UdpSocket::bind(address).unwrap());
    let streams = ["127.0.0.1:0", "[::1]:0"].map(|address| TcpListener::bind(address).unwrap());
    // Rust's own are of both families, as the kernel's default is.
    let (datagrams, listener) =
        (UdpSocket::bind("[::]:0").unwrap(), TcpListener::bind("[::]:0").unwrap());
    let both = |socket: SocketAddr, protocol, [v4, v6]: [SocketAddr; 2]| HeldPort {
        twin: Some(Twin { host: "0.0.0.0".parse().unwrap(), target: Some(v4) }),
        ..held(socket, protocol, v6)
    };
    let address = datagrams.local_addr().unwrap();
    let to = targets.each_ref().map(|target| target.local_addr().unwrap());
    let udp = both(address, Protocol::Udp, to);
    let to = streams.each_ref().map(|target| target.local_addr().unwrap());
    let tcp = both(listener.local_addr().unwrap(), Protocol::Tcp, to);
    let sockets = [(udp.clone(), datagrams.as_fd()), (tcp.clone(), listener.as_fd())];
    lab.client.hold(&sockets).unwrap();
    drop((datagrams, listener));
    assert_eq!(lab.client.status().unwrap().ports.len(), 4);
    for (number, host) in ["127.0.0.1", "::1"].into_iter().enumerate() {
        let client = UdpSocket::bind((host, 0)).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        // Connected: an answer from another address would not arrive.
        client.connect((host, udp.binding.host_port)).unwrap();
        client.send(b"x").unwrap();
        let mut buffer = [0; 10];
        targets[number].set_read_timeout(Some(PATIENCE)).unwrap();
        let (length, from) = targets[number].recv_from(&mut buffer).unwrap();
        targets[number].send_to(&buffer[..length], from).unwrap();
        assert_eq!(client.recv(&mut buffer).unwrap(), 1, "{host}");
        let _stream = TcpStream::connect((host, tcp.binding.host_port)).unwrap();
        streams[number].accept().unwrap();
    }
    // The socket is closed with the second of its ports.
    let port = tcp.binding.host_port;
    lab.client.drop_ports(std::slice::from_ref(&tcp.binding)).unwrap();
    assert!(TcpListener::bind(("::", port)).is_err());
    lab.client.drop_ports(&[tcp.twin_binding().unwrap()]).unwrap();
    TcpListener::bind(("::", port)).unwrap();
}

#[test]
fn an_answer_comes_from_the_address_that_was_asked() {
    let lab = Lab::new(&[]);
    let target = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = UdpSocket::bind("0.0.0.0:0").unwrap();
    let number = port.local_addr().unwrap().port();
    let held = held(port.local_addr().unwrap(), Protocol::Udp, target.local_addr().unwrap());
    lab.client.hold(&[(held, port.as_fd())]).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.connect(("127.0.0.77", number)).unwrap();
    client.send(b"x").unwrap();
    let mut buffer = [0; 10];
    let (length, from) = target.recv_from(&mut buffer).unwrap();
    target.send_to(&buffer[..length], from).unwrap();
    assert_eq!(client.recv(&mut buffer).unwrap(), 1);
}
