//! The engine's operations, as the API and the daemon call them.
//!
//! Operations that are not `async` block: a front end calls them on a blocking thread, in a task
//! that owns them, so that a client that hangs up does not leave half of an operation behind.

pub mod settings;

use std::sync::Arc;

use cnm::{Endpoint, Network, NetworkId, NetworkSpec};
use futures_util::Stream;

use crate::container::request::Filters;
use crate::container::{
    Attach, Attached, Container, Created, EndpointSpec, ExecSpec, ExecView, LogLine, LogQuery,
    Processes, Remove, Spec, WaitCondition, Waited,
};
use crate::error::Result;
use crate::events::Events;
pub use settings::{DefaultBridge, Settings};

/// The engine: containers, networks and images of one daemon.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    events: Events,
}

impl Engine {
    /// Opens the engine: takes up what an earlier one left, running containers included.
    pub async fn open(settings: Settings) -> Result<Arc<Self>> {
        todo!("{settings:?}")
    }

    /// Ends the engine's tasks and writes what is not on disk yet. Containers go on.
    pub async fn close(&self) {
        todo!()
    }

    /// Removes everything that is ours: containers, networks, images, directories, the table.
    pub async fn reset(&self) -> Result<()> {
        todo!()
    }

    /// The settings it was opened with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The event bus.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Creates a container. Blocks.
    pub fn create(
        &self,
        name: Option<&str>,
        spec: Spec,
        platform: Option<&str>,
    ) -> Result<Created> {
        todo!("{name:?} {spec:?} {platform:?}")
    }

    /// Starts a container. Blocks.
    pub fn start(&self, key: &str) -> Result<()> {
        todo!("{key}")
    }

    /// Stops a container: the signal, the time-out in seconds (negative: none), then SIGKILL.
    pub async fn stop(&self, key: &str, timeout: Option<i64>, signal: Option<&str>) -> Result<()> {
        todo!("{key} {timeout:?} {signal:?}")
    }

    /// Sends a signal.
    pub async fn kill(&self, key: &str, signal: &str) -> Result<()> {
        todo!("{key} {signal}")
    }

    /// Stops and starts.
    pub async fn restart(
        &self,
        key: &str,
        timeout: Option<i64>,
        signal: Option<&str>,
    ) -> Result<()> {
        todo!("{key} {timeout:?} {signal:?}")
    }

    /// Removes a container.
    pub async fn remove(&self, key: &str, how: Remove) -> Result<()> {
        todo!("{key} {how:?}")
    }

    /// Gives a container another name. Blocks.
    pub fn rename(&self, key: &str, name: &str) -> Result<()> {
        todo!("{key} {name}")
    }

    /// Freezes a container.
    pub async fn pause(&self, key: &str) -> Result<()> {
        todo!("{key}")
    }

    /// Lets a frozen container go on.
    pub async fn unpause(&self, key: &str) -> Result<()> {
        todo!("{key}")
    }

    /// Waits for a container. The waiting begins with the call, not with the first poll.
    pub fn wait(
        &self,
        key: &str,
        condition: WaitCondition,
    ) -> Result<impl Future<Output = Waited> + Send + 'static + use<>> {
        let _ = (key, condition);
        Ok(async { todo!() })
    }

    /// The container with this full id, exact name or unique id prefix.
    pub fn find(&self, key: &str) -> Result<Arc<Container>> {
        todo!("{key}")
    }

    /// All containers, the newest first.
    pub fn list(&self) -> Vec<Arc<Container>> {
        todo!()
    }

    /// Connects to the streams of a container, which need not run yet.
    pub async fn attach(&self, key: &str, attach: Attach) -> Result<Attached> {
        todo!("{key} {attach:?}")
    }

    /// Sets the size of a container's terminal.
    pub async fn resize(&self, key: &str, rows: u16, columns: u16) -> Result<()> {
        todo!("{key} {rows} {columns}")
    }

    /// Reads a container's log.
    pub fn logs(
        &self,
        key: &str,
        query: LogQuery,
    ) -> Result<impl Stream<Item = Result<LogLine>> + Send + 'static + use<>> {
        let _ = (key, query);
        Ok(futures_util::stream::empty())
    }

    /// Prepares a process in a running container.
    pub fn exec_create(&self, key: &str, spec: ExecSpec) -> Result<String> {
        todo!("{key} {spec:?}")
    }

    /// Runs a prepared process. Nothing is attached if `detach`. `tty` and `size` (rows, columns)
    /// are the start request's.
    pub async fn exec_start(
        &self,
        id: &str,
        detach: bool,
        tty: bool,
        size: Option<(u16, u16)>,
    ) -> Result<Option<Attached>> {
        todo!("{id} {detach} {tty} {size:?}")
    }

    /// A process made by [`Engine::exec_create`].
    pub fn exec(&self, id: &str) -> Result<ExecView> {
        todo!("{id}")
    }

    /// Sets the size of an exec'd process's terminal.
    pub async fn exec_resize(&self, id: &str, rows: u16, columns: u16) -> Result<()> {
        todo!("{id} {rows} {columns}")
    }

    /// The processes of a container.
    pub fn top(&self, key: &str) -> Result<Processes> {
        todo!("{key}")
    }

    /// Creates a network; the texts are warnings. Blocks.
    pub fn create_network(&self, spec: &NetworkSpec) -> Result<(Arc<Network>, Vec<String>)> {
        todo!("{spec:?}")
    }

    /// The network with this full id, exact name or unique id prefix.
    pub fn network(&self, key: &str) -> Result<Arc<Network>> {
        todo!("{key}")
    }

    /// All networks, by name.
    pub fn networks(&self) -> Vec<Arc<Network>> {
        todo!()
    }

    /// The endpoints on a network, each with its container (`None` if it has another owner).
    pub fn endpoints_of(
        &self,
        network: &NetworkId,
    ) -> Vec<(Arc<Endpoint>, Option<Arc<Container>>)> {
        todo!("{network}")
    }

    /// Removes a network. Blocks.
    pub fn remove_network(&self, key: &str) -> Result<()> {
        todo!("{key}")
    }

    /// Removes the networks nobody uses; returns their names. Blocks.
    pub fn prune_networks(&self, filters: &Filters) -> Result<Vec<String>> {
        todo!("{filters:?}")
    }

    /// Joins a container to a network, whether it runs or not. Blocks.
    pub fn connect(&self, network: &str, container: &str, spec: EndpointSpec) -> Result<()> {
        todo!("{network} {container} {spec:?}")
    }

    /// Takes a container off a network. Blocks.
    pub fn disconnect(&self, network: &str, container: &str, force: bool) -> Result<()> {
        todo!("{network} {container} {force}")
    }
}
