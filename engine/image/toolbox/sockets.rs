//! TCP and UDP: a server that echoes, a client that sends.

use std::io::{Read, Write};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket,
};
use std::time::Duration;

use crate::names::{self, Family};
use crate::signal::{self, Blocked};
use crate::{Outcome, number, options, print, print_bytes, seconds, usage};

/// Opens a socket on both families, or on IPv4 alone where the host has no IPv6.
pub fn dual_stack<T>(
    port: u16,
    open: impl Fn(SocketAddr) -> std::io::Result<T>,
) -> Result<T, String> {
    let v6 = (IpAddr::from(Ipv6Addr::UNSPECIFIED), port).into();
    let v4 = (IpAddr::from(Ipv4Addr::UNSPECIFIED), port).into();
    open(v6).or_else(|_| open(v4)).map_err(|error| format!("cannot listen on port {port}: {error}"))
}

/// The first address of a host that takes a connection.
pub fn connect(
    host: &str,
    port: u16,
    family: Family,
    timeout: Duration,
) -> Result<TcpStream, String> {
    let mut failure = String::new();
    for address in names::resolve(host, family)? {
        let address = SocketAddr::new(address, port);
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => {
                let set = stream
                    .set_read_timeout(Some(timeout))
                    .and_then(|()| stream.set_write_timeout(Some(timeout)));
                return set.map(|()| stream).map_err(|error| error.to_string());
            }
            Err(error) => failure = format!("cannot connect to {address}: {error}"),
        }
    }
    Err(failure)
}

/// Accepts for ever, a thread for each connection.
pub fn serve(listener: &TcpListener, handle: fn(TcpStream)) {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                // A thread that cannot be had drops this connection; the next may fare better.
                let _ =
                    std::thread::Builder::new().stack_size(128 << 10).spawn(move || handle(stream));
            }
            // Out of descriptors, most likely.
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

pub fn echo_server(args: &[String]) -> Outcome {
    let (flags, rest) = options("echo-server", args, "p:");
    if !rest.is_empty() {
        usage("echo-server");
    }
    let port = flags.last().map_or(7, |(_, port)| number("echo-server", port));
    let blocked = Blocked::new(&[2, 15]);
    let tcp = dual_stack(port, TcpListener::bind)?;
    let udp = dual_stack(port, UdpSocket::bind)?;
    print(&format!("echoing on port {port}\n"));
    std::thread::spawn(move || serve(&tcp, echo));
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        loop {
            if let Ok((length, from)) = udp.recv_from(&mut buffer) {
                // A peer that cannot be answered is its own trouble.
                let _ = udp.send_to(&buffer[..length], from);
            }
        }
    });
    signal::wait_for_termination(&blocked);
    Ok(0)
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 16384];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
}

pub fn send(args: &[String]) -> Outcome {
    let (flags, rest) = options("send", args, "u46t:");
    let [host, port, text @ ..] = rest.as_slice() else { usage("send") };
    let port = number("send", port);
    let text = text.join(" ") + "\n";
    let family = Family::from_options(&flags);
    let timeout = flags.iter().rfind(|(flag, _)| *flag == 't');
    let timeout = timeout.map_or(Duration::from_secs(5), |(_, time)| seconds("send", time));
    if flags.iter().any(|(flag, _)| *flag == 'u') {
        return send_udp(host, port, family, timeout, &text);
    }
    let mut stream = connect(host, port, family, timeout)?;
    let failed = |error: std::io::Error| format!("{host} port {port}: {error}");
    stream.write_all(text.as_bytes()).map_err(failed)?;
    stream.shutdown(Shutdown::Write).map_err(failed)?;
    let mut buffer = [0; 16384];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(0),
            Ok(length) => print_bytes(&buffer[..length]),
            Err(error) => return Err(failed(error)),
        }
    }
}

fn send_udp(host: &str, port: u16, family: Family, timeout: Duration, text: &str) -> Outcome {
    let address = names::resolve(host, family)?[0];
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::WouldBlock => format!("no answer from {address} port {port}"),
        _ => format!("{address} port {port}: {error}"),
    };
    let socket = UdpSocket::bind((any, 0)).map_err(failed)?;
    socket.set_read_timeout(Some(timeout)).map_err(failed)?;
    socket.connect((address, port)).map_err(failed)?;
    socket.send(text.as_bytes()).map_err(failed)?;
    let mut buffer = vec![0; 65536];
    let length = socket.recv(&mut buffer).map_err(failed)?;
    print_bytes(&buffer[..length]);
    Ok(0)
}
