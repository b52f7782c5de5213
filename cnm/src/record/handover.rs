//! What is written down of routes, and of links that somebody else made.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::LinkName;
use crate::endpoint::{Handover, StaticRoute};

#[derive(Serialize, Deserialize)]
pub(super) struct HandoverRecord {
    #[serde(default)]
    link: Option<LinkName>,
    #[serde(default)]
    gateways: Vec<IpAddr>,
    #[serde(default)]
    routes: Vec<RouteRecord>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct RouteRecord {
    pub(super) destination: IpNetwork,
    #[serde(default)]
    pub(super) via: Option<IpAddr>,
}

impl From<HandoverRecord> for Handover {
    fn from(record: HandoverRecord) -> Self {
        let HandoverRecord { link, gateways, routes } = record;
        Self { link, gateways, routes: routes.into_iter().map(StaticRoute::from).collect() }
    }
}

impl From<Handover> for HandoverRecord {
    fn from(handover: Handover) -> Self {
        let Handover { link, gateways, routes } = handover;
        Self { link, gateways, routes: routes.into_iter().map(RouteRecord::from).collect() }
    }
}

impl From<RouteRecord> for StaticRoute {
    fn from(record: RouteRecord) -> Self {
        let RouteRecord { destination, via } = record;
        Self { destination, via }
    }
}

impl From<StaticRoute> for RouteRecord {
    fn from(route: StaticRoute) -> Self {
        let StaticRoute { destination, via } = route;
        Self { destination, via }
    }
}
