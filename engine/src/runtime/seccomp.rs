//! seccomp: which system calls a container may make.
//!
//! A [`Profile`] is a list of rules by name. It becomes the specification's JSON for runtimes that
//! want that, or BPF instructions, compiled once and kept, for those that take them: compiling
//! costs more than all the rest of a container's start.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::RuntimeError;
use super::capabilities::CapabilitySet;

/// The annotation by which crun takes a compiled filter.
pub const ANNOTATION: &str = "run.oci.seccomp_bpf_data";

/// A profile and its compiled form.
#[derive(Debug)]
pub struct Filter {
    profile: Profile,
    base64: String,
}

/// Which system calls are allowed.
#[derive(Clone, Debug, Default)]
pub struct Profile {}

/// The filters compiled so far, by profile and capabilities.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    known: Arc<Mutex<HashMap<(Option<String>, CapabilitySet), Arc<Filter>>>>,
}

impl Filters {
    /// The built-in profile, as far as these capabilities open it.
    pub fn default_profile(&self, _: CapabilitySet) -> Result<Arc<Filter>, RuntimeError> {
        Err(RuntimeError::Invalid("no profile".into()))
    }

    /// A profile in Docker's JSON format.
    pub fn user_profile(&self, json: &str, _: CapabilitySet) -> Result<Arc<Filter>, RuntimeError> {
        Err(RuntimeError::Invalid(json.into()))
    }
}

impl Filter {
    /// The compiled filter, as [`ANNOTATION`] carries it.
    pub fn base64(&self) -> &str {
        &self.base64
    }

    /// What it was compiled from.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }
}

impl Profile {
    /// As the specification has it.
    pub fn to_oci(&self) -> Result<oci_spec::runtime::LinuxSeccomp, RuntimeError> {
        Ok(oci_spec::runtime::LinuxSeccomp::default())
    }
}
