//! `create`: everything about a container that can be decided and made before it starts.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::Utc;
use cnm::controller::Entropy;
use cnm::store::{Batch, Durability};
use cnm::{Controller, Kind};

use super::Containers;
use super::live::Live;
use super::logs::{driver, rotation::Rotation};
use super::modes::{NamespaceModes, NetworkMode, Sharing};
use super::mounts;
use super::security::SecurityOptions;
use super::spec::RestartPolicy;
use super::{
    Container, ContainerId, Created, EndpointSpec, EndpointView, Healthcheck, Paths, Spec, merge,
};
use crate::network::Chance;
use engine_error::{Error, Result};
use image::Image;
use image::rootfs::RootFs;
use runtime::spec::{device_rules, limits};

/// The shell of images that name none.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

impl Containers {
    /// Creates a container. Blocks.
    pub fn create(
        &self,
        name: Option<&str>,
        spec: Spec,
        platform: Option<&str>,
    ) -> Result<Created> {
        let id = ContainerId::from_random(Chance.bytes());
        // From here on nobody removes the image.
        let image = self.images.hold(id.as_str(), &spec.image)?;
        let created = self.create_of(&image, &id, name, spec, platform);
        if created.is_err() {
            self.images.release(id.as_str());
        }
        created
    }

    fn create_of(
        &self,
        image: &Image,
        id: &ContainerId,
        name: Option<&str>,
        spec: Spec,
        platform: Option<&str>,
    ) -> Result<Created> {
        // Most containers are started at once.
        self.runner.expect_start();
        if let Some(wanted) = platform {
            check_platform(image, &spec.image, wanted)?;
        }
        self.check(&spec).map_err(missing_other)?;
        let spec = self.with_others_by_id(spec, name)?;
        let mut warnings = self.warnings(&spec, id)?;
        let mut resolved = merge::resolve(&spec, &image.config, id)?;
        let extra = &image.extra;
        resolved.healthcheck =
            Healthcheck::resolve(spec.healthcheck.as_ref(), extra.healthcheck.as_ref())?;
        resolved.shell = extra.shell.clone().unwrap_or_else(|| SHELL.map(str::to_owned).to_vec());
        if let Some(hostname) = self.borrowed_hostname(&spec) {
            resolved.hostname = hostname;
        }
        let (endpoints, links) = (self.wanted_endpoints(&spec), self.links_of_new(&spec)?);
        let random = || {
            let bytes = Chance.bytes();
            [bytes[0], bytes[1]]
        };
        let name = self.registry.reserve(name, id, random)?;
        let dir = self.settings.container_dir(id);
        let container = Container {
            created: Utc::now(),
            image: image.id.to_string(),
            resolved,
            endpoints,
            links: Some(links).filter(|links| !links.is_empty()),
            paths: paths(&dir, id),
            name: name.clone(),
            id: id.clone(),
            spec,
            ..Container::default()
        };
        let made = self.foresee(&container).and_then(|told| {
            warnings.extend(told);
            self.make(container, image)
        });
        if made.is_err() {
            self.registry.release(&name);
            if let Err(error) = fs::remove_dir_all(&dir)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(%error, dir = %dir.display(), "cannot remove");
            }
        }
        let live = made?;
        let container = live.get();
        self.registry.insert(live);
        self.tell(&container, "create", &[]);
        Ok(Created { id: id.clone(), warnings })
    }

    /// Containers whose namespaces are shared are known by their ids from now on: names change hands.
    fn with_others_by_id(&self, mut spec: Spec, own: Option<&str>) -> Result<Spec> {
        if spec.network_mode().container().is_some_and(|other| Some(other) == own) {
            return Err(Error::invalid("cannot join own network namespace"));
        }
        let other = spec.network_mode.container().and_then(|key| self.registry.find(key).ok());
        if let Some(other) = other {
            spec.network_mode = NetworkMode::Container(other.get().id.to_string());
            if let Some(mode) = Arc::make_mut(&mut spec.wire_host_config).get_mut("NetworkMode") {
                *mode = spec.network_mode.to_string().into();
            }
        }
        let NamespaceModes { pid, ipc, .. } = &mut spec.namespaces;
        for (sharing, field) in [(pid, "PidMode"), (ipc, "IpcMode")] {
            let Some(key) = sharing.container() else { continue };
            let other = self.registry.find(key).map_err(missing_other)?;
            *sharing = Sharing::Container(other.get().id.to_string());
            if let Some(mode) = Arc::make_mut(&mut spec.wire_host_config).get_mut(field) {
                *mode = sharing.to_string().into();
            }
        }
        Ok(spec)
    }

    /// What a container is to be made without, though it was asked for.
    fn warnings(&self, spec: &Spec, id: &str) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        if *spec.network_mode() == NetworkMode::Host && !spec.ports.is_empty() {
            let text = "Published ports are discarded when using host network mode";
            warnings.push(text.to_owned());
        }
        warnings.extend(self.discarded_profile(spec)?);
        limits(
            &spec.resources,
            &self.runner.cgroup(&spec.cgroup_parent, id),
            &self.runner.host,
            &mut warnings,
        )?;
        Ok(warnings)
    }

    /// Makes a container's directories and its record.
    fn make(&self, mut container: Container, image: &Image) -> Result<Arc<Live>> {
        let failed = |error| {
            Error::internal(format!("cannot make {}", container.paths.dir.display()), error)
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&container.paths.dir)
            .map_err(failed)?;
        let rootfs = RootFs::prepare(&self.images, image, &rootfs_dir(&container.paths.dir))?;
        rootfs.driver_name().clone_into(&mut container.graph_driver);
        container.graph_data = rootfs.driver_data();
        rootfs.mark(".dockerenv")?;
        rootfs.furnish()?;
        let taken = self.take_mounts(&container).map_err(missing_other)?;
        container.mounts.clone_from(&taken.points);
        self.fill_volumes(&container, &self.seen_by(&container.spec, rootfs))?;
        let record = Self::record(&container);
        let reserve = |model: &mut Controller| {
            Ok(reserve_addresses(model, &container.id, &container.endpoints))
        };
        let saved = self.networks.write(reserve, record, Durability::Immediate);
        if saved.is_err() {
            let forget = |model: &mut Controller| model.forget_owner(&container.id);
            self.networks.note(forget, Batch::default(), Durability::Eventual);
        }
        saved?;
        taken.keep();
        Ok(Arc::new(Live::new(container)))
    }

    /// Refuses what can be known to be wrong now.
    fn check(&self, spec: &Spec) -> Result<()> {
        self.check_users(spec)?;
        if spec.auto_remove && spec.restart != RestartPolicy::No {
            return Err(Error::invalid("can't create 'AutoRemove' container with restart policy"));
        }
        driver::check(self.log_driver(spec), &spec.log_options)?;
        Rotation::of(&spec.log_options, &self.settings.log_options)?;
        if let Some(signal) = &spec.stop_signal {
            super::signal::parse(signal)?;
        }
        self.runner.runtime(spec.runtime.as_deref())?;
        device_rules(&spec.device_rules)?;
        SecurityOptions::parse(&spec.security_options)?;
        super::detach::keys(None)?;
        if spec.network_mode().container().is_some() && !spec.hostname.is_empty() {
            return Err(Error::invalid("conflicting options: hostname and the network mode"));
        }
        mounts::check(spec)?;
        self.check_sources(spec)
    }

    /// The host name that goes with a network namespace that is not the container's own.
    fn borrowed_hostname(&self, spec: &Spec) -> Option<String> {
        if !spec.hostname.is_empty() {
            return None;
        }
        match spec.network_mode() {
            NetworkMode::Host => nix::unistd::gethostname().ok()?.into_string().ok(),
            mode => {
                let other = self.registry.find(mode.container()?).ok()?;
                Some(other.get().resolved.hostname.clone())
            }
        }
    }

    /// The networks a container is to join, in order: that of its mode first.
    fn wanted_endpoints(&self, spec: &Spec) -> Vec<EndpointView> {
        let mode = spec.network_mode().network(self.settings.default_network());
        let Some(mode) = mode.filter(|_| !spec.network_disabled) else { return Vec::new() };
        let first = spec.endpoints.iter().position(|(key, _)| {
            let key = if key == "default" { self.settings.default_network() } else { key };
            key == mode || self.same_network(key, mode)
        });
        let own = first.map_or_else(EndpointSpec::default, |place| spec.endpoints[place].1.clone());
        let mut views = vec![self.endpoint_view(mode, own)];
        for (place, (key, spec)) in spec.endpoints.iter().enumerate() {
            if Some(place) != first {
                views.push(self.endpoint_view(key, spec.clone()));
            }
        }
        if views[0].spec.mac.is_none() {
            views[0].spec.mac = spec.mac;
        }
        views
    }

    fn same_network(&self, a: &str, b: &str) -> bool {
        match (self.networks.network(a), self.networks.network(b)) {
            (Ok(a), Ok(b)) => a.id == b.id,
            _ => false,
        }
    }

    /// What a container that does not run knows of a network. The network need not exist yet.
    pub(crate) fn endpoint_view(&self, key: &str, spec: EndpointSpec) -> EndpointView {
        let network = self.networks.network(key).ok();
        EndpointView {
            network: network
                .as_ref()
                .map_or_else(|| key.to_owned(), |network| network.name.clone()),
            network_id: network.map(|network| network.id.clone()),
            spec,
            ..EndpointView::default()
        }
    }

    /// The log driver of a container.
    pub(crate) fn log_driver<'a>(&'a self, spec: &'a Spec) -> &'a str {
        if spec.log_driver.is_empty() { &self.settings.log_driver } else { &spec.log_driver }
    }
}

/// Keeps the static addresses of a container's endpoints while the container exists.
pub(crate) fn reserve_addresses(
    model: &mut Controller,
    id: &str,
    endpoints: &[EndpointView],
) -> Batch {
    let mut batch = Batch::default();
    for endpoint in endpoints {
        let Some(network) = &endpoint.network_id else { continue };
        for address in [endpoint.spec.ipv4, endpoint.spec.ipv6].into_iter().flatten() {
            match model.reserve_static(id, network, address) {
                Ok(reserved) => batch.extend(reserved),
                // Docker tells of an address that cannot be had when the container starts.
                Err(error) => tracing::info!(container = id, %address, %error, "not reserved"),
            }
        }
    }
    batch
}

/// Where a container's root file system is made.
pub(crate) fn rootfs_dir(dir: &Path) -> PathBuf {
    dir.join("rootfs")
}

fn paths(dir: &Path, id: &str) -> Paths {
    Paths {
        hostname: dir.join("hostname"),
        hosts: dir.join("hosts"),
        resolv_conf: dir.join("resolv.conf"),
        log: dir.join(format!("{id}-json.log")),
        dir: dir.to_owned(),
    }
}

/// A client takes "not found" to mean the image, and pulls it.
pub fn missing_other(error: Error) -> Error {
    if error.kind() == Kind::NotFound { Error::invalid(error.to_string()) } else { error }
}

/// An image of another platform than was asked for is not the image.
fn check_platform(image: &Image, name: &str, wanted: &str) -> Result<()> {
    let own = format!("{}/{}", image.config.os(), image.config.architecture());
    let same = wanted.is_empty() || wanted == own || wanted.starts_with(&format!("{own}/"));
    if same {
        return Ok(());
    }
    Err(Error::not_found(format!(
        "image with reference {name} was found but its platform ({own}) does not match the \
         specified platform ({wanted})"
    )))
}
