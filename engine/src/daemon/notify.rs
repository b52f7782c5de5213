//! Telling systemd how far the daemon is (`sd_notify`).

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use nix::time::{ClockId, clock_gettime};

/// The daemon answers.
pub fn ready() {
    tell("READY=1\nSTATUS=answering requests");
}

/// The daemon reads its configuration again.
pub fn reloading() {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |now| now.tv_sec() * 1_000_000 + now.tv_nsec() / 1000);
    tell(&format!("RELOADING=1\nMONOTONIC_USEC={now}"));
}

/// The daemon is on its way out.
pub fn stopping() {
    tell("STOPPING=1");
}

fn tell(state: &str) {
    if let Some(path) = std::env::var_os("NOTIFY_SOCKET")
        && let Err(error) = send(&path, state)
    {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}

/// Sends a state to a path, or to an abstract name behind an `@`.
fn send(path: &OsString, state: &str) -> std::io::Result<()> {
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_arrives_at_an_abstract_name_and_at_a_path() {
        let id = std::process::id();
        let path = std::env::temp_dir().join(format!("rnet-notify-{id}"));
        let named = format!("rnet-notify-{id}");
        let address = SocketAddr::from_abstract_name(&named).unwrap();
        let receivers = [
            (UnixDatagram::bind(&path).unwrap(), path.clone().into_os_string()),
            (UnixDatagram::bind_addr(&address).unwrap(), format!("@{named}").into()),
        ];
        for (receiver, target) in receivers {
            send(&target, "READY=1").unwrap();
            let mut buffer = [0; 64];
            let length = receiver.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"READY=1");
        }
        std::fs::remove_file(path).unwrap();
    }
}
