//! What a plugin that makes volumes is asked: `VolumeDriver.*`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use chrono::DateTime;
use serde::Deserialize;
use serde_json::{Value, json};

use super::network::Done;
use super::{CallError, Plugin, Plugins, Trade};
use engine_error::{Error, Kind, Result};
use volume::{Driver, Drivers, Told};

/// The longest list of volumes that is believed.
const MOST: usize = 10_000;

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Capabilities {
    capabilities: Scope,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Scope {
    scope: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Got {
    volume: Option<Described>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Listed {
    volumes: Option<Vec<Described>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Mounted {
    mountpoint: PathBuf,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Described {
    name: String,
    mountpoint: PathBuf,
    created_at: Option<String>,
    status: Option<Value>,
}

impl From<Described> for Told {
    fn from(described: Described) -> Self {
        let Described { name, mountpoint, created_at, status } = described;
        let created = created_at.and_then(|text| DateTime::parse_from_rfc3339(&text).ok());
        let created = created.map(|time| time.to_utc());
        Self { name, mountpoint, created, status: status.filter(|status| !status.is_null()) }
    }
}

impl Plugin {
    /// Whether its volumes are those of this host or of many. One that says nothing has local ones.
    pub(super) fn ask_scope(&self) -> Result<String> {
        let answer = self.call::<Capabilities>("VolumeDriver.Capabilities", None);
        match answer {
            Ok(answer) if answer.capabilities.scope.eq_ignore_ascii_case("global") => {
                Ok("global".to_owned())
            }
            Ok(_) | Err(CallError::Refused(_)) => Ok("local".to_owned()),
            Err(CallError::Lost(error)) => Err(error),
        }
    }
}

/// The plugins that make volumes, as drivers of them.
#[derive(Clone, Debug)]
pub(crate) struct VolumePlugins(pub(crate) Arc<Plugins>);

/// One of them.
#[derive(Debug)]
struct VolumePlugin(Arc<Plugin>);

impl Drivers for VolumePlugins {
    fn find(&self, name: &str) -> Result<Arc<dyn Driver>> {
        Ok(Arc::new(VolumePlugin(self.0.find(name, Trade::Volume)?)))
    }

    fn names(&self) -> Vec<String> {
        self.0.look_for(Trade::Volume)
    }
}

impl VolumePlugin {
    fn ask<T: serde::de::DeserializeOwned>(&self, method: &str, body: &Value) -> Result<T> {
        let answer = self.0.call(&format!("VolumeDriver.{method}"), Some(body));
        answer.map_err(|error| match error {
            // Docker has it in the plugin's own words.
            CallError::Refused(text) => Error::new(Kind::Internal, text),
            CallError::Lost(error) => error,
        })
    }
}

impl Driver for VolumePlugin {
    fn create(&self, name: &str, options: &BTreeMap<String, String>) -> Result<()> {
        let options = Some(options).filter(|options| !options.is_empty());
        self.ask::<Done>("Create", &json!({"Name": name, "Opts": options})).map(drop)
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.ask::<Done>("Remove", &json!({"Name": name})).map(drop)
    }

    fn find(&self, name: &str) -> Result<Option<Told>> {
        match self.0.call::<Got>("VolumeDriver.Get", Some(&json!({"Name": name}))) {
            Ok(got) => Ok(got.volume.map(|told| Told { name: name.to_owned(), ..told.into() })),
            // There are no words for one that is not there.
            Err(CallError::Refused(_)) => Ok(None),
            Err(CallError::Lost(error)) => Err(error),
        }
    }

    fn list(&self) -> Result<Vec<Told>> {
        let listed: Listed = self.ask("List", &json!({}))?;
        let named = listed.volumes.into_iter().flatten().filter(|told| !told.name.is_empty());
        Ok(named.take(MOST).map(Told::from).collect())
    }

    fn mount(&self, name: &str, user: &str) -> Result<PathBuf> {
        let mounted: Mounted = self.ask("Mount", &json!({"Name": name, "ID": user}))?;
        if !mounted.mountpoint.as_os_str().is_empty() {
            return Ok(mounted.mountpoint);
        }
        // Some say it only if they are asked for it.
        let mounted: Mounted = self.ask("Path", &json!({"Name": name}))?;
        Ok(mounted.mountpoint)
    }

    fn unmount(&self, name: &str, user: &str) -> Result<()> {
        self.ask::<Done>("Unmount", &json!({"Name": name, "ID": user})).map(drop)
    }

    fn scope(&self) -> &str {
        &self.0.scope
    }
}
