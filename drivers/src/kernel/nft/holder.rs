//! Who holds a netlink socket: a table's owner is known by the number of its socket only.

use std::fs;
use std::path::{Path, PathBuf};

/// `NETLINK_NETFILTER`, as `/proc/thread-self/net/netlink` writes it.
const PROTOCOL: &str = "12";

/// The processes with the netfilter socket of this number, each with its command line, as far as
/// they can be seen: `12 (program --flag), 13 (other)`.
pub(super) fn holders(port: u32) -> Option<String> {
    let sockets = fs::read_to_string("/proc/thread-self/net/netlink").ok()?;
    let link = PathBuf::from(format!("socket:[{}]", inode(&sockets, port)?));
    let mut pids: Vec<u32> = fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| has(*pid, &link))
        .collect();
    pids.sort_unstable();
    let holders: Vec<_> =
        pids.into_iter().map(|pid| format!("{pid} ({})", command_line(pid))).collect();
    Some(holders.join(", ")).filter(|holders| !holders.is_empty())
}

/// The inode of a socket. The columns are: sk, protocol, number, groups, rmem, wmem, dump, locks,
/// drops, inode.
fn inode(sockets: &str, port: u32) -> Option<&str> {
    let port = port.to_string();
    sockets.lines().find_map(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        (fields.get(1) == Some(&PROTOCOL) && fields.get(2) == Some(&port.as_str()))
            .then(|| fields.get(9).copied())?
    })
}

fn has(pid: u32, link: &Path) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    descriptors.into_iter().any(|fd| fs::read_link(fd.path()).is_ok_and(|path| path == link))
}

fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    words.map(String::from_utf8_lossy).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_found_by_protocol_and_number() {
        let sockets = "sk       Eth Pid Groups   Rmem Wmem Dump Locks Drops Inode\n\
                       0000     0   77  00000000 0    0    0    2     0     4\n\
                       0000     12  77  00000000 0    0    0    2     0     1506\n";
        assert_eq!((inode(sockets, 77), inode(sockets, 78)), (Some("1506"), None));
    }
}
