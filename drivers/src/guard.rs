//! What an endpoint may send from: elements of the sets that the constant rules for frames ask.
//!
//! A sandbox on several networks answers from any of its addresses by any of its endpoints.

use std::net::{IpAddr, Ipv6Addr};

use cnm::sandbox::Attachment;
use cnm::{Element, Key, Mac, Value};

/// The elements of all endpoints of a sandbox that are guarded.
pub(crate) fn elements(attachments: &[Attachment<'_>]) -> Vec<(Key, Value)> {
    let all = attachments.iter().flat_map(|of| &of.endpoint.addresses);
    let all = all.map(ipnetwork::IpNetwork::ip);
    let asked = attachments.iter().flat_map(|of| &of.endpoint.link_local).copied();
    let all: Vec<IpAddr> = all.chain(asked).collect();
    let ipv6 = all.iter().any(IpAddr::is_ipv6);
    let mut elements = Vec::new();
    for of in attachments {
        let Some(link) = of.network.driver.guarded(*of) else { continue };
        let mac = of.endpoint.mac;
        elements.push(Element::Guarded { link: link.clone(), mac });
        let own = ipv6.then(|| link_local(mac).into());
        let source = |address| Element::Source { link: link.clone(), address };
        elements.extend(all.iter().copied().chain(own).map(source));
    }
    elements.into_iter().map(|element| (Key::Element(element), Value::Present)).collect()
}

/// The link-local address that the kernel gives to an interface (RFC 4291, appendix A).
fn link_local(mac: Mac) -> Ipv6Addr {
    let mac = mac.octets();
    let mut octets = [0; 16];
    octets[..2].copy_from_slice(&[0xfe, 0x80]);
    octets[8..11].copy_from_slice(&mac[..3]);
    octets[8] ^= 2;
    octets[11..13].copy_from_slice(&[0xff, 0xfe]);
    octets[13..].copy_from_slice(&mac[3..]);
    octets.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_local_address_is_made_of_the_hardware_address() {
        let mac: Mac = "02:42:ac:11:00:02".parse().unwrap();
        assert_eq!(link_local(mac).to_string(), "fe80::42:acff:fe11:2");
    }
}
