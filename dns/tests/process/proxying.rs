//! Traffic that the kernel does not translate.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::thread;

use cnm::{PortBinding, Protocol};
use dns::protocol::HeldPort;

use crate::lab::{Lab, PATIENCE};

fn held(socket: SocketAddr, protocol: Protocol, target: SocketAddr) -> HeldPort {
    let binding =
        PortBinding { host: socket.ip(), host_port: socket.port(), protocol, port: target.port() };
    HeldPort { binding, target: Some(target) }
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
