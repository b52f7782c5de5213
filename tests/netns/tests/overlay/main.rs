//! One network over many hosts: machines on a switch, etcd, and what becomes of them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod churn;
mod faults;
mod pains;
mod promises;
mod scene;
mod several;
