//! What goes to stdout: results and errors of the CNI specification, as its versions write them.

use std::error::Error;
use std::fmt;
use std::net::IpAddr;

use cnm::{HasKind, Kind};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The versions of the specification that are spoken, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    pub(crate) const ALL: [Self; 4] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }
}

/// The error codes of the specification, and ours from 100 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    IncompatibleVersion = 1,
    UnsupportedField = 2,
    UnknownContainer = 3,
    Environment = 4,
    Io = 5,
    Decoding = 6,
    InvalidConfig = 7,
    TryAgain = 11,
    NotAvailable = 50,
    /// The kernel refused, or something of ours is broken.
    Internal = 100,
    /// The request contradicts what is there already.
    Conflict = 101,
    /// What CHECK looked at is not as it should be.
    Damaged = 102,
}

/// Why a command was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) msg: String,
    pub(crate) details: String,
}

impl Failure {
    pub(crate) fn new(code: Code, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: details.into() }
    }

    /// The configuration is wrong.
    pub(crate) fn invalid(msg: impl Into<String>) -> Self {
        Self::new(Code::InvalidConfig, msg, "")
    }

    /// What failed because of an error, whose chain becomes the details.
    pub(crate) fn caused(
        code: Code,
        msg: impl Into<String>,
        error: &(dyn Error + 'static),
    ) -> Self {
        Self::new(code, msg, chain(error))
    }

    pub(crate) fn to_json(&self, version: &str) -> Value {
        let mut value = json!({"cniVersion": version, "code": self.code as u32, "msg": self.msg});
        if !self.details.is_empty() {
            value["details"] = json!(self.details);
        }
        value
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.msg)?;
        if self.details.is_empty() { Ok(()) } else { write!(f, ": {}", self.details) }
    }
}

impl<E: HasKind> From<E> for Failure {
    fn from(error: E) -> Self {
        let code = match error.kind() {
            Kind::Invalid => Code::InvalidConfig,
            Kind::NotFound => Code::UnknownContainer,
            Kind::Conflict | Kind::Forbidden | Kind::NotModified => Code::Conflict,
            Kind::Unavailable => Code::TryAgain,
            Kind::NotImplemented => Code::NotAvailable,
            Kind::Unauthorized | Kind::Internal => Code::Internal,
        };
        let details = error.source().map(chain).unwrap_or_default();
        Self::new(code, error.to_string(), details)
    }
}

/// An error with its causes.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// What ADD leads to, as all versions since 0.3.1 have it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Attached {
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) ips: Vec<Ip>,
    pub(crate) routes: Vec<Route>,
    pub(crate) dns: Dns,
}

/// A link on the host or in the sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Interface {
    pub(crate) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) mac: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mtu: Option<u32>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) sandbox: String,
    #[serde(rename = "socketPath", skip_serializing_if = "Option::is_none")]
    pub(crate) socket_path: Option<String>,
    #[serde(rename = "pciID", skip_serializing_if = "Option::is_none")]
    pub(crate) pci_id: Option<String>,
}

/// An address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ip {
    pub(crate) address: IpNetwork,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gateway: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) interface: Option<usize>,
}

/// A route; what we do not set is kept as somebody before us had it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Route {
    pub(crate) dst: IpNetwork,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gw: Option<IpAddr>,
    #[serde(flatten)]
    pub(crate) others: serde_json::Map<String, Value>,
}

/// Name resolution, handed through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Dns {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) nameservers: Vec<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) domain: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) search: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) options: Vec<String>,
}

impl Attached {
    /// Adds what a plugin before us in the chain had made, in front of what we made.
    pub(crate) fn after(mut self, previous: Option<Self>) -> Self {
        let Some(mut all) = previous else { return self };
        let offset = all.interfaces.len();
        for ip in &mut self.ips {
            ip.interface = ip.interface.map(|index| index + offset);
        }
        all.interfaces.append(&mut self.interfaces);
        all.ips.append(&mut self.ips);
        all.routes.append(&mut self.routes);
        if self.dns != Dns::default() {
            all.dns = self.dns;
        }
        all
    }

    /// The result in the form of a version.
    pub(crate) fn to_json(&self, version: Version) -> Value {
        let mut value = json!(self);
        value["cniVersion"] = json!(version.as_str());
        if version < Version::V1_1_0 {
            for interface in value["interfaces"].as_array_mut().into_iter().flatten() {
                if let Some(interface) = interface.as_object_mut() {
                    for field in ["mtu", "socketPath", "pciID"] {
                        interface.remove(field);
                    }
                }
            }
        }
        if version < Version::V1_0_0 {
            let ips = value["ips"].as_array_mut().into_iter().flatten();
            for (ip, Ip { address, .. }) in ips.zip(&self.ips) {
                ip["version"] = json!(if address.is_ipv6() { "6" } else { "4" });
            }
        }
        value
    }
}

/// The answer to VERSION.
pub(crate) fn versions(asked: &str) -> Value {
    let supported = Version::ALL.map(Version::as_str);
    json!({"cniVersion": asked, "supportedVersions": supported})
}

#[cfg(test)]
mod tests;
